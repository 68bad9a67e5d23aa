"""Independent jobs in worker processes, with progress and clean ends.

The parent trains nothing: every worker starts fresh (``spawn``), sets its
threads and its GPU first, and keeps the base model of its recipe from one job
to the next. Each worker talks over a pipe of its own, so one that is killed
cannot block the others. A worker that dies, or whose device fails, is replaced
by a fresh process and its job tried once more; one whose parent dies ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from study.config.environment import quieten
from study.config.recipe import Recipe
from study.errors import RecordError, StudyError
from study.model.jobs import Job, Report
from study.workers.devices import Slot
from study.workers.mendable import mendable
from study.workers.progress import Display, open_display

OpenWorkbench = Callable[[Recipe, str, Report], Any]
"""``open_workbench(recipe, device, report)``, called once per recipe and worker."""


EXIT_AGAIN_S = 2.0
"""Longer than what a stopping worker writes, shorter than its grace."""


STOP_GRACE_S = 5.0
"""Time that a stopped worker has to end by itself before it is killed."""


ATTEMPTS = 2
"""Workers that a job may lose before it is reported."""


REPLACED = ("died", "device")
"""Messages after which a worker's process is of no more use."""


DEVICE_FAILURES = ("AcceleratorError", "CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL error")
"""Words of errors after which a process cannot use its device any more."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    slots: Sequence[Slot],
    quiet: bool = False,
    open_workbench: OpenWorkbench | None = None,
) -> list[Any]:
    """Run jobs in worker processes and return their results in the jobs' order.

    A failed job does not stop the others: what they finish is kept.

    Raises:
        StudyError: the first one that a job raised, or two workers died of a job.
        RuntimeError: a job failed in a way no user can mend; with its traceback.
        KeyboardInterrupt: SIGINT or SIGTERM; all workers have ended.
    """
    workers = [_Worker(slot, open_workbench or _open_workbench) for slot in slots[: len(jobs)]]
    books = _Books(jobs)
    with terminable(), open_display([job.name for job in jobs], quiet=quiet) as display:
        try:
            while books.pending or any(worker.job is not None for worker in workers):
                _hand_out(books, workers, display)
                for worker in _ready(workers):
                    _receive(books, worker, display)
        finally:
            _stop(workers)
    if books.failures:
        raise books.failures[0]
    return [books.results[index] for index in range(len(jobs))]


class _Books:
    """What the parent knows of its jobs, by their index."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.pending = list(range(len(jobs)))
        self.results: dict[int, Any] = {}
        self.failures: list[Exception] = []
        self.n_lost = [0] * len(jobs)


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
            _stop([self])
            self.process = self.recipe = None
        return kind, content

    def _start(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        environment = dict(self.slot.environment)
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._pipe, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, self.slot.device, environment, self._open_workbench)
        )
        with closing(theirs):
            process.start()  # may fail at a limit of processes; then there is none to stop
        self.process = process


def _hand_out(books: _Books, workers: Sequence[_Worker], display: Display) -> None:
    for worker in workers:
        if worker.job is None and books.pending:
            index = _choose(books.jobs, books.pending, worker, workers)
            books.pending.remove(index)
            worker.give(index, books.jobs[index])
            display.start(index)


def _choose(
    jobs: Sequence[Job], pending: Sequence[int], worker: _Worker, workers: Sequence[_Worker]
) -> int:
    """Prefer the recipe that a worker has open, then one that no other has."""
    others = [other.recipe for other in workers if other is not worker]
    own = [index for index in pending if jobs[index].recipe == worker.recipe]
    free = [index for index in pending if jobs[index].recipe not in others]
    return (own or free or pending)[0]


def _ready(workers: Sequence[_Worker]) -> Iterator[_Worker]:
    handles = {worker.handle(): worker for worker in workers if worker.handle() is not None}
    for handle in wait(list(handles)):  # type: ignore[arg-type]
        yield handles[handle]  # type: ignore[index]


def _receive(books: _Books, worker: _Worker, display: Display) -> None:
    index = worker.job
    assert index is not None
    kind, content = worker.receive()
    if kind == "progress":
        display.update(index, *content)
        return
    worker.job = None
    if kind == "done":
        books.results[index] = content
        display.finish(index, "done")
        return
    books.n_lost[index] += kind in REPLACED
    if kind in REPLACED and books.n_lost[index] < ATTEMPTS:
        books.pending.insert(0, index)
        display.finish(index, f"{_cause(kind, content)}; a fresh worker tries once more")
        return
    books.failures.append(_failure(books.jobs[index].name, kind, content))
    first_line, _, _ = str(books.failures[-1]).partition("\n")
    display.finish(index, f"failed: {first_line}")


def _failure(name: str, kind: str, content: Any) -> Exception:
    if kind == "study-error":
        error, message = content
        return error(message)  # type: ignore[no-any-return]
    if kind == "bug":
        return RuntimeError(f"{name} failed in its worker:\n{content}")
    hint = "; the machine may have run out of memory" if content == -signal.SIGKILL else ""
    return StudyError(
        f"{name} failed {ATTEMPTS} times: {_cause(kind, content)}{hint}; what was finished is "
        "kept, the same command goes on from there"
    )


def _cause(kind: str, content: Any) -> str:
    if kind == "device":
        return f"its device failed: {content}"
    how = f"signal {-content}" if content < 0 else f"exit status {content}"
    return f"the worker ended by {how}"


def _stop(workers: Sequence[_Worker]) -> None:
    processes = [worker.process for worker in workers if worker.process is not None]
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(STOP_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, with KeyboardInterrupt."""
    try:
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread, which alone receives signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


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
    sys.unraisablehook = _say_unless_stopping
    watcher = threading.Thread(target=_end_with_parent, name="parent", daemon=True)
    os.environ.update(environment)
    quieten()
    bench: Any = None
    opened: Recipe | None = None

    def report(done: float, total: float, note: str) -> None:
        pipe.send(("progress", (done, total, note)))

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            job: Job = pipe.recv()
            try:
                if not watcher.is_alive():
                    watcher.start()
                if opened != job.recipe:
                    report(0, 1, "loading model and data")
                    bench = opened = None
                    bench = open_workbench(job.recipe, device, report)
                    opened = job.recipe
                pipe.send(("done", job.work(bench, report)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except StudyError as error:
                pipe.send(("study-error", (type(error), str(error))))
            except Exception as error:  # noqa: BLE001 - the parent raises it
                pipe.send(_told(error))


def _told(error: Exception) -> tuple[str, Any]:
    """Turn an error into the message that tells the parent what to do about it."""
    message = mendable(error)
    if message is not None:
        return "study-error", (RecordError, message)
    first_line, _, _ = f"{type(error).__name__}: {error}".partition("\n")
    if any(words in first_line for words in DEVICE_FAILURES):
        return "device", first_line
    return "bug", "".join(traceback.format_exception(error))


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
