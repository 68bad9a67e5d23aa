"""Compare the arms of a study: every contrast, its family and its verdict.

Families (METHODS.md, 4): the co-primary metrics of every treatment against the
baseline, each at half the level; over several treatments corrected by Holm; single
models behind the gate of all, by closed testing. The other registered metrics are
a secondary family, corrected by Holm. Everything else gets an interval and no test.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from analysis import statistics as stats
from analysis.judge.comparisons import POOLED, Comparison
from analysis.judge.judged import Judged
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
    found: Sequence[Comparison], pooled: Sequence[Comparison], judged: Judged
) -> tuple[tuple[ContrastRow, ...], tuple[ContrastRow, ...]]:
    """Judge comparisons in their families.

    Returns:
        The rows of every recipe, and those pooled over models.
    """
    rows = [_row(one, judged) for one in (*found, *pooled)]
    rows = _secondary(_primary(rows, judged))
    rows = _with_lengths([_decided(row) for row in _equivalence(rows)])
    return tuple(rows[: len(found)]), tuple(rows[len(found) :])


def _primary(rows: Sequence[ContrastRow], judged: Judged) -> list[ContrastRow]:
    """Correct the co-primary metrics.

    Half the level for each of two metrics; Holm over the treatments on average of
    the models; behind that gate each model by closed testing, with Bonferroni over
    the treatments.
    """
    adjusted: dict[tuple[str, str, str], float] = {}
    for metric in judged.primary:
        mine = [row for row in rows if row.family == "primary" and row.metric == metric]
        arms = list(dict.fromkeys(row.treatment for row in mine))
        over_all = {row.treatment: row.p_value for row in mine if row.recipe == POOLED}
        only = {row.treatment: row.p_value for row in mine if row.recipe != POOLED}
        several = len({row.recipe for row in mine} - {POOLED}) > 1
        deciding = [(over_all if several else only).get(arm) for arm in arms]
        for arm, gate in zip(arms, stats.holm(deciding), strict=True):
            adjusted[POOLED, metric, arm] = gate
            singles = {
                row.recipe: None if row.p_value is None else min(1.0, len(arms) * row.p_value)
                for row in mine
                if row.treatment == arm and row.recipe != POOLED
            }
            behind = stats.behind_gate(gate, singles) if several else dict.fromkeys(singles, gate)
            adjusted |= {(recipe, metric, arm): p for recipe, p in behind.items()}
    n = len(judged.primary)
    size = sum(row.family == "primary" for row in rows)
    return [
        replace(
            row,
            family_size=size,
            p_adjusted=min(1.0, n * adjusted[row.recipe, row.metric, row.treatment]),
        )
        if row.family == "primary" and row.p_value is not None
        else row
        for row in rows
    ]


def _secondary(rows: Sequence[ContrastRow]) -> list[ContrastRow]:
    """Correct the other registered metrics by Holm; no test counts as p = 1."""
    places = [place for place, row in enumerate(rows) if row.family == "secondary"]
    corrected = stats.holm([rows[place].p_value for place in places])
    known = dict(zip(places, corrected, strict=True))
    return [
        replace(row, p_adjusted=known[place], family_size=len(places))
        if place in known and row.p_value is not None
        else row
        for place, row in enumerate(rows)
    ]


def _equivalence(rows: Sequence[ContrastRow]) -> list[ContrastRow]:
    """Correct the tests of equivalence by Holm over all registered rows."""
    places = [place for place, row in enumerate(rows) if row.family and row.tost_p is not None]
    corrected = stats.holm([rows[place].tost_p for place in places])
    known = dict(zip(places, corrected, strict=True))
    return [replace(row, tost_adjusted=known.get(place)) for place, row in enumerate(rows)]


def _row(found: Comparison, judged: Judged) -> ContrastRow:
    """Turn a comparison into a row whose verdict no family has corrected yet."""
    metric = METRICS[found.metric]
    family = ""
    if found.question and found.metric in judged.registered:
        family = "primary" if found.metric in judged.primary else "secondary"
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
            verdict=Verdict.DESCRIBED
            if found.question and not family
            else stats.verdict(
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
    """Add other scopes; with diverged runs say so, and what the worst scores would do."""
    row = _with_scopes(row, found)
    if found.n_diverged == 0:
        return row
    noun = "run" if found.n_diverged == 1 else "runs"
    row = replace(row, test=f"{row.test}; given convergence, {found.n_diverged} {noun} diverged")
    if found.contrast is None:
        return row
    limits = [contrast.interval() for contrast in (found.contrast, *found.bounds)]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    holds = bool(found.bounds) and (low > 0 or high < 0)
    return replace(
        row,
        bound_low=low if found.bounds else None,
        bound_high=high if found.bounds else None,
        remark="holds whatever the diverged runs had scored" if holds else "when it converges",
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


def _decided(row: ContrastRow) -> ContrastRow:
    """Take back what the corrections do not allow."""
    verdict = Verdict(row.verdict)
    if not row.family or row.low is None or row.high is None:
        return row
    within = row.tost_adjusted is not None and row.tost_adjusted <= LEVEL
    differs = row.p_adjusted is not None and row.p_adjusted <= LEVEL
    if verdict in (Verdict.EQUIVALENT, Verdict.NEGLIGIBLE):
        kept = within and (differs or verdict is Verdict.EQUIVALENT)
        if within and not kept:
            return replace(row, verdict=Verdict.EQUIVALENT)
        return row if kept else replace(row, verdict=Verdict.INCONCLUSIVE, remark=_remark(row))
    if verdict.decided and not differs:
        return replace(row, verdict=Verdict.INCONCLUSIVE, remark=_remark(row))
    return row


def _remark(row: ContrastRow) -> str:
    return "; ".join(filter(None, [row.remark, "not after correction for the family"]))


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
        and (Verdict(row.verdict).decided or _is_apart(row))
        and (row.recipe, row.baseline, row.treatment) in changed
        else row
        for row in rows
    ]


def _is_apart(row: ContrastRow) -> bool:
    """Tell whether an interval alone, without a test, excludes zero."""
    alone = row.verdict == Verdict.DESCRIBED and row.low is not None and row.high is not None
    return alone and not (row.low or 0.0) <= 0 <= (row.high or 0.0)


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
