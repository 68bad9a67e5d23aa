"""The far end of a workbench: a process that trains what a driver on another machine asks for.

Each call returns the trainer's next message: a question to the driver, whose
answer ``go_on`` takes, or how the work ended. The training itself runs in one
thread of its own, which waits while a message is under way.
"""

import dataclasses
import os
import queue
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

from study.config.canonical import digest
from study.config.environment import quieten, versions
from study.config.recipe import Recipe
from study.records.locks import hold, is_held
from study.records.runs import RunFolder
from study.run.checkpoints import SAVED
from study.workers.carrying import State, files_of, keep_piece, pieces_of
from study.workers.exchange import told

Message = tuple[str, Any]


class GivenUpError(Exception):
    """The driver wants nothing more of the work under way."""


class Trainer:
    """One workbench, and the folders that its work needs."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Set what has to stand in the environment before torch is imported."""
        os.environ.update(environment)
        quieten()
        self._held = ExitStack()
        self._scratch = _scratch(self._held)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training")
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workbench: Any = None
        self._writes: Path | None = None
        self._sent: dict[str, State] = {}
        self._given_up = False

    def about(self) -> dict[str, str]:
        """Return the versions of what stands here."""
        return versions()

    def open(self, recipe: Recipe, device: str) -> Message:
        """Open the workbench of a recipe; its facts are the result."""
        return self._begin(self._open, recipe, device)

    def keep(self, folder: Path, name: str, piece: bytes, first: bool, last: bool) -> None:
        """Keep a piece of a file that stands in a folder of the driver's."""
        keep_piece(self._place(folder) / name, piece, first, last)

    def begin(
        self, work: Callable[..., Any], writes: Path, functions: list[str], given: dict[str, Any]
    ) -> Message:
        """Begin work with the workbench; of ``functions`` the driver has what they name."""
        self._writes = self._place(writes)
        self._writes.mkdir(parents=True, exist_ok=True)
        self._sent = files_of(self._writes)
        here = {name: self._here(value, writes) for name, value in given.items()}
        asked = {name: partial(self._ask, "call", name) for name in functions}
        return self._begin(self._do, work, here | asked)

    def go_on(self, answer: Any) -> Message:
        """Take the answer to the last message."""
        self._answers.put(answer)
        return self._messages.get()

    def give_up(self) -> None:
        """End the work under way."""
        self._given_up = True
        self.go_on(None)

    def _begin(self, work: Callable[..., Any], *arguments: Any) -> Message:
        self._given_up = False
        self._thread.submit(self._tell_end, work, *arguments)
        return self._messages.get()

    def _tell_end(self, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            message = "done", work(*arguments)
        except Exception as error:  # noqa: BLE001 - the driver raises it
            message = told(error)
        self._messages.put(message)

    def _ask(self, kind: str, *content: Any) -> Any:
        if self._given_up:
            raise GivenUpError
        self._messages.put((kind, content))
        answer = self._answers.get()
        if self._given_up:
            raise GivenUpError
        return answer

    def _open(self, recipe: Recipe, device: str) -> Any:
        from study.model.jobs import resolved_facts
        from study.model.workbench import open_workbench

        self._workbench = open_workbench(
            recipe,
            device=device,
            progress=lambda what, done, total: self._ask("call", "report", done, total, what),
        )
        return resolved_facts(self._workbench)

    def _do(self, work: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        SAVED.append(self._send)
        try:
            result = work(self._workbench, **given)
            assert self._writes is not None
            self._send(self._writes)
        finally:
            SAVED.remove(self._send)
            rmtree(self._scratch, ignore_errors=True)
        return result

    def _send(self, folder: Path) -> None:
        """Send what is new in the folder that is written to, then name what is gone."""
        if folder != self._writes:
            return
        found = files_of(folder)
        for name in [name for name in found if found[name] != self._sent.get(name)]:
            for piece in pieces_of(folder / name):
                self._ask("file", name, *piece)
        self._ask("gone", sorted(self._sent.keys() - found.keys()))
        self._sent = found

    def _place(self, folder: Path) -> Path:
        """Return where a folder of the driver's is here, under names that messages may give."""
        return self._scratch / digest(str(folder))[:16] / folder.parent.name / folder.name

    def _here(self, value: Any, writes: Path) -> Any:
        if isinstance(value, Path) and value == writes:
            return self._place(writes)
        if isinstance(folder := getattr(value, "folder", None), RunFolder):
            return dataclasses.replace(value, folder=RunFolder(self._place(folder.path)))
        return value


def _scratch(held: ExitStack) -> Path:
    """Make a folder for this process alone, and remove those of killed ones."""
    home = Path(tempfile.gettempdir()) / f"orpo-study-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    for lock in home.glob("*.lock"):
        if not is_held(lock):
            rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(dir=home))
    held.enter_context(hold(folder.with_suffix(".lock")))
    return folder
