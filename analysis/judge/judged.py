"""By which metrics a study is judged, as its plan names them.

Plans that were written before there were two co-primary metrics name one. The
other is then chosen by the rule of today's recipes and marked as chosen after the
results had been seen, and so is a margin that the plan lacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from analysis.records.load import score_matrix
from analysis.records.study import StudyRecords
from study.arms import UNTRAINED
from study.config.judging import ANSWERS, MOST_TESTED, RANKING

USUAL_SESOI: Final = {
    "accuracy": 0.02,
    "margin": 0.05,
    "log_odds": 0.05,
    "nll": 0.02,
    "exact_match": 0.02,
    "rougeL": 0.01,
}
"""Margins of metrics whose plan names none."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The registered metrics of a study, with their smallest effects of interest."""

    primary: tuple[str, ...]
    """How pairs are ranked, then how prompts are answered, where that is scored."""
    secondary: tuple[str, ...]
    sesoi: Mapping[str, float]
    """Of registered metrics alone: no other one is called equivalent."""
    planned: tuple[str, ...]
    """The primary metrics that the plan names."""
    late: tuple[str, ...] = ()
    """Primary metrics of which the plan lacked the name or the margin."""
    instead_of: str = ""
    """The planned metric of answers that no run was scored in."""

    @property
    def registered(self) -> tuple[str, ...]:
        """All metrics that are tested."""
        return (*self.primary, *self.secondary)


def judged_by(records: StudyRecords) -> Judged:
    """Say by which metrics the records are judged."""
    plan = records.plans[records.recipes[0]]
    scored = [name for name in (*RANKING, *ANSWERS) if _is_scored(records, name)]
    planned = _planned(plan)
    ranking = next((name for name in planned if name in RANKING), "accuracy")
    answers = next((name for name in planned if name in ANSWERS), "")
    # A plan of today may do without answers; an older one could not name any.
    wanted = [answers] if answers or "primary_metrics" in plan else []
    found = next((name for name in (*wanted, *ANSWERS) if name in scored), "")
    if "primary_metrics" in plan and not answers:
        found = ""
    primary = (ranking, *([found] if found else []))
    named: Mapping[str, float] = plan["sesoi"]
    others = plan.get("secondary_metrics", [*named])
    room = MOST_TESTED - len(primary)
    secondary = [
        name for name in others if name in scored and name not in primary and name in named
    ][:room]
    return Judged(
        primary=primary,
        secondary=tuple(secondary),
        sesoi={name: named.get(name, USUAL_SESOI[name]) for name in (*primary, *secondary)},
        planned=planned,
        late=tuple(name for name in primary if name not in planned or name not in named),
        instead_of=answers if answers and found != answers else "",
    )


def _planned(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """List the metrics on which a plan, of today or older, rests the verdict."""
    return tuple(plan.get("primary_metrics") or [plan["primary_metric"]])


def _is_scored(records: StudyRecords, metric: str) -> bool:
    """Tell whether every trained arm of every recipe has scores in a metric."""
    return all(
        score_matrix(records, recipe, arm, metric) is not None
        for recipe in records.recipes
        for arm in records.arms(recipe)
        if arm != UNTRAINED and records.ok(recipe, arm)
    )
