"""Locks and leases that die with their process, so that a crash leaves none behind."""

import errno
import fcntl
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from study.errors import RecordError

LOOKS = 5
"""Tries before a lock counts as held: `is_held` holds it for an instant too."""


LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer, as some network ones."""


@contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file while the block runs; yield whether it was free.

    Args:
        path: a file that only carries the lock; it is made where it is missing.
        wait: wait for another holder to let go instead of yielding False.

    Raises:
        RecordError: the folder cannot be written, or its file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; name another --runs") from error
    with file:
        try:
            free = _is_free(file, wait=wait)
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
            raise RecordError(
                f"the file system of {path.parent} has no file locks ({error.strerror}), by which "
                "processes keep out of each other's way; name a folder on a local disk, or let its "
                "administrator mount it with locks (on NFS, a running lockd or local_lock=flock)"
            ) from error
        yield free


def is_held(path: Path) -> bool:
    """Tell whether a living process holds the lock of a file; none does where there are no locks.

    So that records can be read anywhere.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
    return False


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What a process shows of itself while it lives, and for a while after a crash."""

    name: str
    path: Path
    held: bool
    """Its process lives."""
    content: Mapping[str, Any]


@contextmanager
def lease(folder: Path, kind: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Show others in a folder that this process lives; yield the lease's name.

    The file is locked and complete before it gets the name that others look
    for, so none of them ever takes a beginning process for a dead one.
    """
    name = uuid.uuid4().hex
    path, unseen = folder / f".{kind}-{name}", folder / f".new-{name}"
    with hold(unseen):
        try:
            unseen.write_text(json.dumps(content), encoding="utf-8")
            unseen.rename(path)
            yield name
        finally:
            unseen.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def leases(folder: Path, kind: str) -> list[Lease]:
    """List the leases of one kind in a folder, those of crashed processes too."""
    found = []
    for path in sorted(folder.glob(f".{kind}-*")):
        held = is_held(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # it ended just now
            continue
        except ValueError:  # the whole machine went down before it was on the disk
            content = {}
        name = path.name.removeprefix(f".{kind}-")
        found.append(Lease(name=name, path=path, held=held, content=content))
    return found


def _is_free(file: IO[bytes], *, wait: bool) -> bool:
    if wait:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    for look in range(LOOKS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01 * look)
        else:
            return True
    return False
