"""Optuna's dashboard on all searches of a folder and a database, to look at only."""

import importlib.util
import socketserver
import threading
import warnings
import wsgiref.simple_server
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NoReturn
from wsgiref.types import StartResponse, WSGIEnvironment

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.errors import ConfigError, RecordError, require
from study.records.layout import JOURNAL, SEARCH
from study.search.database import opened
from study.search.storage import journal

READING = ("GET", "HEAD")


MOST_STORAGES = 10_000
"""More than there can be."""


@contextmanager
def serving(
    runs: Path, storages: Sequence[str], *, host: str, port: int
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Open the dashboard; yield its address and a function that waits for Ctrl-C.

    Args:
        runs: folder of all records; searches that begin later show up too.
        storages: URLs of databases.
        host: address to listen on.
        port: 0 takes any that is free.

    Raises:
        ConfigError: the dashboard is not installed, the port is taken, or a database
            cannot be used.
        RecordError: there is nothing to show.
    """
    require(
        importlib.util.find_spec("optuna_dashboard") is not None,
        "the dashboard is not installed: pip install 'orpo-study[dashboard]', in this project's "
        "folder pip install '.[dashboard]'",
    )
    everything = AllSearches(runs, [opened(one) for one in storages])
    if not storages and not everything.get_all_studies():
        raise RecordError(
            f"there is no search in {runs}; begin with study search, or name --runs or --storage"
        )
    try:
        server = wsgiref.simple_server.make_server(
            host, port, _app(everything), _Server, _QuietHandler
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    thread = threading.Thread(target=server.serve_forever, name="dashboard", daemon=True)
    thread.start()
    try:
        yield f"http://{shown}:{server.server_port}/", thread.join
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _app(storage: BaseStorage) -> Callable[[WSGIEnvironment, StartResponse], Any]:
    """Return the dashboard without what it could change: a look must not move a search."""
    from optuna_dashboard import wsgi

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental parts that are not used
        app = wsgi(storage)

    def read_only(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        if environ["REQUEST_METHOD"] in READING:
            return app(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json")])
        return [b'{"reason": "searches are shown here, not changed"}']

    return read_only


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing of each request."""


class AllSearches(BaseStorage):
    """Many storages as one, to read from.

    Each has numbers of its own for searches and trials; here they are followed by
    the storage's place. New journals get places behind the others.
    """

    def __init__(self, runs: Path, databases: Sequence[BaseStorage]) -> None:
        """Show the journals below a folder, and databases."""
        self._runs = runs
        self._parts: list[BaseStorage] = list(databases)
        self._journals: set[Path] = set()
        self._lock = threading.Lock()

    def get_all_studies(self) -> list[Any]:
        """List the searches of all storages, new journals among them."""
        found = []
        for place, part in enumerate(self._look()):
            for study in part.get_all_studies():
                shown = copy(study)
                shown._study_id = _numbered(study._study_id, place)  # noqa: SLF001
                found.append(shown)
        return found

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the number of a search.

        Raises:
            KeyError: there is none of this name.
        """
        for study in self.get_all_studies():
            if study.study_name == study_name:
                return int(study._study_id)  # noqa: SLF001
        raise KeyError(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return a search's name."""
        part, number = self._part(study_id)
        return part.get_study_name_from_id(number)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return what a search minimises."""
        part, number = self._part(study_id)
        return part.get_study_directions(number)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return a search's attributes."""
        part, number = self._part(study_id)
        return part.get_study_user_attrs(number)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return a search's attributes that Optuna set."""
        part, number = self._part(study_id)
        return part.get_study_system_attrs(number)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        part, number = self._part(trial_id)
        return self._shown(part.get_trial(number), trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return a search's trials."""
        part, number = self._part(study_id)
        trials = part.get_all_trials(number, deepcopy=deepcopy, states=states)
        place = study_id % MOST_STORAGES
        return [self._shown(t, _numbered(t._trial_id, place)) for t in trials]  # noqa: SLF001

    def _look(self) -> list[BaseStorage]:
        with self._lock:
            for path in sorted(self._runs.glob(f"*/{SEARCH}/*/{JOURNAL}")):
                if path not in self._journals and path.stat().st_size:
                    self._journals.add(path)
                    self._parts.append(journal(path))
            return list(self._parts)

    def _part(self, number: int) -> tuple[BaseStorage, int]:
        return self._parts[number % MOST_STORAGES], number // MOST_STORAGES

    @staticmethod
    def _shown(trial: FrozenTrial, number: int) -> FrozenTrial:
        shown = copy(trial)
        shown._trial_id = number  # noqa: SLF001
        return shown

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise optuna.exceptions.StorageInternalError("searches are shown here, not changed")

    create_new_study = delete_study = create_new_trial = _refuse
    set_study_user_attr = set_study_system_attr = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


def _numbered(number: int, place: int) -> int:
    return number * MOST_STORAGES + place
