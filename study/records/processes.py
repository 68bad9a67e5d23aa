"""Processes that train one run together: only the first of them writes.

`accelerate launch` starts them; every one walks through the same runs in the same
order. Outside such a launch there is one process, and nothing here does anything.
"""

import datetime as dt
import os
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = dt.timedelta(hours=12)
"""How long the other processes wait for the first one."""


def n_processes() -> int:
    """Return how many processes were launched to train one run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this process is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def agree(value: T) -> T:
    """Return the first process's value in all of them."""
    if n_processes() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    join()
    agreed: T = broadcast_object_list([value])[0]
    return agreed


def gather(value: T) -> list[T]:
    """Return the values of all processes, in their order, in each of them."""
    if n_processes() == 1:
        return [value]
    from accelerate.utils import gather_object

    join()
    return list(gather_object([value]))


def join() -> Any:
    """Join the processes; the others wait while the first one scores and writes.

    accelerate takes processes on CPUs for one each unless it is told that they are on CPUs.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu, timeout=PATIENCE)
