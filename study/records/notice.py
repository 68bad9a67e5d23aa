"""A notice that a command's time runs out: SIGUSR1, as a batch system sends it.

The command keeps the signal blocked and passes it on to its workers, in which it
stays pending. Nothing is interrupted: training asks after every step, saves a
checkpoint and ends. Processes that train one run together take no notice, because
each would have to stop at the same step.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from study.errors import StoppedError
from study.records.processes import n_processes

NOTICE = signal.SIGUSR1


LOOK_EVERY_S = 0.5
"""How often a command looks whether it was told, and for workers that were not."""


_told = threading.Event()


@contextmanager
def noticing() -> Iterator[None]:
    """Take notice of SIGUSR1 while the block runs, instead of dying of it."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    if n_processes() > 1 or not is_main_thread:
        yield
        return
    ended = threading.Event()
    # Blocked for the threads and workers that begin from here on; the handler is for
    # a thread that a library began before.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {NOTICE})
    previous = signal.signal(NOTICE, lambda *_: _told.set())
    thread = threading.Thread(target=_listen, args=(ended,), name="notice", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.sigtimedwait({NOTICE}, 0)  # it stays pending until here
        signal.signal(NOTICE, previous)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _told.clear()


def is_noticed() -> bool:
    """Tell whether this process, or the command that it works for, is to end soon."""
    return _told.is_set() or NOTICE in signal.sigpending()


def heed() -> None:
    """Begin nothing more once the notice is there.

    Raises:
        StoppedError: it is.
    """
    if is_noticed():
        raise StoppedError(
            "stopped by SIGUSR1 before its time ran out; checkpoints are saved and what was "
            "finished is kept, the same command goes on from there"
        )


def _listen(ended: threading.Event) -> None:
    """Look for the notice; once it is there, tell every worker, those too that begin later.

    `signal.sigtimedwait` returns a signal that nobody sent where a pause (SIGSTOP, SIGCONT)
    outlasts its time, so the notice is not waited for.
    """
    passed_on: set[int] = set()
    while not ended.wait(LOOK_EVERY_S):
        if not is_noticed():
            continue
        _told.set()
        for worker in multiprocessing.active_children():
            if worker.pid is not None and worker.pid not in passed_on:
                passed_on.add(worker.pid)
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, NOTICE)
