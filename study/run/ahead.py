"""The next micro-batch, laid out while the device computes this one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")


class Ahead(Generic[Item, Made]):
    """Makes what is asked for, and on a thread of its own what is asked for next."""

    def __init__(self, make: Callable[[Item], Made], *, meanwhile: bool) -> None:
        """Take the function; without ``meanwhile`` it is called when its turn comes."""
        self._make = make
        self._pool = ThreadPoolExecutor(1) if meanwhile else None
        self._next: tuple[Item, Future[Made]] | None = None

    def take(self, item: Item, *, following: Item | None) -> Made:
        """Return what becomes of an item, and start on the one that follows."""
        expected, self._next = self._next, None
        if expected is not None and expected[0] == item:
            made = expected[1].result()
        else:
            made = self._make(item)
        if self._pool is not None and following is not None:
            self._next = following, self._pool.submit(self._make, following)
        return made


def computes_aside(device: torch.device) -> bool:
    """Tell whether a device computes while Python goes on; a CPU lacks the core for it."""
    return device.type != "cpu"
