"""Commands that use one folder at the same time: seen by each other, or refused."""

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from study.config.canonical import differences, to_dict
from study.config.recipe import Recipe
from study.errors import RecordError
from study.records.locks import Lease, lease, leases
from study.records.mounts import INSTEAD

COMMAND = "command"
"""Kind of the lease that a command holds in a recipe's folder while it works."""


WORKER = "worker"
"""Kind of the lease that each worker of a search holds in the search's folder."""


SHARED = ("model", "adapter", "data", "training", "evaluation")
"""Sections of a recipe in which commands that share a folder must agree."""


BEAT_S = 2.0
"""How often a command touches its lease, so that hosts which do not see its lock see that."""


WATCH_S = 7.0
"""How long a lease of another host is watched that nobody seems to hold."""


Activity = tuple[Recipe, str, int | None]
"""A recipe, an arm and, in a comparison, a seed."""


@contextmanager
def present(runs: Path, command: str, parts: Sequence[Activity]) -> Iterator[None]:
    """Show other processes what this one will make, while the block runs.

    Args:
        runs: folder of all records.
        command: ``search``, ``compare`` or ``claims``.
        parts: what is missing and will be made; nothing is written where nothing is.

    Raises:
        RecordError: a living process makes records of another configuration in
            the same folder, or is on a host that locks do not reach.
    """
    with ExitStack() as held:
        for recipe in {recipe.name: recipe for recipe, _, _ in parts}.values():
            content = {
                "command": command,
                "host": socket.gethostname(),
                "boot": _boot(),
                "pid": os.getpid(),
                "parts": [[arm, seed] for one, arm, seed in parts if one.name == recipe.name],
                **_content(recipe),
            }
            folder = runs / recipe.name
            own = held.enter_context(lease(folder, COMMAND, content))
            held.enter_context(_beating(folder / f".{COMMAND}-{own}"))
            _check(folder, own, content)
        yield


def check_alike(runs: Path, recipe: Recipe) -> None:
    """Refuse a recipe's folder while a living process uses it with another configuration.

    Raises:
        RecordError: one does.
    """
    content = _content(recipe)
    for other in leases(runs / recipe.name, COMMAND):
        if other.held:
            _refuse_unlike(runs / recipe.name, other, content)


def in_use(runs: Path) -> list[str]:
    """List the recipes that living processes make records of, even before the first record."""
    folders = {path.parent for path in runs.glob(f"*/.{COMMAND}-*")}
    return [path.name for path in folders if any(one.held for one in leases(path, COMMAND))]


def planned(runs: Path, recipe: str, command: str) -> set[tuple[str, int | None]]:
    """Return the (arm or setting, seed) that living processes will make."""
    return {
        (arm, seed)
        for one in leases(runs / recipe, COMMAND)
        if one.held and one.content["command"] == command
        for arm, seed in one.content["parts"]
    }


def _content(recipe: Recipe) -> dict[str, Any]:
    """Return what commands that share a folder must agree on."""
    tree = to_dict(recipe)
    return {"config": {part: tree[part] for part in SHARED}}


def _check(folder: Path, own: str, content: dict[str, Any]) -> None:
    for other in leases(folder, COMMAND):
        if not other.held:
            _refuse_unseen(folder, other, content)
            other.path.unlink(missing_ok=True)
        elif other.name != own:
            _refuse_unlike(folder, other, content)


def _refuse_unlike(folder: Path, other: Lease, content: dict[str, Any]) -> None:
    lines = differences(other.content["config"], content["config"])
    if lines:
        listed = "\n  ".join(lines)
        raise RecordError(
            f"{folder} is in use by `study {other.content['command']}`, process "
            f"{other.content['pid']} on {other.content['host']}, with another configuration:\n"
            f"  {listed}\nwait for it, stop it, or name another folder with --runs; "
            "nothing was changed"
        )


def _refuse_unseen(folder: Path, other: Lease, content: Mapping[str, Any]) -> None:
    """Refuse a folder in which another host lives whose lock is not seen here.

    Whatever its file system says: of a host that crashed nothing moves any more.
    """
    if other.content.get("boot", content["boot"]) == content["boot"]:
        return
    first, until = _last_beat(other.path), time.monotonic() + WATCH_S
    while time.monotonic() < until:
        if (now := _last_beat(other.path)) is None:  # it ended meanwhile
            return
        if now != first:
            raise RecordError(
                f"{folder} is in use by `study {other.content['command']}`, process "
                f"{other.content['pid']} on {other.content['host']}, whose locks are not seen "
                f"here: {INSTEAD}; nothing was changed"
            )
        time.sleep(BEAT_S / 8)


def _last_beat(path: Path) -> int | None:
    """Return when a lease was last touched, as its server has it."""
    try:
        with path.open("rb") as file:  # opening is what makes NFS ask again
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


@contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Touch a lease again and again while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _boot() -> str:
    """Name this start of this machine, which containers on it share, as they share locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
