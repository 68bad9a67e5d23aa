"""A job: what to do with an open workbench, for any worker anywhere."""

import abc
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.config.recipe import Recipe
from study.records.folders import facts_of

Report = Callable[[float, float, str], None]
"""``report(done, total, note)``: how far a job is, e.g. ``(12, 40, "step 60/160")``."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work on one recipe, described by data, for any worker anywhere."""

    name: str
    recipe: Recipe
    kind: str
    """A function as ``package.module:name``, called with a workbench of the recipe, or what
    stands for one, and a report."""
    given: Mapping[str, Any]
    """Its other arguments, the arm and the seed among them; they can be pickled."""

    def work(self, workbench: Any, report: Report) -> Any:
        """Do it."""
        return pkgutil.resolve_name(self.kind)(workbench, report, **self.given)


class Elsewhere(abc.ABC):
    """What stands for a workbench on another machine.

    Locks, searches and plans stay in the process that has it; trainings go there.
    """

    recipe: Recipe
    facts: dict[str, Any]
    """As ``resolved_facts`` says them there."""

    @abc.abstractmethod
    def do(self, work: Callable[..., Any], *, writes: Path, **given: Any) -> Any:
        """Do what ``study.model.jobs.do`` says, there."""


def do(workbench: Any, work: Callable[..., Any], *, writes: Path, **given: Any) -> Any:
    """Return ``work(workbench, **given)``, called on the machine that has the workbench.

    Args:
        workbench: one of this process, or what stands for one elsewhere.
        work: a function of a module, which elsewhere imports too.
        writes: the one folder that it writes to. It is there what it is here, and comes
            back whenever a checkpoint is whole and at the end.
        given: functions, which are called here; what has a ``folder``, whose files are
            there too; and other values that can be pickled.
    """
    if isinstance(workbench, Elsewhere):
        return workbench.do(work, writes=writes, **given)
    return work(workbench, **given)


def resolved_facts(workbench: Any) -> dict[str, Any]:
    """Return what a run depends on beyond its configuration: weights, pairs, device."""
    if isinstance(workbench, Elsewhere):
        return workbench.facts
    return facts_of(workbench.base.resolved, workbench.data_summary, str(workbench.device))
