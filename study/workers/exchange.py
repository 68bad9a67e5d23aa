"""What a parent and its workers say to each other, wherever the workers are.

The parent hands each worker a job over a pipe and hears of its progress, its
result or its failure. A worker that is lost, or whose device fails, is replaced
and its job tried once more, and again whenever it comes farther than before.
"""

import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from study.config.recipe import Recipe
from study.errors import RecordError, StoppedError, StudyError
from study.model.jobs import Job, Report
from study.records.notice import heed
from study.workers.mendable import mendable
from study.workers.progress import Display, open_display

ATTEMPTS = 2
"""Workers that a job may lose at the same place before it is reported."""


REPLACED = ("died", "device")
"""Messages after which a worker is of no more use."""


DEVICE_FAILURES = ("AcceleratorError", "CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL error")
"""Words of errors after which a process cannot use its device any more."""


class Worker(Protocol):
    """The parent's side of one worker; it begins when it is first given a job."""

    job: int | None
    """The index of the job that it has."""
    recipe: Recipe | None
    """The recipe whose workbench it has open."""

    def give(self, index: int, job: Job) -> None:
        """Let it do a job."""

    def handle(self) -> Connection | None:
        """Return what can be waited for, while it has a job."""

    def receive(self) -> tuple[str, Any]:
        """Return its next message: a word of ``run_on`` and what belongs to it."""

    def release(self) -> None:
        """Free what others may need: there is no job for it just now."""

    def end(self) -> None:
        """Ask it to end, without waiting."""

    def join(self) -> None:
        """Wait until it has ended, or end it."""


class LostError(Exception):
    """A job's place of work is gone; its arguments are a message to the parent."""


def run_on(workers: Sequence[Worker], jobs: Sequence[Job], *, quiet: bool) -> list[Any]:
    """Let workers run jobs, and return the results in the jobs' order.

    A failed job does not stop the others: what they finish is kept.

    Raises:
        StudyError: the first one that a job raised, or workers were lost of a job.
        RuntimeError: a job failed in a way no user can mend; with its traceback.
        KeyboardInterrupt: SIGINT or SIGTERM; all workers have ended.
    """
    books = _Books(jobs)
    with terminable(), open_display([job.name for job in jobs], quiet=quiet) as display:
        try:
            while books.pending or any(worker.job is not None for worker in workers):
                _hand_out(books, workers, display)
                for worker in _ready(workers):
                    _receive(books, worker, display)
        finally:
            stop(workers)
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
        self.farthest: list[dict[float, float]] = [{} for _ in jobs]
        """How far each was ever, by the total that it told with it."""


def _hand_out(books: _Books, workers: Sequence[Worker], display: Display) -> None:
    for worker in workers:
        if worker.job is not None:
            continue
        if not books.pending:
            worker.release()
            continue
        index = _choose(books.jobs, books.pending, worker, workers)
        books.pending.remove(index)
        worker.give(index, books.jobs[index])
        display.start(index)


def _choose(
    jobs: Sequence[Job], pending: Sequence[int], worker: Worker, workers: Sequence[Worker]
) -> int:
    """Prefer the recipe that a worker has open, then one that no other has."""
    others = [other.recipe for other in workers if other is not worker]
    own = [index for index in pending if jobs[index].recipe == worker.recipe]
    free = [index for index in pending if jobs[index].recipe not in others]
    return (own or free or pending)[0]


def _ready(workers: Sequence[Worker]) -> Iterator[Worker]:
    handles = {worker.handle(): worker for worker in workers if worker.handle() is not None}
    for handle in wait(list(handles)):  # type: ignore[arg-type]
        yield handles[handle]  # type: ignore[index]


def _receive(books: _Books, worker: Worker, display: Display) -> None:
    index = worker.job
    assert index is not None
    kind, content = worker.receive()
    if kind == "progress":
        done, total, _ = content
        if done > books.farthest[index].get(total, 0):
            books.farthest[index][total] = done
            books.n_lost[index] = 0
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
    if isinstance(books.failures[-1], StoppedError):
        books.pending.clear()  # whoever has a job is told the same; nobody begins another
        display.finish(index, "stopped, because time runs out")
        return
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
    if isinstance(content, str):
        return content
    how = f"signal {-content}" if content < 0 else f"exit status {content}"
    return f"the worker ended by {how}"


def stop(workers: Sequence[Worker]) -> None:
    """End workers, all at once."""
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.join()


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


def serve(
    pipe: Connection,
    open_workbench: Callable[[Recipe, Report], Any],
    *,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Take jobs from a worker's end of a pipe until the parent's end is closed.

    Args:
        pipe: what comes of a job is told over it.
        open_workbench: called for a job of another recipe than the last one's.
        before: called before each job; what it raises is told as if the job had.
    """
    bench: Any = None
    opened: Recipe | None = None

    def report(done: float, total: float, note: str) -> None:
        pipe.send(("progress", (done, total, note)))

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            job: Job = pipe.recv()
            try:
                before()
                heed()
                if opened != job.recipe:
                    report(0, 1, "loading model and data")
                    bench = opened = None
                    bench = open_workbench(job.recipe, report)
                    opened = job.recipe
                pipe.send(("done", job.work(bench, report)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - the parent raises it
                pipe.send(told(error))


def told(error: Exception) -> tuple[str, Any]:
    """Turn an error into the message that tells the parent what to do about it."""
    if isinstance(error, LostError):
        kind, content = error.args
        return kind, content
    if isinstance(error, StudyError):
        return "study-error", (type(error), str(error))
    message = mendable(error)
    if message is not None:
        return "study-error", (RecordError, message)
    first_line, _, _ = f"{type(error).__name__}: {error}".partition("\n")
    if any(words in first_line for words in DEVICE_FAILURES):
        return "device", first_line
    return "bug", "".join(traceback.format_exception(error))
