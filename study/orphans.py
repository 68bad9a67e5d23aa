"""Trials left RUNNING by a worker that died: found, retired, tried again.

A worker holds a lock on a file of its own while it lives, and writes the
file's id into its trials. The lock goes when the process goes, however it
ends, so a trial whose file is no longer locked has nobody to finish it.
"""

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.locks import hold, is_held

PREFIX = ".worker-"


@contextmanager
def lease(folder: Path) -> Iterator[str]:
    """Yield an id that other processes see alive until this block ends."""
    worker = uuid.uuid4().hex
    path = folder / f"{PREFIX}{worker}"
    try:
        with hold(path):
            yield worker
    finally:
        path.unlink(missing_ok=True)


def has_worker(folder: Path) -> bool:
    """Tell whether a living worker searches in a folder."""
    return any(is_held(path) for path in folder.glob(f"{PREFIX}*"))


def retire(optuna_study: optuna.Study, folder: Path, *, shared: bool) -> int:
    """Fail the running trials of dead workers, queue their settings again.

    Args:
        optuna_study: the search.
        folder: where the workers of this machine keep their locks.
        shared: machines with other folders may use the storage too; then a
            trial without a lock file here is left alone.

    Returns:
        How many trials were retired.
    """
    files = {path.name.removeprefix(PREFIX): path for path in folder.glob(f"{PREFIX}*")}
    alive = {worker for worker, path in files.items() if is_held(path)}
    dead = [
        trial.number
        for trial in optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if _is_dead(trial, alive, files.keys(), shared=shared)
    ]
    for number in dead:
        give_back(optuna_study, number)
    for worker in files.keys() - alive:
        files[worker].unlink(missing_ok=True)
    return len(dead)


def give_back(optuna_study: optuna.Study, number: int) -> None:
    """End a running trial as failed, so that it does not count, and queue it again."""
    trial = optuna_study.get_trials(deepcopy=False)[number]
    optuna_study.tell(number, state=TrialState.FAIL)
    settings = trial.system_attrs.get("fixed_params") or trial.params
    kept: dict[str, Any] = {
        key: trial.user_attrs[key] for key in ("published", "sampled") if key in trial.user_attrs
    }
    if settings:
        optuna_study.enqueue_trial(dict(settings), user_attrs=kept)


def _is_dead(trial: FrozenTrial, alive: set[str], known: Collection[str], *, shared: bool) -> bool:
    worker = trial.user_attrs.get("worker")
    if worker is None:  # its worker was killed, or is just now, between two writes
        return not alive and not shared
    return worker not in alive and (worker in known or not shared)
