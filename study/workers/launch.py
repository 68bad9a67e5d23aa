"""Several processes that train each run together, as `accelerate launch` starts them.

What they agree on stands in `study.records.processes`.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from study.errors import ConfigError
from study.records.processes import join, n_processes

if TYPE_CHECKING:
    from study.config.recipe import Recipe
    from study.model.jobs import Job
    from study.model.workbench import Workbench


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


def check_shares(recipes: Sequence["Recipe"]) -> None:
    """Refuse what the processes of a launch cannot share.

    Raises:
        ConfigError: a recipe has updates of fewer pairs than there are processes, or
            accelerate was told to shard by itself.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in {"1", "true", "yes"}:
        raise ConfigError(
            "accelerate was told to use FSDP, by --use_fsdp or its configuration; leave that out, "
            "and say --set training.sharding=fsdp: the engine shares the base out itself"
        )
    for recipe in recipes:
        if recipe.training.batch_pairs < n_processes():
            raise ConfigError(
                f"{recipe.name} has updates of {recipe.training.batch_pairs} pairs, fewer than the "
                f"{n_processes()} processes of this launch; launch fewer, or set "
                "training.batch_pairs"
            )


def check_launched(recipes: Sequence["Recipe"]) -> None:
    """Refuse to share a base out over the processes of a launch where there is none.

    Raises:
        ConfigError: a recipe asks for it.
    """
    for recipe in recipes:
        if recipe.training.sharding != "none" and n_processes() == 1:
            raise ConfigError(
                f"{recipe.name} has training.sharding {recipe.training.sharding!r}, which shares "
                "the base out over the processes of a launch, and this is one process; start "
                "compare with `accelerate launch --num_processes N -m study.cli compare ...`, or "
                "set training.sharding=none, as a search needs it: what it finds serves both"
            )


def run_here(jobs: Sequence["Job"], *, device: str) -> list[Any]:
    """Run jobs one after the other in this process, in step with the other ones.

    Raises:
        ConfigError: they are to run on the CPU, and the launch joined GPUs.
    """
    from study.model.base import pick_device

    state = join()
    place = "cpu" if pick_device(device) == "cpu" else f"cuda:{state.local_process_index}"
    if place == "cpu" and state.device.type != "cpu":
        raise ConfigError(
            f"the device is the CPU, and the launch joined its processes over {state.device.type}; "
            "start them with `accelerate launch --cpu`"
        )
    results, workbench = [], None
    for job in jobs:
        if workbench is None or workbench.recipe != job.recipe:
            workbench = _open(job.recipe, state, device=place)
        results.append(job.work(workbench, lambda done, total, note: None))
        state.wait_for_everyone()
    return results


def _open(recipe: "Recipe", state: Any, *, device: str) -> "Workbench":
    """Open a workbench: one process after the other, or together where they share the base."""
    from study.model.locate import locate
    from study.model.workbench import open_workbench

    with state.main_process_first():  # which may have to make a toy base
        if recipe.training.sharding == "none":
            return open_workbench(recipe, device=device)
        locate(recipe.model.name)
    return open_workbench(recipe, device=device)
