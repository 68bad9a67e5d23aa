"""Trials as rows: what a search tried, and what became of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.records.files import append_jsonl, cut_half_line, read_jsonl, write_jsonl
from study.records.layout import TRIALS
from study.records.locks import hold
from study.search import orphans
from study.search.objectives import SCORES

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def trial_rows(optuna_study: optuna.Study) -> list[dict[str, Any]]:
    """Return the finished trials as rows of ``trials.jsonl``."""
    return [_trial_row(trial) for trial in in_state(optuna_study, FINISHED)]


def place_of(optuna_study: optuna.Study, number: int) -> int:
    """Count the trials before this one that are finished, running or waiting."""
    return sum(
        trial.number < number and trial.state != TrialState.FAIL
        for trial in optuna_study.get_trials(deepcopy=False)
    )


def is_repeated(optuna_study: optuna.Study, number: int) -> bool:
    """Tell whether another worker has enqueued the same settings for the same reason."""
    everything = optuna_study.get_trials(deepcopy=False)
    reasons = ("published", orphans.RETRY_OF)
    own = {key: everything[number].user_attrs.get(key) for key in reasons}
    return any(
        own[key] is not None
        and trial.user_attrs.get(key) == own[key]
        and trial.state != TrialState.FAIL
        for trial in everything[:number]
        for key in reasons
    )


def write_trials(optuna_study: optuna.Study, folder: Path) -> None:
    """Write ``trials.jsonl``; never an older state over a newer one."""
    with hold(folder / ".trials.lock", wait=True):
        write_jsonl(folder / TRIALS, trial_rows(optuna_study))


class GrowingFile:
    """``trials.jsonl`` while a search goes on: every finished trial is written once.

    Several workers append to it, each under the lock; a worker reads what the
    others added since it looked, never the whole file again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / TRIALS
        self._inode, self._size = -1, 0
        self._written: set[int] = set()

    def add(self, optuna_study: optuna.Study) -> None:
        """Append the finished trials that the file lacks.

        Raises:
            RecordError: it is damaged, or cannot be written.
        """
        with hold(self._folder / ".trials.lock", wait=True):
            self._read_on()
            for trial in in_state(optuna_study, FINISHED):
                if trial.number not in self._written:
                    append_jsonl(self._path, _trial_row(trial))
            self._read_on()

    def _read_on(self) -> None:
        """Learn what was appended since, and cut half a line that a crash left at the end."""
        if not self._path.exists():
            self._inode, self._size, self._written = -1, 0, set()
            return
        found = self._path.stat()
        if found.st_ino != self._inode or found.st_size < self._size:  # another file by now
            self._inode, self._size, self._written = found.st_ino, 0, set()
        size = cut_half_line(self._path, self._size)
        self._written |= {row["number"] for row in read_jsonl(self._path, start=self._size)}
        self._size = size


def _trial_row(trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    diverged = attributes["status"] == "diverged"
    last = attributes["intermediate"][-1] if attributes["intermediate"] and not diverged else {}
    return {
        "number": trial.number,
        "state": attributes["status"],
        "settings": dict(trial.params),
        "value": None if diverged else trial.value,
        **{name: last.get(name) for name in SCORES},
        "published": attributes.get("published"),
        "sampled": attributes.get("sampled"),
        "intermediate": attributes["intermediate"],
        "seconds": attributes["seconds"],
        "seed": attributes["seed"],
    }


def in_state(optuna_study: optuna.Study, states: Sequence[TrialState]) -> list[FrozenTrial]:
    """Return the trials in any of the states, in their order."""
    return optuna_study.get_trials(deepcopy=False, states=states)
