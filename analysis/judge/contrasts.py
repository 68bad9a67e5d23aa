"""Compare the arms of a study: every contrast, its family and its verdict.

Families (METHODS.md, 4): the primary metric of treatment against SFT over
all models is the primary family, gated by the contrast pooled over models; the
other metrics of the same arms are a secondary family. Both are corrected by
Holm. Contrasts with the untrained model are in neither and get no p-value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from analysis.records.load import score_matrix
from analysis.records.metrics import METRICS
from analysis.records.study import Scores, StudyRecords
from analysis.rows import ContrastRow
from analysis.statistics import contrast as stats
from analysis.statistics.contrast import Contrast
from analysis.statistics.verdicts import Verdict

QUESTION: Final = ("sft", "orpo")
"""(baseline, treatment) of the study's question."""


PAIRS_OF_ARMS: Final = (QUESTION, ("base", "sft"), ("base", "orpo"))
"""(baseline, treatment) of every comparison."""


LEVEL: Final = 0.05


POOLED: Final = "all models"
"""Stands for the recipe in contrasts pooled over models."""


NULL_HYPOTHESIS = "over training seeds and prompts like these, both arms have the same mean score"


NULL_AGAINST_FIXED = (
    "over training seeds and prompts like these, the arm's mean score is that of the base model"
)


NULL_POOLED = (
    "over training seeds and prompts like these, the difference between the arms' mean scores, "
    "averaged over exactly these models, is zero"
)


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
    n_diverged: int = 0
    sesoi: float | None = None
    """Smallest effect size of interest; None where the plan names none."""
    contrast: Contrast | None = None
    """Over seeds and prompts; None where no test could run."""
    test_set: Contrast | None = None
    wins: Contrast | None = None
    bounds: tuple[Contrast, ...] = ()
    """With diverged runs at the worst score that was seen, and at base's."""
    reason: str = ""
    """Why no test could run."""

    @property
    def question(self) -> bool:
        """Whether it compares the two trained arms."""
        return (self.baseline, self.treatment) == QUESTION


def comparisons(records: StudyRecords) -> tuple[Comparison, ...]:
    """Compare the arms of every recipe in every metric."""
    paired = is_paired(records)
    return tuple(
        found
        for recipe in records.recipes
        for arms in PAIRS_OF_ARMS
        for metric in METRICS
        if (found := _comparison(records, recipe, metric, arms, paired=paired)) is not None
    )


def pooled_comparisons(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Average the contrasts of the trained arms over recipes, where two or more have one."""
    groups = {
        metric: [one for one in found if one.question and one.metric == metric and one.contrast]
        for metric in METRICS
    }
    return tuple(_pooled(group) for group in groups.values() if len(group) > 1)


def contrast_rows(
    found: Sequence[Comparison], pooled: Sequence[Comparison], *, primary: str
) -> tuple[tuple[ContrastRow, ...], tuple[ContrastRow, ...]]:
    """Judge comparisons in their families.

    Returns:
        The rows of every recipe, and those pooled over models.
    """
    rows = [_row(one, primary) for one in found]
    over_all = [_row(one, primary) for one in pooled]
    rows = _adjusted(rows, "primary")
    # The secondary family holds the pooled contrasts too: they are claims as well.
    both = _adjusted([*rows, *over_all], "secondary")
    rows, over_all = both[: len(rows)], both[len(rows) :]
    gate = next((row for row in over_all if row.metric == primary), None)
    is_open = gate is None or (gate.p_value is not None and gate.p_value <= LEVEL)
    rows = [_decided(row, is_open=is_open) for row in rows]
    over_all = [_decided(row, is_open=True) for row in over_all]
    return tuple(_with_lengths(rows)), tuple(_with_lengths(over_all))


def is_paired(records: StudyRecords) -> bool:
    """Tell whether runs are compared seed by seed.

    The plan says so, never the scores; beside a diverged run there is no partner.
    """
    return records.paired and all(run.ok for run in records.runs)


def _comparison(
    records: StudyRecords, recipe: str, metric: str, arms: tuple[str, str], *, paired: bool
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
        n_diverged=sum(failed),
        sesoi=records.sesoi.get(metric),
    )
    fixed = baseline == "base"
    paired = paired and not fixed
    if paired and a.seeds != b.seeds:
        return replace(bare, reason=_without_partner(bare, a, b))
    try:
        contrast = _contrast(a, b, fixed=fixed, paired=paired, scope="population")
    except stats.NotTestableError as reason:
        return replace(bare, reason=f"{reason} ({_who(bare, a, b)})")
    base = score_matrix(records, recipe, "base", metric)
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
    if fixed:
        return stats.compare_with_fixed(a.matrix[0], b.matrix, scope=scope, clusters=b.clusters)
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
    """Average comparisons of one metric over recipes."""
    contrasts = [one.contrast for one in group if one.contrast is not None]
    test_sets = [one.test_set for one in group if one.test_set is not None]
    wins = [one.wins for one in group if one.wins is not None]
    contrast = stats.pool_models(contrasts)
    return Comparison(
        recipe=POOLED,
        metric=group[0].metric,
        baseline=group[0].baseline,
        treatment=group[0].treatment,
        estimate=contrast.estimate,
        baseline_mean=float(np.mean([one.baseline_mean for one in group])),
        n_runs=contrast.n_seeds,
        n_examples=contrast.n_examples,
        n_diverged=sum(one.n_diverged for one in group),
        sesoi=group[0].sesoi,
        contrast=contrast,
        test_set=stats.pool_models(test_sets) if len(test_sets) == len(group) else None,
        wins=stats.pool_models(wins) if len(wins) == len(group) else None,
        bounds=_pooled_bounds(group),
    )


def _pooled_bounds(group: Sequence[Comparison]) -> tuple[Contrast, ...]:
    n = max(len(one.bounds) for one in group)
    return tuple(
        stats.pool_models(
            [
                one.bounds[min(place, len(one.bounds) - 1)] if one.bounds else one.contrast
                for one in group
                if one.contrast is not None
            ]
        )
        for place in range(n)
    )


def _row(found: Comparison, primary: str) -> ContrastRow:
    """Turn a comparison into a row whose verdict no family has corrected yet."""
    metric = METRICS[found.metric]
    family = "" if not found.question else "primary" if found.metric == primary else "secondary"
    row = ContrastRow(
        recipe=found.recipe,
        metric=found.metric,
        baseline=found.baseline,
        treatment=found.treatment,
        estimate=found.estimate,
        low=None,
        high=None,
        p_value=None,
        df=None,
        test=f"not tested: {found.reason}",
        n_baseline=found.n_runs[0],
        n_treatment=found.n_runs[1],
        n_examples=found.n_examples,
        verdict=Verdict.NOT_TESTED,
        family=family,
        sesoi=found.sesoi,
        n_diverged=found.n_diverged,
    )
    contrast = found.contrast
    if contrast is None:
        return _given_convergence(row, found)
    low, high = contrast.interval()
    detectable_low, detectable_high = contrast.minimum_detectable_range()
    return _given_convergence(
        replace(
            row,
            low=low,
            high=high,
            p_value=contrast.p_value if family else None,
            df=contrast.df_seed,
            test=_test_name(found, contrast),
            verdict=stats.verdict(
                contrast, sesoi=found.sesoi, higher_is_better=metric.higher_is_better
            ),
            null_hypothesis=_null_hypothesis(found),
            shares=contrast.shares,
            n_clusters=contrast.n_clusters,
            n_models=contrast.n_models,
            tost_p=contrast.tost_p(found.sesoi) if found.sesoi is not None else None,
            detectable=contrast.minimum_detectable(),
            detectable_low=detectable_low,
            detectable_high=detectable_high,
            relative=found.estimate / abs(found.baseline_mean) if found.baseline_mean else None,
        ),
        found,
    )


def _given_convergence(row: ContrastRow, found: Comparison) -> ContrastRow:
    """Add other scopes; with diverged runs, keep a verdict only if it survives bounds."""
    row = _with_scopes(row, found)
    if found.n_diverged == 0:
        return row
    noun = "run" if found.n_diverged == 1 else "runs"
    row = replace(row, test=f"{row.test}; given convergence, {found.n_diverged} {noun} diverged")
    if found.contrast is None:
        return row
    metric = METRICS[row.metric]
    verdicts = [
        stats.verdict(bound, sesoi=found.sesoi, higher_is_better=metric.higher_is_better)
        for bound in found.bounds
    ]
    limits = [contrast.interval() for contrast in (found.contrast, *found.bounds)]
    side = Verdict(row.verdict).favours
    survives = side != 0 and bool(verdicts) and all(one.favours == side for one in verdicts)
    return replace(
        row,
        bound_low=min(low for low, _ in limits) if found.bounds else None,
        bound_high=max(high for _, high in limits) if found.bounds else None,
        verdict=row.verdict if survives else Verdict.INCONCLUSIVE,
        remark="holds whatever the diverged runs had scored" if survives else "runs diverged",
    )


def _with_scopes(row: ContrastRow, found: Comparison) -> ContrastRow:
    if found.test_set is not None:
        low, high = found.test_set.interval()
        p_value = found.test_set.p_value
        row = replace(row, test_set_low=low, test_set_high=high, test_set_p_value=p_value)
    if found.wins is not None:
        low, high = found.wins.interval()
        row = replace(
            row,
            win_rate=0.5 + found.wins.estimate,
            win_low=max(0.0, 0.5 + low),
            win_high=min(1.0, 0.5 + high),
        )
    return row


def _adjusted(rows: Sequence[ContrastRow], family: str) -> list[ContrastRow]:
    """Add Holm's p-values to the rows of one family; no test counts as p = 1."""
    places = [place for place, row in enumerate(rows) if row.family == family]
    corrected = stats.holm([rows[place].p_value for place in places])
    known = dict(zip(places, corrected, strict=True))
    return [
        replace(row, p_adjusted=known[place], family_size=len(places))
        if place in known and row.p_value is not None
        else row
        for place, row in enumerate(rows)
    ]


def _decided(row: ContrastRow, *, is_open: bool) -> ContrastRow:
    """Take back what the family's correction or the gate does not allow."""
    verdict = Verdict(row.verdict)
    if not row.family or not verdict.decided or verdict is Verdict.NEGLIGIBLE:
        return row
    if row.family == "primary" and not is_open:
        return replace(
            row, verdict=Verdict.INCONCLUSIVE, remark="the contrast over all models is not shown"
        )
    if row.p_adjusted is not None and row.p_adjusted > LEVEL:
        return replace(
            row, verdict=Verdict.INCONCLUSIVE, remark="not after correction for the family"
        )
    return row


def _with_lengths(rows: Sequence[ContrastRow]) -> list[ContrastRow]:
    """Remark on ROUGE that differs where the length of answers differs too."""
    changed = {
        (row.recipe, row.baseline, row.treatment)
        for row in rows
        if row.metric == "response_tokens" and row.low is not None and row.high is not None
        if not row.low <= 0 <= row.high
    }
    return [
        replace(row, remark="; ".join(filter(None, [row.remark, "length changed"])))
        if row.metric.startswith("rouge")
        and Verdict(row.verdict).decided
        and (row.recipe, row.baseline, row.treatment) in changed
        else row
        for row in rows
    ]


def _null_hypothesis(found: Comparison) -> str:
    if found.recipe == POOLED:
        return NULL_POOLED
    return NULL_AGAINST_FIXED if found.baseline == "base" else NULL_HYPOTHESIS


def _test_name(found: Comparison, contrast: Contrast) -> str:
    if found.baseline == "base":
        name = "one-sample seeds-by-prompts t over the treatment's seeds"
    elif contrast.paired:
        name = "seeds-by-prompts t (paired by seed)"
    else:
        name = "seeds-by-prompts t (Welch's over seeds)"
    pooled = f", pooled over {contrast.n_models} models" if contrast.n_models > 1 else ""
    exploratory = ", exploratory with 2 seeds" if contrast.n_seeds[1] == 2 else ""
    return f"{name}{pooled}{exploratory}"
