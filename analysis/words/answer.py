"""Sentences of the findings: words chosen by verdicts and records alone."""

from collections.abc import Sequence
from typing import Final

from analysis.printing import arm_name, in_unit, settings, signed, verdict_words
from analysis.records.metrics import METRICS
from analysis.rows import ArmRow, ContrastRow
from analysis.statistics.verdicts import Verdict

VERBS: Final = {
    Verdict.BETTER: "beats",
    Verdict.BETTER_BY_AT_LEAST: "beats",
    Verdict.WORSE: "falls behind",
    Verdict.WORSE_BY_AT_LEAST: "falls behind",
    Verdict.HIGHER: "differs from",
    Verdict.LOWER: "differs from",
}


def answer(contrasts: Sequence[ContrastRow], arms: Sequence[ArmRow], metric: str) -> str:
    """Answer the study's question, ORPO or SFT, in one sentence over all recipes.

    With several recipes the contrast over all of them comes first.
    """
    rows = {(arm.recipe, arm.arm): arm for arm in arms}
    asked = {
        row.recipe: row
        for row in contrasts
        if (row.metric, row.baseline, row.treatment) == (metric, "sft", "orpo")
    }
    pooled = next((row for row in asked.values() if row.n_models > 1), None)
    parts = (
        [_verdict_clause(pooled, "ORPO", "SFT", f"over {pooled.n_models} models")] if pooled else []
    )
    for recipe in dict.fromkeys(arm.recipe for arm in arms):
        sft, orpo, contrast = (
            rows.get((recipe, "sft")),
            rows.get((recipe, "orpo")),
            asked.get(recipe),
        )
        if sft is None or orpo is None or contrast is None:
            parts.append(f"on {recipe} ORPO and SFT cannot be compared: finished runs are missing")
        elif pooled:
            parts.append(_short_clause(contrast, sft, orpo))
        else:
            parts.append(
                _verdict_clause(contrast, _arm(orpo), _arm(sft), f"on {recipe}", sft, orpo)
            )
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}.{_other_side(contrasts, metric)}"


BESIDE = ("nll", "exact_match", "rougeL")
"""Scores that a reader must know beside the primary one: likelihood and answers."""


def _other_side(contrasts: Sequence[ContrastRow], metric: str) -> str:
    """Name the scores in which ORPO is worse than SFT, or nothing.

    They are read over all models, or on the one model that there is.
    """
    rows = [row for row in contrasts if (row.baseline, row.treatment) == ("sft", "orpo")]
    pooled = [row for row in rows if row.n_models > 1]
    worse = [
        f"{METRICS[row.metric].label} {signed(row.estimate, METRICS[row.metric].digits)}"
        for row in pooled or rows
        if row.metric in BESIDE and row.metric != metric and _is_worse(row)
    ]
    return f" In other scores ORPO is worse than SFT: {'; '.join(worse)}." if worse else ""


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


def _short_clause(contrast: ContrastRow, sft: ArmRow, orpo: ArmRow) -> str:
    """Say in a few words what a recipe adds to the contrast over all of them."""
    metric = METRICS[contrast.metric]
    return (
        f"on {contrast.recipe} {signed(contrast.estimate, metric.digits)}, "
        f"{verdict_words(contrast)}, with {_arm(orpo)} against {_arm(sft)}{_diverged(sft, orpo)}"
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
