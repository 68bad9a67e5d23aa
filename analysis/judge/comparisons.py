"""Compare the arms of every recipe in every metric; nothing is judged here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from analysis import statistics as stats
from analysis.judge.judged import Judged
from analysis.records.load import score_matrix
from analysis.records.metrics import METRICS
from analysis.records.study import Scores, StudyRecords
from analysis.statistics import Contrast
from study.arms import BASELINE, UNTRAINED

POOLED: Final = "all models"
"""Stands for the recipe in contrasts pooled over models."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of two arms of one recipe, or of all, with its contrasts."""

    recipe: str
    metric: str
    baseline: str
    treatment: str
    estimate: float
    baseline_mean: float
    n_runs: tuple[int, int]
    n_examples: int
    diverged: tuple[int, int] = (0, 0)
    """Runs of the baseline and of the treatment that diverged."""
    sesoi: float | None = None
    """Smallest effect size of interest; None where the metric is not registered."""
    scores: tuple[Scores, Scores] | None = None
    """Of one recipe's arms; None over all models."""
    contrast: Contrast | None = None
    """Over seeds and prompts; None where no test could run."""
    test_set: Contrast | None = None
    wins: Contrast | None = None
    bounds: tuple[Contrast, ...] = ()
    """With diverged runs at the worst score that was seen, and at base's."""
    singles: tuple["Comparison", ...] = ()
    """Over all models, the comparison on each."""
    reason: str = ""
    """Why no test could run."""

    @property
    def n_diverged(self) -> int:
        """Diverged runs of both arms."""
        return sum(self.diverged)

    @property
    def question(self) -> bool:
        """Whether it compares two trained arms."""
        return self.baseline == BASELINE


def comparisons(records: StudyRecords, judged: Judged) -> tuple[Comparison, ...]:
    """Compare the arms of every recipe in every metric."""
    return tuple(
        found
        for recipe in records.recipes
        for arms in _pairs(records)
        for metric in METRICS
        if (found := _comparison(records, judged, recipe, metric, arms)) is not None
    )


def pooled_comparisons(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Average the contrasts of the trained arms over recipes, where two or more have one."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in found:
        if one.question and one.contrast:
            groups.setdefault((one.treatment, one.metric), []).append(one)
    return tuple(_pooled(group) for group in groups.values() if len(group) > 1)


def is_paired(records: StudyRecords, recipe: str) -> bool:
    """Tell whether a recipe's runs are compared seed by seed.

    The plan and the number of arms say so, never the scores; beside a diverged run
    there is no partner, in this recipe alone.
    """
    plan, arms = records.plans[recipe], (BASELINE, *records.treatments)
    planned = bool(plan["paired"]) and all(run.ok for run in records.of(recipe))
    return stats.pairs_by_seed(planned=planned, n_arms=len(arms), n_seeds=len(plan["seeds"]))


def contrast_of(a: Scores, b: Scores, *, paired: bool) -> Contrast:
    """Compare two trained arms on one model over seeds and prompts.

    Raises:
        NotTestableError: there are too few seeds or pairs.
    """
    return _contrast(a, b, fixed=False, paired=paired, scope="population")


def averaged(scores: Sequence[tuple[Scores, Scores]], *, paired: bool) -> Contrast:
    """Compare two trained arms on average of several models.

    Raises:
        NotTestableError: a model has too few seeds or pairs.
    """
    return _averaged(scores, paired=paired, scope="population")


def _pairs(records: StudyRecords) -> list[tuple[str, str]]:
    """List (baseline, treatment): against SFT first, then against the untrained model."""
    return [
        *((BASELINE, arm) for arm in records.treatments),
        *((UNTRAINED, arm) for arm in (BASELINE, *records.treatments)),
    ]


def _comparison(
    records: StudyRecords, judged: Judged, recipe: str, metric: str, arms: tuple[str, str]
) -> Comparison | None:
    """Compare two arms in one metric, or return None where one has no score."""
    baseline, treatment = arms
    a, b = (score_matrix(records, recipe, arm, metric) for arm in arms)
    if a is None or b is None:
        return None
    failed = [sum(not run.ok for run in records.of(recipe, arm)) for arm in arms]
    bare = Comparison(
        recipe=recipe,
        metric=metric,
        baseline=baseline,
        treatment=treatment,
        estimate=float(b.matrix.mean() - a.matrix.mean()),
        baseline_mean=float(a.matrix.mean()),
        n_runs=(len(a.seeds), len(b.seeds)),
        n_examples=a.matrix.shape[1],
        diverged=(failed[0], failed[1]),
        sesoi=judged.sesoi.get(metric),
        scores=(a, b),
    )
    fixed = baseline == UNTRAINED
    paired = is_paired(records, recipe) and not fixed
    if paired and a.seeds != b.seeds:
        return replace(bare, reason=_without_partner(bare, a, b))
    try:
        contrast = _contrast(a, b, fixed=fixed, paired=paired, scope="population")
    except stats.NotTestableError as reason:
        return replace(bare, reason=f"{reason} ({_who(bare, a, b)})")
    base = score_matrix(records, recipe, UNTRAINED, metric)
    return replace(
        bare,
        contrast=contrast,
        test_set=_test_set(a, b, fixed=fixed, paired=paired),
        wins=_wins(a, b, metric=metric, paired=paired),
        bounds=_bounds(a, b, base, metric=metric, fixed=fixed, failed=failed),
    )


def _without_partner(found: Comparison, a: Scores, b: Scores) -> str:
    """Say which runs a comparison by seed lacks, and what to do."""
    missing = [
        f"{found.recipe}, {arm}, seed {seed}"
        for arm, seeds, others in (
            (found.baseline, a.seeds, b.seeds),
            (found.treatment, b.seeds, a.seeds),
        )
        for seed in sorted(set(others) - set(seeds))
    ]
    return (
        f"the plan pairs runs by seed, and these are missing: {'; '.join(missing)}; "
        "make them with `study compare`"
    )


def _who(found: Comparison, a: Scores, b: Scores) -> str:
    """Name the recipe and the runs of both arms."""
    runs = [
        f"{arm} with seed{'s' if len(scores.seeds) > 1 else ''} "
        f"{', '.join(str(seed) for seed in scores.seeds)}"
        for arm, scores in ((found.baseline, a), (found.treatment, b))
    ]
    return f"{found.recipe}: {' and '.join(runs)}"


def _contrast(a: Scores, b: Scores, *, fixed: bool, paired: bool, scope: stats.Scope) -> Contrast:
    if fixed and scope == "population":
        copies = np.broadcast_to(a.matrix[0], b.matrix.shape)
        found = stats.compare_clustered(copies, b.matrix, paired=True, clusters=b.clusters)
        return replace(found, n_seeds=(1, len(b.seeds)))
    if fixed:
        return stats.compare_with_fixed(a.matrix[0], b.matrix, scope=scope, clusters=b.clusters)
    if scope == "population":
        return stats.compare_clustered(a.matrix, b.matrix, paired=paired, clusters=b.clusters)
    return stats.compare_arms(a.matrix, b.matrix, paired=paired, scope=scope, clusters=b.clusters)


def _test_set(a: Scores, b: Scores, *, fixed: bool, paired: bool) -> Contrast | None:
    """Return the contrast on these held-out pairs alone, if there is one."""
    try:
        return _contrast(a, b, fixed=fixed, paired=paired, scope="test_set")
    except stats.NotTestableError:
        return None


def _wins(a: Scores, b: Scores, *, metric: str, paired: bool) -> Contrast | None:
    """Return the prompt win rate minus one half, where one direction is better."""
    direction = METRICS[metric].higher_is_better
    if direction is None:
        return None
    try:
        return stats.win_rate(
            a.matrix, b.matrix, paired=paired, higher_is_better=direction, clusters=b.clusters
        )
    except stats.NotTestableError:
        return None


def _bounds(
    a: Scores, b: Scores, base: Scores | None, *, metric: str, fixed: bool, failed: Sequence[int]
) -> tuple[Contrast, ...]:
    """Compare with every diverged run at the worst score seen, and at base's."""
    direction = METRICS[metric].higher_is_better
    if not sum(failed) or direction is None:
        return ()
    runs = np.vstack([a.matrix, b.matrix])
    order = np.argsort(runs.mean(axis=1))
    stand_ins = [runs[order[0 if direction else -1]]]
    stand_ins += [base.matrix[0]] if base is not None else []
    return tuple(
        _contrast(
            a if fixed else replace(a, matrix=_filled(a.matrix, row, failed[0])),
            replace(b, matrix=_filled(b.matrix, row, failed[1])),
            fixed=fixed,
            paired=False,
            scope="population",
        )
        for row in stand_ins
    )


def _filled(matrix: np.ndarray, row: np.ndarray, n: int) -> np.ndarray:
    return np.vstack([matrix, *[row] * n])


def _pooled(group: Sequence[Comparison]) -> Comparison:
    """Average comparisons of one metric over recipes.

    Runs are compared seed by seed where they are so in every recipe.
    """
    paired = all(one.contrast is not None and one.contrast.paired for one in group)
    scores = [one.scores for one in group if one.scores is not None]
    contrast = averaged(scores, paired=paired)
    wins = [one.wins for one in group if one.wins is not None]
    return Comparison(
        recipe=POOLED,
        metric=group[0].metric,
        baseline=group[0].baseline,
        treatment=group[0].treatment,
        estimate=contrast.estimate,
        baseline_mean=float(np.mean([one.baseline_mean for one in group])),
        n_runs=contrast.n_seeds,
        n_examples=contrast.n_examples,
        diverged=(sum(one.diverged[0] for one in group), sum(one.diverged[1] for one in group)),
        sesoi=group[0].sesoi,
        contrast=contrast,
        test_set=_averaged_test_set(scores, paired=paired),
        wins=stats.pool_models(wins) if _can_pool(wins, group) else None,
        bounds=_pooled_bounds(group),
        singles=tuple(group),
    )


def _averaged(
    scores: Sequence[tuple[Scores, Scores]], *, paired: bool, scope: stats.Scope
) -> Contrast:
    """Average the models, within a seed first where they share it."""
    return stats.average_models(
        [_contrast(a, b, fixed=False, paired=paired, scope=scope) for a, b in scores],
        [(a.matrix, b.matrix) for a, b in scores],
        seeds=[a.seeds for a, _ in scores],
        treatment_seeds=[b.seeds for _, b in scores],
    )


def _averaged_test_set(scores: Sequence[tuple[Scores, Scores]], *, paired: bool) -> Contrast | None:
    try:
        return _averaged(scores, paired=paired, scope="test_set")
    except stats.NotTestableError:
        return None


def _can_pool(wins: Sequence[Contrast], group: Sequence[Comparison]) -> bool:
    """Tell whether shares of prompts won can be averaged: alike, from seeds of their own."""
    names = [seed for one in group if one.scores for seed in one.scores[1].seeds]
    alike = len({one.paired for one in wins}) == 1
    return len(wins) == len(group) and alike and len(names) == len(set(names))


def _pooled_bounds(group: Sequence[Comparison]) -> tuple[Contrast, ...]:
    """Average the bounds of models with diverged runs with the contrasts of the others."""
    n = max(len(one.bounds) for one in group)
    return tuple(
        stats.pool(
            [
                replace(found, paired=False)
                for one in group
                if (
                    found := one.bounds[min(place, len(one.bounds) - 1)]
                    if one.bounds
                    else one.contrast
                )
                is not None
            ]
        )
        for place in range(n)
    )
