"""Trials left RUNNING by a worker that died: found, retired, tried again.

A worker holds a lease in the search's folder and writes the lease's name into
its trials. The lease goes when the process goes, however it ends. Workers that
share a storage without sharing a folder see each other by a heartbeat there.
"""

import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from study.records.locks import lease, leases
from study.records.sharing import WORKER

KEPT = ("published", "sampled")
"""Attributes of a trial that its second try keeps."""


GIVEN_BACK, RETRY_OF = "given-back", "retry_of"
"""The search's mark of a trial that ended unfinished; the attribute of its repetition."""


HEARTBEAT_S = 10.0
"""How often a worker shows in a shared storage that it lives."""


DEAD_AFTER_S = 60.0
"""Another machine's worker that gives no sign of life for so long is dead."""


LOOK_EVERY_S = 0.5


@contextmanager
def working(
    optuna_study: optuna.Study, folder: Path, *, trials: int, shared: bool
) -> Iterator[str]:
    """Yield a name that other processes see alive until this block ends.

    Args:
        optuna_study: the search.
        folder: its records on this machine.
        trials: the total that this worker was asked for, shown by the status.
        shared: machines with other folders may use the storage too.
    """
    content = {"host": socket.gethostname(), "pid": os.getpid(), "trials": trials}
    with lease(folder, WORKER, content) as worker:
        if not shared:
            yield worker
            return
        with _heartbeat(optuna_study, worker, content):
            yield worker


def retire(
    optuna_study: optuna.Study, folder: Path, *, names: Collection[str], shared: bool
) -> int:
    """Fail the running trials of dead workers and queue their settings again.

    Where another machine's worker has a trial, this watches its heartbeat: for
    an instant if it lives, for a minute if it does not.

    Args:
        optuna_study: the search.
        folder: its records on this machine.
        names: the hyperparameters that make settings complete.
        shared: machines with other folders may use the storage too.

    Returns:
        How many trials were retired.
    """
    running = _running(optuna_study)  # before the leases: who has a trial has a lease
    found = leases(folder, WORKER)
    alive = {one.name for one in found if one.held}
    known = {one.name for one in found}
    theirs = [trial for trial in running if trial.user_attrs.get(WORKER) not in alive]
    unsure = [trial for trial in theirs if _is_unsure(trial, alive, known, shared=shared)]
    silent = _silent(optuna_study, unsure)
    dead = [trial for trial in theirs if trial not in unsure or trial.number in silent]
    n_retired = sum(give_back(optuna_study, trial.number, names=names) for trial in dead)
    for one in found:
        if not one.held:
            one.path.unlink(missing_ok=True)
    requeue(optuna_study, names=names)
    return n_retired


def give_back(optuna_study: optuna.Study, number: int, *, names: Collection[str]) -> bool:
    """End a running trial as failed, so that it does not count, and queue it again.

    Returns whether it was still running: of several processes only one ends it.
    """
    optuna_study.set_user_attr(f"{GIVEN_BACK}-{number}", True)
    if not tell(optuna_study, number, state=TrialState.FAIL):
        return False
    requeue(optuna_study, names=names)
    return True


def requeue(optuna_study: optuna.Study, *, names: Collection[str]) -> None:
    """Queue the settings of every trial that was given back and not queued since.

    A process killed between the two writes leaves the second one to the next.
    Settings that were not complete are left out: their place draws them again.
    """
    everything, marks = optuna_study.get_trials(deepcopy=False), optuna_study.user_attrs
    queued = {trial.user_attrs.get(RETRY_OF) for trial in everything}
    for trial in everything:
        settings = trial.system_attrs.get("fixed_params") or trial.params
        is_open = trial.state == TrialState.FAIL and f"{GIVEN_BACK}-{trial.number}" in marks
        if is_open and trial.number not in queued and settings.keys() >= set(names):
            kept = {key: trial.user_attrs[key] for key in KEPT if key in trial.user_attrs}
            optuna_study.enqueue_trial(dict(settings), user_attrs={**kept, RETRY_OF: trial.number})


def tell(optuna_study: optuna.Study, number: int, value: float | None = None, **how: Any) -> bool:
    """Tell how a trial ended; return False where another process ended it before.

    That happens to a machine that slept: the others took its trial for dead.
    """
    try:
        optuna_study.tell(number, value, **how)
    except (UpdateFinishedTrialError, ValueError):
        if optuna_study.get_trials(deepcopy=False)[number].state.is_finished():
            return False
        raise
    return True


def _running(optuna_study: optuna.Study) -> Sequence[FrozenTrial]:
    return optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _is_unsure(
    trial: FrozenTrial, alive: Collection[str], known: Collection[str], *, shared: bool
) -> bool:
    """Tell whether only watching shows if a trial's worker lives.

    A trial without a worker was begun just now, or its worker was killed
    between two writes.
    """
    worker = trial.user_attrs.get(WORKER)
    if worker is None:
        return shared or bool(alive)
    return shared and worker not in known


def _silent(optuna_study: optuna.Study, trials: Sequence[FrozenTrial]) -> set[int]:
    """Watch trials and return those without any sign of life, by their numbers.

    Nothing but change counts, so the machines' clocks need not agree.
    """
    silent = {trial.number for trial in trials}
    first = _signs(optuna_study) if silent else {}
    until = time.monotonic() + DEAD_AFTER_S
    while silent and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
        now = _signs(optuna_study)
        silent = {number for number in silent if now[number] == first[number]}
    return silent


def _signs(optuna_study: optuna.Study) -> dict[int, tuple[Any, ...]]:
    beats = optuna_study.user_attrs
    return {
        trial.number: (
            trial.state,
            trial.user_attrs.get(WORKER),
            beats.get(_beat_name(trial.user_attrs.get(WORKER))),
        )
        for trial in optuna_study.get_trials(deepcopy=False)
    }


@contextmanager
def _heartbeat(optuna_study: optuna.Study, worker: str, content: dict[str, Any]) -> Iterator[None]:
    """Count up an attribute of the search in the storage while the block runs."""
    stop = threading.Event()

    def beat(number: int) -> None:
        optuna_study.set_user_attr(_beat_name(worker), {**content, "beat": number})

    def go_on() -> None:
        number = 0
        while not stop.wait(HEARTBEAT_S):
            number += 1
            with suppress(Exception):  # a storage that is away for a while may come back
                beat(number)

    beat(0)
    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(HEARTBEAT_S)


def _beat_name(worker: str | None) -> str:
    return f"{WORKER}-{worker}"
