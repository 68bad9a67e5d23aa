"""Decide for every treatment over the co-primary metrics: the verdict of the study.

Null hypotheses, sides and smallest n are those of ``statistics.decision.decide``;
what its tests claim stands only where the corrected p-values of the contrasts, and
those of equivalence, say the same, so that answer and table never differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from analysis import statistics as stats
from analysis.judge.comparisons import POOLED, Comparison
from analysis.judge.contrasts import LEVEL
from analysis.judge.judged import Judged
from analysis.judged_rows import CoPrimaryRow, DecisionRow
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords
from analysis.rows import ContrastRow, CostRow
from analysis.statistics import CoPrimary, Outcome
from analysis.statistics.models import Heterogeneity
from study.arms import BASELINE

NOT_TESTED: Final = "not tested"
SIZES_DIFFER: Final = "every model shows it by itself; by how much depends on the model"
COSTS: Final = ("train_s", "train_tokens", "peak_memory_bytes")


def decision_rows(
    records: StudyRecords,
    judged: Judged,
    found: Sequence[Comparison],
    rows: Sequence[ContrastRow],
    costs: Sequence[CostRow],
) -> tuple[DecisionRow, ...]:
    """Decide on average of the models, where there are several, then on each.

    Args:
        records: of the study.
        judged: the registered metrics.
        found: comparisons of every recipe and over all.
        rows: the same, corrected in their families.
        costs: of every arm of every recipe.
    """
    asked = {
        (one.recipe, one.treatment, one.metric): one
        for one in found
        if one.question and one.metric in judged.primary
    }
    corrected = {
        (row.recipe, row.treatment, row.metric): row for row in rows if row.family == "primary"
    }
    places = [
        (place, arm)
        for arm in records.treatments
        for place in (POOLED, *records.recipes)
        if (place, arm, judged.primary[0]) in asked
    ]
    decisions = [
        _decision(
            records,
            judged,
            [asked[key] for name in judged.primary if (key := (place, arm, name)) in asked],
            [corrected[key] for name in judged.primary if (key := (place, arm, name)) in asked],
            costs,
        )
        for place, arm in places
    ]
    return tuple(agreed(row, decisions) for row in decisions)


def agreed(row: DecisionRow, decisions: Sequence[DecisionRow]) -> DecisionRow:
    """Take the verdict that every model has by itself, though the effects' sizes differ."""
    if row.outcome != Outcome.DEPENDS:
        return row
    singles = {
        one.outcome for one in decisions if one.treatment == row.treatment and one.recipe != POOLED
    }
    if singles not in ({Outcome.BETTER}, {Outcome.WORSE}):
        return row
    return replace(row, outcome=singles.pop(), reason=SIZES_DIFFER)


def _decision(
    records: StudyRecords,
    judged: Judged,
    found: Sequence[Comparison],
    rows: Sequence[ContrastRow],
    costs: Sequence[CostRow],
) -> DecisionRow:
    """Decide for one treatment in one place."""
    first = found[0]
    recipes = records.recipes if first.recipe == POOLED else (first.recipe,)
    tested = {
        one.metric: CoPrimary(
            contrast=one.contrast,
            sesoi=judged.sesoi[one.metric],
            higher_is_better=METRICS[one.metric].higher_is_better is not False,
            heterogeneity=_heterogeneity(one),
        )
        for one in found
        if one.contrast is not None
    }
    n_metrics = len(judged.primary)
    metrics = [
        _metric(one, row, tested.get(one.metric), n_metrics, late=one.metric in judged.late)
        for one, row in zip(found, rows, strict=True)
    ]
    outcome, reason = _outcome(list(tested.values()), metrics, n_metrics)
    begun = _counts(records, recipes, first.treatment, diverged=False)
    failed = _counts(records, recipes, first.treatment, diverged=True)
    return DecisionRow(
        recipe=first.recipe,
        baseline=first.baseline,
        treatment=first.treatment,
        outcome=outcome,
        metrics=tuple(metrics),
        costs=_cost_ratios(costs, recipes, first.treatment),
        n_models=len(first.singles) or 1,
        n_seeds=first.n_runs,
        n_examples=first.n_examples,
        n_diverged=failed,
        n_begun=begun,
        divergence_p=stats.convergence(failed, begun).p_value if sum(failed) else None,
        reason=reason or next((one.reason for one in found if one.contrast is None), ""),
    )


def _metric(
    one: Comparison, row: ContrastRow, tested: CoPrimary | None, n_metrics: int, *, late: bool
) -> CoPrimaryRow:
    """Say what one metric's tests show after all corrections."""
    said = None if tested is None else stats.metric_findings(tested, n_metrics=n_metrics)
    differs = row.p_adjusted is not None and row.p_adjusted <= LEVEL
    within = row.tost_adjusted is not None and row.tost_adjusted <= LEVEL
    models = None if tested is None else tested.heterogeneity
    return CoPrimaryRow(
        metric=one.metric,
        estimate=one.estimate,
        low=row.low,
        high=row.high,
        sesoi=row.sesoi or 0.0,
        p_adjusted=row.p_adjusted,
        better=bool(said and said.better and differs),
        worse=bool(said and said.worse and differs),
        not_inferior=bool(said and said.not_inferior),
        equivalent=bool(said and said.equivalent and within),
        heterogeneity_p=None if models is None else models.p_value,
        signs_conflict=bool(models and models.signs_conflict),
        late=late,
    )


def _outcome(
    tested: Sequence[CoPrimary], metrics: Sequence[CoPrimaryRow], n_metrics: int
) -> tuple[str, str]:
    """Return the outcome, and what was taken back."""
    if not tested:
        return NOT_TESTED, ""
    # A metric that could not be tested still takes its share of the level.
    outcome = stats.decide(tested, level=LEVEL * len(tested) / n_metrics)
    claimed = outcome in (Outcome.BETTER, Outcome.WORSE, Outcome.TRADE_OFF)
    if claimed and not any(one.better or one.worse for one in metrics):
        return Outcome.INCONCLUSIVE, "a difference is not shown after correction for the family"
    if outcome is Outcome.EQUIVALENT and not all(one.equivalent for one in metrics):
        return Outcome.INCONCLUSIVE, "equivalence is not shown in every registered metric"
    if len(tested) < n_metrics and outcome in (Outcome.BETTER, Outcome.WORSE):
        return Outcome.TRADE_OFF, ""
    return outcome, ""


def _heterogeneity(one: Comparison) -> Heterogeneity | None:
    """Test whether the models differ; None with one model."""
    contrasts = [single.contrast for single in one.singles if single.contrast is not None]
    return stats.heterogeneity(contrasts) if len(contrasts) > 1 else None


def _counts(
    records: StudyRecords, recipes: Sequence[str], treatment: str, *, diverged: bool
) -> tuple[int, int]:
    """Count finished runs, or those that diverged, of baseline and treatment."""
    baseline, other = (
        sum(not (diverged and run.ok) for recipe in recipes for run in records.of(recipe, arm))
        for arm in (BASELINE, treatment)
    )
    return baseline, other


def _cost_ratios(
    costs: Sequence[CostRow], recipes: Sequence[str], treatment: str
) -> Mapping[str, float]:
    """Return what the treatment costs over the baseline, the models' geometric mean."""
    known = {(row.recipe, row.arm): row for row in costs}
    pairs = [
        (known[recipe, BASELINE], known[recipe, treatment])
        for recipe in recipes
        if (recipe, BASELINE) in known and (recipe, treatment) in known
    ]
    return {
        name: float(
            np.exp(np.mean([np.log(getattr(b, name) / getattr(a, name)) for a, b in pairs]))
        )
        for name in COSTS
        if pairs and all(getattr(row, name) > 0 for pair in pairs for row in pair)
    }
