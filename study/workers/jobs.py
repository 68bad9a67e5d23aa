"""Jobs in worker processes of this machine.

The parent trains nothing. A worker on a GPU starts fresh (``spawn``) and sets
its GPU before it imports torch; one on the CPU is forked, on Linux, from a
process that has imported what a run needs and no more (``forkserver``), because
that takes longer than many a trial. A worker keeps the base model of its recipe
from one job to the next. Each talks over a pipe of its own, so one that is
killed cannot block the others; one whose parent dies ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from study.config.environment import quieten
from study.config.recipe import Recipe
from study.model.jobs import Job, Report
from study.records.notice import NOTICE
from study.workers.devices import Slot
from study.workers.exchange import REPLACED, run_on, serve, stop

OpenWorkbench = Callable[[Recipe, str, Report], Any]
"""``open_workbench(recipe, device, report)``, called once per recipe and worker."""


EXIT_AGAIN_S = 2.0
"""Longer than what a stopping worker writes, shorter than its grace."""


STOP_GRACE_S = 5.0
"""Time that a stopped worker has to end by itself before it is killed."""


PRELOADED = ("study.workers.preload",)
"""What is imported once for all workers on the CPU. Modules that read the environment as they
are imported see that of the first worker."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    slots: Sequence[Slot],
    quiet: bool = False,
    open_workbench: OpenWorkbench | None = None,
) -> list[Any]:
    """Run jobs in worker processes, as ``run_on`` does."""
    workers = [_Worker(slot, open_workbench or _open_workbench) for slot in slots[: len(jobs)]]
    return run_on(workers, jobs, quiet=quiet)


class _Worker:
    """The parent's side of one worker process; started when first needed."""

    def __init__(self, slot: Slot, open_workbench: OpenWorkbench) -> None:
        self.slot = slot
        self.job: int | None = None
        self.recipe: Recipe | None = None
        self.process: multiprocessing.process.BaseProcess | None = None
        self._open_workbench = open_workbench
        self._pipe: Connection | None = None

    def give(self, index: int, job: Job) -> None:
        if self.process is None or not self.process.is_alive():
            self._start(job.recipe.training.threads)
        assert self._pipe is not None
        self.job, self.recipe = index, job.recipe
        try:
            self._pipe.send(job)
        except BrokenPipeError:  # it died just now
            self._start(job.recipe.training.threads)
            self._pipe.send(job)

    def handle(self) -> Connection | None:
        return self._pipe if self.job is not None else None

    def receive(self) -> tuple[str, Any]:
        """Return the worker's next message, or ``("died", exit code)``."""
        assert self._pipe is not None
        assert self.process is not None
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            kind, content = "died", self.process.exitcode
        if kind in REPLACED:
            stop([self])
            self.process = self.recipe = None
        return kind, content

    def release(self) -> None:
        """Keep the process: its memory is nobody else's, and another job may come."""

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def join(self) -> None:
        if self.process is not None:
            self.process.join(STOP_GRACE_S)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()

    def _start(self, threads: int) -> None:
        context = _context(self.slot.device)
        environment = {**os.environ, **self.slot.environment}
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._pipe, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, self.slot.device, environment, self._open_workbench)
        )
        with closing(theirs):
            process.start()  # may fail at a limit of processes; then there is none to stop
        self.process = process


def _context(device: str) -> ForkServerContext | SpawnContext:
    if device == "cpu" and sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        return context
    return multiprocessing.get_context("spawn")


def _exit(*_: object) -> None:
    """End this process through every ``finally``.

    Python swallows an exception that a signal raises inside a ``__del__``; the
    alarm then tries again.
    """
    signal.signal(signal.SIGALRM, _exit)
    signal.setitimer(signal.ITIMER_REAL, EXIT_AGAIN_S)
    sys.exit(0)


def _say_unless_stopping(unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, SystemExit):
        sys.__unraisablehook__(unraisable)


def _work(
    pipe: Connection,
    device: str,
    environment: Mapping[str, str],
    open_workbench: OpenWorkbench,
) -> None:
    """Take jobs from the pipe until the parent stops this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    signal.signal(signal.SIGTERM, _exit)
    signal.pthread_sigmask(signal.SIG_BLOCK, {NOTICE})
    sys.unraisablehook = _say_unless_stopping
    watcher = threading.Thread(target=_end_with_parent, name="parent", daemon=True)
    os.environ.clear()  # forked, it has that of the first worker
    os.environ.update(environment)
    quieten()
    if "torch" in sys.modules and (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        sys.modules["torch"].set_num_threads(int(threads))  # OpenMP had read what it was before
    serve(
        pipe,
        lambda recipe, report: open_workbench(recipe, device, report),
        before=lambda: None if watcher.is_alive() else watcher.start(),
    )


def _end_with_parent() -> None:
    """Stop this process once its parent is gone, however that ended.

    A run or trial that nobody waits for would stand in the way of the next start.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_GRACE_S)
    os._exit(1)


def _open_workbench(recipe: Recipe, device: str, report: Report) -> Any:
    from study.model.workbench import open_workbench

    return open_workbench(
        recipe, device=device, progress=lambda what, done, total: report(done, total, what)
    )
