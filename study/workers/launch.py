"""Several processes that train each run together, as `accelerate launch` starts them.

What they agree on stands in `study.records.processes`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from study.errors import ConfigError
from study.records.processes import join, n_processes

if TYPE_CHECKING:
    from study.config.recipe import Recipe
    from study.model.jobs import Job


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
    """Refuse updates that have fewer pairs than there are processes to share them.

    Raises:
        ConfigError: a recipe has such updates.
    """
    for recipe in recipes:
        if recipe.training.batch_pairs < n_processes():
            raise ConfigError(
                f"{recipe.name} has updates of {recipe.training.batch_pairs} pairs, fewer than the "
                f"{n_processes()} processes of this launch; launch fewer, or set "
                "training.batch_pairs"
            )


def run_here(jobs: Sequence["Job"], *, device: str) -> list[Any]:
    """Run jobs one after the other in this process, in step with the other ones."""
    from study.model.base import pick_device
    from study.model.workbench import open_workbench

    state = join()
    place = "cpu" if pick_device(device) == "cpu" else f"cuda:{state.local_process_index}"
    results, workbench = [], None
    for job in jobs:
        if workbench is None or workbench.recipe != job.recipe:
            with state.main_process_first():  # which may have to make a toy base
                workbench = open_workbench(job.recipe, device=place)
        results.append(job.work(workbench, lambda done, total, note: None))
        state.wait_for_everyone()
    return results
