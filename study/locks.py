"""Locks that die with their process, so that a crash leaves none behind."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.errors import RecordError


@contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file while the block runs; yield whether it was free.

    Args:
        path: a file that only carries the lock; it is made where it is missing.
        wait: wait for another holder to let go instead of yielding False.

    Raises:
        RecordError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; name another --runs") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def is_held(path: Path) -> bool:
    """Tell whether a living process holds the lock of a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
