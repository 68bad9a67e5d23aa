"""Several processes that train each run together, as `accelerate launch` starts them.

Every process walks through the same runs in the same order; only the first
writes records. Outside such a launch everything here does nothing.
"""

import datetime as dt
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from study.errors import ConfigError

if TYPE_CHECKING:
    from study.jobs import Job


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

    _state()
    agreed: T = broadcast_object_list([value])[0]
    return agreed


def refuse(command: str) -> None:
    """Refuse a command whose processes do not train one run together.

    Raises:
        ConfigError: this is such a launch.
    """
    if n_processes() > 1:
        raise ConfigError(
            f"`study {command}` was started by a launcher with {n_processes()} processes; it "
            f"starts its own: `study {command} --workers {n_processes()}`"
        )


def run_here(jobs: Sequence["Job"], *, device: str) -> list[Any]:
    """Run jobs one after the other in this process, in step with the other ones."""
    from study.model import pick_device
    from study.workbench import open_workbench

    state = _state()
    place = "cpu" if pick_device(device) == "cpu" else f"cuda:{state.local_process_index}"
    results, workbench = [], None
    for job in jobs:
        if workbench is None or workbench.recipe != job.recipe:
            with state.main_process_first():  # which may have to make a toy base
                workbench = open_workbench(job.recipe, device=place)
        results.append(job.work(workbench, lambda done, total, note: None))
        state.wait_for_everyone()
    return results


def _state() -> Any:
    """Join the processes; the others wait while the first one scores and writes."""
    from accelerate import PartialState

    return PartialState(timeout=PATIENCE)
