"""Compare the arms of a study: every contrast, its family and its verdict.

Families (METHODS.md, 4): the primary metric of treatment against SFT over
all models is the primary family, gated by the contrast pooled over models; the
other metrics of the same arms are a secondary family. Both are corrected by
Holm. Contrasts with the untrained model are in neither and get no p-value.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from analysis import statistics as stats
from analysis.judge.comparisons import POOLED, Comparison
from analysis.records.metrics import METRICS
from analysis.rows import ContrastRow
from analysis.statistics import Contrast
from analysis.statistics.verdicts import Verdict
from study.arms import UNTRAINED

LEVEL: Final = 0.05


NULL_HYPOTHESIS = "over training seeds and prompts like these, both arms have the same mean score"


NULL_AGAINST_FIXED = (
    "over training seeds and prompts like these, the arm's mean score is that of the base model"
)


NULL_POOLED = (
    "over training seeds and prompts like these, the difference between the arms' mean scores, "
    "averaged over exactly these models, is zero"
)


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
    gates = {row.treatment: row.p_value for row in over_all if row.metric == primary}
    shut = {arm for arm, p_value in gates.items() if p_value is None or p_value > LEVEL}
    rows = [_decided(row, is_open=row.treatment not in shut) for row in rows]
    over_all = [_decided(row, is_open=True) for row in over_all]
    return tuple(_with_lengths(rows)), tuple(_with_lengths(over_all))


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
    return NULL_AGAINST_FIXED if found.baseline == UNTRAINED else NULL_HYPOTHESIS


def _test_name(found: Comparison, contrast: Contrast) -> str:
    if found.baseline == UNTRAINED:
        name = "one-sample seeds-by-prompts t over the treatment's seeds"
    elif contrast.paired:
        name = "seeds-by-prompts t (paired by seed)"
    else:
        name = "seeds-by-prompts t (Welch's over seeds)"
    pooled = f", pooled over {contrast.n_models} models" if contrast.n_models > 1 else ""
    exploratory = ", exploratory with 2 seeds" if contrast.n_seeds[1] == 2 else ""
    return f"{name}{pooled}{exploratory}"
