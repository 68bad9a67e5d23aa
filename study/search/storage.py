"""Where Optuna keeps a search: a journal file, or the database that a URL names."""

import contextlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation

from study.config.recipe import Recipe
from study.errors import ConfigError, RecordError
from study.records.layout import JOURNAL
from study.records.locks import hold
from study.search.database import check_behind, connect, lost, told, without_secrets
from study.search.objectives import DIRECTION
from study.search.sampling import pruner

OPENINGS = 5
"""Tries to open a database: workers that make its tables at once get in each other's way."""


OF_A_RUNNING_TRIAL = (
    JournalOperation.SET_TRIAL_PARAM,
    JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
    JournalOperation.SET_TRIAL_USER_ATTR,
    JournalOperation.SET_TRIAL_SYSTEM_ATTR,
)
"""Lines of a journal that need not be on the disk before the trial ends."""


def open_optuna_study(
    folder: Path, recipe: Recipe, arm: str, digest: str, storage: str | None
) -> optuna.Study:
    """Open one arm's search in a storage, or begin it there.

    Raises:
        ConfigError: the storage cannot be opened.
        RecordError: the journal file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for opening in range(1, OPENINGS + 1):
        try:
            opened = connect(storage) if storage else journal(folder / JOURNAL)
            optuna_study = optuna.create_study(
                study_name=f"{recipe.name}/{arm}/{digest[:16]}",
                storage=opened,
                direction=DIRECTION[recipe.search.objective],
                pruner=pruner(recipe, arm),
                load_if_exists=True,
            )
            check_behind(opened)
        except ConfigError:
            raise
        except Exception as error:
            if storage is None:
                raise RecordError(
                    f"{folder / JOURNAL} is damaged ({type(error).__name__}: {error}); restore "
                    "it, or set the old search aside with --fresh"
                ) from error
            if opening == OPENINGS or not isinstance(error, lost()):
                raise ConfigError(
                    f"the search cannot use the storage {without_secrets(storage)!r} "
                    f"({told(error, storage)}); "
                    "give an Optuna storage URL such as sqlite:///study.db, or leave --storage out"
                ) from error
            time.sleep(random.random())
        else:
            return optuna_study
    raise AssertionError


@contextlib.contextmanager
def reachable(storage: str | None) -> Iterator[None]:
    """Say in one message that a database was lost while a search used it."""
    try:
        yield
    except lost() as error:
        if storage is None:
            raise
        raise RecordError(
            f"the storage {without_secrets(storage)!r} was lost ({told(error, storage)}); "
            "finished trials are kept, the same command goes on once it is back"
        ) from error


def journal(path: Path) -> optuna.storages.JournalStorage:
    """Open a journal file, which is made where it is missing."""
    return optuna.storages.JournalStorage(_Journal(path))


class _Journal(JournalFileBackend):
    """A journal that is flushed to disk where a trial, or the search, changes its state.

    Optuna flushes every line, a dozen of each trial. What a killed process wrote
    is never lost; a machine that loses its power may lose what a running trial,
    which is tried again, had reported since.
    """

    def __init__(self, path: Path) -> None:
        self._own_lock = _JournalLock(path)
        self._path = path
        super().__init__(str(path), self._own_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines under the lock."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._own_lock.acquire()
        try:
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                if any(log["op_code"] not in OF_A_RUNNING_TRIAL for log in logs):
                    os.fsync(file.fileno())
        finally:
            self._own_lock.release()


class _JournalLock(JournalFileOpenLock):
    """The lock for writing to a journal; it goes with its process.

    Optuna's own are files, which a kill leaves behind for half a minute.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._held = contextlib.ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock; then take away what a crash or a full disk cut short."""
        lock = self._journal.with_name(f".{self._journal.name}.lock")
        self._held.enter_context(hold(lock, wait=True))
        with self._journal.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and not _ends_line(file):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next writer in."""
        self._held.close()


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
