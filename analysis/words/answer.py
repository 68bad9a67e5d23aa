"""Sentences of the findings: words chosen by verdicts and records alone."""

from collections.abc import Sequence
from typing import Final

from analysis.printing import arm_name, in_unit, settings, signed, verdict_words
from analysis.records.metrics import METRICS
from analysis.rows import ArmRow, ContrastRow
from analysis.statistics.verdicts import Verdict
from study.arms import BASELINE

VERBS: Final = {
    Verdict.BETTER: "beats",
    Verdict.BETTER_BY_AT_LEAST: "beats",
    Verdict.WORSE: "falls behind",
    Verdict.WORSE_BY_AT_LEAST: "falls behind",
    Verdict.HIGHER: "differs from",
    Verdict.LOWER: "differs from",
}


def answer(
    contrasts: Sequence[ContrastRow],
    arms: Sequence[ArmRow],
    metric: str,
    treatments: Sequence[str],
) -> str:
    """Answer the study's question, SFT or another arm, in one sentence per treatment.

    With several recipes the contrast over all of them comes first.
    """
    if not treatments:
        return f"No arm can be compared with {arm_name(BASELINE)}: no other was planned."
    return " ".join(_answer(contrasts, arms, metric, treatment) for treatment in treatments)


def _answer(
    contrasts: Sequence[ContrastRow], arms: Sequence[ArmRow], metric: str, treatment: str
) -> str:
    """Answer whether one treatment beats the baseline."""
    names = arm_name(treatment), arm_name(BASELINE)
    contrasts = [row for row in contrasts if (row.baseline, row.treatment) == (BASELINE, treatment)]
    rows = {(arm.recipe, arm.arm): arm for arm in arms}
    asked = {row.recipe: row for row in contrasts if row.metric == metric}
    pooled = next((row for row in asked.values() if row.n_models > 1), None)
    parts = [_verdict_clause(pooled, *names, f"over {pooled.n_models} models")] if pooled else []
    for recipe in dict.fromkeys(arm.recipe for arm in arms):
        a, b, contrast = (
            rows.get((recipe, BASELINE)),
            rows.get((recipe, treatment)),
            asked.get(recipe),
        )
        if a is None or b is None or contrast is None:
            parts.append(
                f"on {recipe} {' and '.join(names)} cannot be compared: finished runs are missing"
            )
        elif pooled:
            parts.append(_short_clause(contrast, a, b))
        else:
            parts.append(_verdict_clause(contrast, _arm(b), _arm(a), f"on {recipe}", a, b))
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}.{_other_side(contrasts, metric, names)}"


BESIDE = ("nll", "exact_match", "rougeL")
"""Scores that a reader must know beside the primary one: likelihood and answers."""


def _other_side(contrasts: Sequence[ContrastRow], metric: str, names: tuple[str, str]) -> str:
    """Name the scores in which the treatment is worse than the baseline, or nothing.

    They are read over all models, or on the one model that there is.
    """
    pooled = [row for row in contrasts if row.n_models > 1]
    worse = [
        f"{METRICS[row.metric].label} {signed(row.estimate, METRICS[row.metric].digits)}"
        for row in pooled or contrasts
        if row.metric in BESIDE and row.metric != metric and _is_worse(row)
    ]
    listed = "; ".join(worse)
    return f" In other scores {' is worse than '.join(names)}: {listed}." if worse else ""


def _is_worse(row: ContrastRow) -> bool:
    """Tell whether the 95 % interval lies on the worse side of zero."""
    if row.low is None or row.high is None:
        return False
    return row.low > 0 if METRICS[row.metric].higher_is_better is False else row.high < 0


def _verdict_clause(
    contrast: ContrastRow, treatment: str, baseline: str, where: str, *runs: ArmRow
) -> str:
    """Say what a contrast shows, with its effect, interval and n."""
    metric = METRICS[contrast.metric]
    effect = f"{in_unit(signed(contrast.estimate, metric.digits), metric)} in {metric.label}"
    details = f"({_details(contrast)}{_diverged(*runs)})"
    margin = "" if contrast.sesoi is None else in_unit(f"±{contrast.sesoi:g}", metric)
    verdict = Verdict(contrast.verdict)
    if verdict in VERBS:
        return f"{treatment} {VERBS[verdict]} {baseline} {where} by {effect} {details}"
    if verdict is Verdict.NEGLIGIBLE:
        return (
            f"{treatment} differs from {baseline} {where} by a negligible {effect}, "
            f"within {margin} {details}"
        )
    if verdict is Verdict.EQUIVALENT:
        return f"{treatment} equals {baseline} {where} within {margin}: {effect} {details}"
    if verdict is Verdict.INCONCLUSIVE:
        return (
            f"no difference between {treatment} and {baseline} is shown {where}: {effect} is "
            f"inconclusive {details}"
        )
    reason = contrast.test.removeprefix("not tested: ")
    return (
        f"the difference between {treatment} and {baseline} {where}, {effect}, is not tested, "
        f"because {reason} {details}"
    )


def _short_clause(contrast: ContrastRow, a: ArmRow, b: ArmRow) -> str:
    """Say in a few words what a recipe adds to the contrast over all of them."""
    metric = METRICS[contrast.metric]
    return (
        f"on {contrast.recipe} {signed(contrast.estimate, metric.digits)}, "
        f"{verdict_words(contrast)}, with {_arm(b)} against {_arm(a)}{_diverged(a, b)}"
    )


def _details(contrast: ContrastRow) -> str:
    digits = METRICS[contrast.metric].digits
    size = f"{_seeds(contrast)}, {contrast.n_examples} held-out pairs"
    if contrast.low is None or contrast.high is None:
        return size
    return (
        f"95 % interval {signed(contrast.low, digits)} to {signed(contrast.high, digits)}; {size}"
    )


def _arm(row: ArmRow) -> str:
    untuned = "" if row.tuned else ", untuned"
    return f"{arm_name(row.arm)} ({settings(row.settings)}{untuned})"


def _seeds(contrast: ContrastRow) -> str:
    a, b = contrast.n_baseline, contrast.n_treatment
    if a != b:
        return f"{b} and {a} seeds"
    of_each = " of each model" if contrast.n_models > 1 else ""
    return "1 seed" if a == 1 else f"{a} seeds{of_each}"


def _diverged(*rows: ArmRow) -> str:
    words = [f"{row.n_diverged} {arm_name(row.arm)} diverged" for row in rows if row.n_diverged]
    return f"; {', '.join(words)}" if words else ""
