"""Jobs on the nodes of a Ray cluster (Ray Core; Optuna stays the one that suggests).

Each worker is a thread here, which does the jobs: it asks Optuna, holds locks and
writes records. What it trains with is an actor somewhere in the cluster, one process
with an open workbench, to which folders go and from which they come back. No folder
need be shared, and what a job is given, such as a storage's password, stays here.
"""

import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from study import __version__
from study.config.recipe import Recipe
from study.errors import ConfigError, StudyError, first_line
from study.model.jobs import Elsewhere, Job, Report
from study.records.notice import heed
from study.workers.carrying import files_of, forget_parts, keep_piece, pieces_of
from study.workers.exchange import REPLACED, LostError, run_on, serve
from study.workers.places import Ask, Place
from study.workers.trainer import Trainer

HIRES = 20
"""Actors tried one after the other before a worker counts as lost: a node that died just now
is given some until its death is noticed."""


HIRE_AGAIN_S = 2.0

KNOCK_S = 10.0

STOP_GRACE_S = 5.0
"""Time that a stopped worker has to give back what it works on."""


class _StoppedError(BaseException):
    """The command ends; like KeyboardInterrupt nothing but cleaning up catches it."""


def open_ray(ask: Ask) -> Place:
    """Connect to a Ray cluster and count the workers that it carries.

    Raises:
        ConfigError: Ray is not installed, the cluster is not there, or no node of it
            has what a recipe needs.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "--on ray needs Ray: pip install 'orpo-study[cluster]', in this project's folder "
            "pip install '.[cluster]'"
        )
    if ask.device.startswith("cuda:"):
        raise ConfigError(f"--device {ask.device} is one of this machine; on Ray give cuda or cpu")
    if ask.address.startswith("ray://"):
        raise ConfigError(
            f"--on ray:{ask.address} is an address of Ray's client, which is not supported; run "
            "the command on a machine of the cluster, with --on ray"
        )
    _connect(ask.address)
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(node.get("GPU") for node in nodes)
    device = "cuda" if ask.device == "cuda" or (ask.device == "auto" and has_gpus) else "cpu"
    needs = {recipe.name: _needs(recipe, device, nodes) for recipe in ask.recipes}
    n_workers = ask.workers or min(_n_fitting(one, nodes) for one in needs.values())
    if not n_workers:
        listed = "; ".join(
            f"{name} needs {one['num_cpus']:g} CPUs and {one['num_gpus']:g} GPUs"
            for name, one in needs.items()
        )
        raise ConfigError(
            f"no node of the Ray cluster has what a run takes: {listed}; set training.threads or "
            "training.gpus, or give --workers to wait for nodes that are to come"
        )
    return _Cluster(ask=ask, device=device, needs=needs, sharing=n_workers)


def _connect(address: str) -> None:
    """Join a cluster, or start one here, without a word of Ray's on the terminal."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    private = ray._private  # noqa: SLF001 - no public switch keeps its lines off the terminal
    private.worker._worker_logs_enabled = False  # noqa: SLF001
    # Ray would log the whole command line, in which a password may stand.
    private.utils.get_entrypoint_name = lambda: "study"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address or os.environ.get("RAY_ADDRESS", ""))
        ray.init(
            address=address or None,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            include_dashboard=False,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"cannot join the Ray cluster {address or 'of this machine'} "
            f"({first_line(error)}); `ray status` shows one, `ray start --head` begins one, and "
            "this command has to run on one of its machines"
        ) from error
    finally:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, on_sigterm)


def _knock(address: str) -> None:
    """Fail at once where nothing listens; Ray would try, and say so, for four minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _needs(recipe: Recipe, device: str, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what an actor of a recipe takes of its node."""
    gpus = recipe.training.gpus if device == "cuda" else 0
    every_core = max((node.get("CPU", 0) for node in nodes), default=0)
    cpus = recipe.training.threads or (1 if gpus else max(1, every_core))
    return {"num_cpus": cpus, "num_gpus": gpus}


def _n_fitting(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    asked = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"]}
    return sum(min(int(node.get(name, 0) / n) for name, n in asked.items() if n) for node in nodes)


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    ask: Ask
    device: str
    needs: Mapping[str, Mapping[str, float]]
    """By the names of recipes, what an actor takes of its node."""
    sharing: int

    def run_jobs(self, jobs: Sequence[Job]) -> list[Any]:
        workers = [_Worker(self) for _ in range(min(self.sharing, len(jobs)))]
        return run_on(workers, jobs, quiet=self.ask.quiet)

    def hire(self, recipe: Recipe) -> Any:
        """Ask for an actor; Ray starts it once a node has room."""
        import ray

        threads = str(recipe.training.threads)
        environment = (
            {} if threads == "0" else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        )
        if self.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        if trackers := os.environ.get("ORPO_STUDY_TRACKERS"):
            environment["ORPO_STUDY_TRACKERS"] = trackers
        actor: Any = ray.remote(Trainer)
        return actor.options(scheduling_strategy="SPREAD", **self.needs[recipe.name]).remote(
            environment
        )


class _Worker:
    """A thread that does jobs, and the actor that it has just now."""

    def __init__(self, cluster: _Cluster) -> None:
        self.cluster = cluster
        self.job: int | None = None
        self.recipe: Recipe | None = None
        self._thread: threading.Thread | None = None
        self._pipe: Connection | None = None
        self._far: _Far | None = None

    def give(self, index: int, job: Job) -> None:
        if self._thread is None:
            self._far = _Far(self.cluster)
            self._pipe, theirs = multiprocessing.Pipe()
            self._thread = threading.Thread(target=_work, args=(theirs, self._far), daemon=True)
            self._thread.start()
        assert self._pipe is not None
        self.job, self.recipe = index, job.recipe
        self._pipe.send(job)

    def handle(self) -> Connection | None:
        return self._pipe if self.job is not None else None

    def receive(self) -> tuple[str, Any]:
        assert self._pipe is not None
        kind, content = self._pipe.recv()
        if kind in REPLACED:
            self.release()
        return kind, content

    def release(self) -> None:
        """Let the actor go: a worker that waits for a node may need its room."""
        self.end()
        self.join()
        self.recipe = None

    def end(self) -> None:
        if self._far is not None and self._pipe is not None:
            self._far.stop()
            self._pipe.close()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(STOP_GRACE_S)
            self._thread = self._pipe = self._far = None


def _work(pipe: Connection, far: "_Far") -> None:
    with closing(pipe), suppress(_StoppedError):
        serve(pipe, far.open)


class _Far(Elsewhere):
    """A workbench in an actor."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._stopped = threading.Event()
        self._actor: Any = None

    def open(self, recipe: Recipe, report: Report) -> "_Far":
        """Have the workbench of a recipe opened on some node."""
        report(0, 1, "waiting for a node")
        self._let_go()
        self.recipe = recipe
        versions = self._hire()
        if versions["study"] != __version__:
            raise ConfigError(
                f"a node of the cluster has orpo-study {versions['study']}, this machine "
                f"{__version__}; install the same version everywhere"
            )
        message = self._call("open", recipe, self._cluster.device)
        self.facts = self._listen(message, {"report": report}, None)
        return self

    def do(self, work: Callable[..., Any], *, writes: Path, **given: Any) -> Any:
        """Send the folders, let the work be done there, and keep what comes back."""
        forget_parts(writes)
        read = [one.folder.path for one in given.values() if hasattr(one, "folder")]
        for folder in {writes, *read}:
            for name in files_of(folder):
                for piece in pieces_of(folder / name):
                    self._call("keep", folder, name, *piece)
        functions = {name: value for name, value in given.items() if callable(value)}
        data = {name: value for name, value in given.items() if name not in functions}
        message = self._call("begin", work, writes, list(functions), data)
        return self._listen(message, functions, writes)

    def stop(self) -> None:
        """Break off whatever is under way, from another thread."""
        self._stopped.set()
        self._let_go()

    def _hire(self) -> dict[str, str]:
        """Get an actor that lives; return the versions that it has."""
        for _ in range(HIRES):
            self._actor = self._cluster.hire(self.recipe)
            if self._stopped.is_set():
                self._let_go()
            with suppress(LostError):
                versions: dict[str, str] = self._call("about")
                return versions
            self._stopped.wait(HIRE_AGAIN_S)
        raise LostError("died", "no node of the cluster could start a worker")

    def _let_go(self) -> None:
        import ray

        if self._actor is not None:
            with suppress(Exception):  # it is gone already, or the whole cluster is
                ray.kill(self._actor)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except RayError as error:
            if self._stopped.is_set():
                raise _StoppedError from None
            if isinstance(error, RayActorError) and error.actor_init_failed:
                *_, cause = str(error).strip().splitlines()
                raise ConfigError(
                    f"a node of the cluster cannot start a worker ({cause.strip()}); install the "
                    "same version of orpo-study on every node"
                ) from None
            if isinstance(error, RayTaskError):
                raise
            scarce = isinstance(error, OutOfMemoryError)
            cause = "its node ran out of memory" if scarce else "its node or process was lost"
            raise LostError("died", cause) from None

    def _listen(
        self, message: tuple[str, Any], functions: Mapping[str, Any], folder: Path | None
    ) -> Any:
        """Answer the actor's questions until its work has ended; return the result."""
        while True:
            kind, content = message
            if kind == "done":
                return content
            if kind == "study-error":
                error, text = content
                raise error(text)
            if kind not in ("call", "file", "gone"):
                raise LostError(kind, content)
            try:
                heed()
                answer = _answer(kind, content, functions, folder)
            except BaseException:
                with suppress(StudyError, LostError, _StoppedError):
                    self._call("give_up")
                raise
            message = self._call("go_on", answer)


def _answer(
    kind: str, content: Sequence[Any], functions: Mapping[str, Any], folder: Path | None
) -> Any:
    if kind == "call":
        name, *arguments = content
        return functions[name](*arguments)
    assert folder is not None
    if kind == "file":
        name, *piece = content
        keep_piece(folder / name, *piece)
    else:
        for name in content[0]:
            (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # not empty yet
                for parent in (folder / name).parents[: name.count("/")]:
                    parent.rmdir()
    return None
