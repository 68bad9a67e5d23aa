"""Where jobs run: worker processes of this machine, or those of a cluster (``--on``)."""

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from study.config.recipe import Recipe
from study.errors import ConfigError, nearest
from study.model.jobs import Job
from study.records.processes import n_processes
from study.workers.devices import Slot, plan_slots
from study.workers.launch import check_launched, check_shares, run_here

PLACES = {
    "local": "study.workers.places:open_local",
    "ray": "study.workers.on_ray:open_ray",
    "slurm": "study.workers.on_slurm:open_slurm",
}
"""What ``--on`` names, and the ``OpenPlace`` that makes it, imported when it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a command wants of a place."""

    recipes: Sequence[Recipe]
    device: str
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    workers: int | None
    """How many; None leaves it to the place."""
    quiet: bool
    """Show no progress."""
    address: str = ""
    """What stands behind the colon of ``--on``, e.g. of a cluster."""
    runs: Path = Path()
    """Folder of all records."""
    words: Sequence[str] = ()
    """The command line behind ``study``."""


class Place(Protocol):
    """Where jobs run, and how many at once.

    Progress, clean ends and errors are those of ``study.workers.exchange.run_on``,
    which a place may leave them to.
    """

    @property
    def sharing(self) -> int:
        """How many workers the arms of a search are shared by."""

    def run_jobs(self, jobs: Sequence[Job]) -> list[Any]:
        """Run jobs and return their results in the jobs' order."""


OpenPlace = Callable[[Ask], Place]


def open_place(on: str, ask: Ask) -> Place:
    """Return the place that ``--on`` names.

    Raises:
        ConfigError: there is none of that name, or it cannot do what is asked, or a recipe
            shares its base out and this is one process.
    """
    name, colon, address = on.partition(":")
    if name not in PLACES or (colon and name == "local"):
        raise ConfigError(
            f"--on is {on!r}{nearest(name, PLACES)}; jobs run on {', '.join(PLACES)}, where "
            "ray may be followed by an address as ray:10.0.0.1:6379"
        )
    if name != "local" and n_processes() > 1:
        raise ConfigError(
            f"this was started by a launcher with {n_processes()} processes, which train here; "
            f"leave --on {on} out, or start it without the launcher"
        )
    check_launched(ask.recipes)
    open_it: OpenPlace = pkgutil.resolve_name(PLACES[name])
    return open_it(replace(ask, address=address))


@dataclass(frozen=True)
class _Local:
    ask: Ask
    slots: Sequence[Slot]

    @property
    def sharing(self) -> int:
        """Arms are not shared unless that is asked for: suggestions then depend on speed."""
        return self.ask.workers or 1

    def run_jobs(self, jobs: Sequence[Job]) -> list[Any]:
        from study.data.sources import require_source
        from study.workers.jobs import run_jobs

        for data in {job.recipe.data.name: job.recipe.data for job in jobs}.values():
            require_source(data)  # said once, before a worker starts and loads a model
        return run_jobs(jobs, slots=self.slots, quiet=self.ask.quiet)


@dataclass(frozen=True)
class _Launched:
    ask: Ask
    sharing: int = 1

    def run_jobs(self, jobs: Sequence[Job]) -> list[Any]:
        return run_here(jobs, device=self.ask.device)


def open_local(ask: Ask) -> Place:
    """Return worker processes, or this process within a launch.

    Raises:
        ConfigError: no such device here.
    """
    if n_processes() > 1:
        check_shares(ask.recipes)
        return _Launched(ask)
    return _Local(ask, plan_slots(ask.recipes, device=ask.device, workers=ask.workers))
