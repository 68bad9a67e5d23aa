"""A job: what to do with an open workbench, for any worker anywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from study.config.recipe import Recipe

Report = Callable[[float, float, str], None]
"""``report(done, total, note)``: how far a job is, e.g. ``(12, 40, "step 60/160")``."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work on one recipe, for any worker."""

    name: str
    recipe: Recipe
    work: Callable[[Any, Report], Any]
    """Called with the recipe's workbench and a report; must be picklable."""
