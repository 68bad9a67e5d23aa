"""Whether training made chosen answers less likely while it ranked them better."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from analysis.judge.comparisons import Comparison
from analysis.judged_rows import DisplacementRow
from analysis.printing import arm_name, in_unit, number, signed
from analysis.records.metrics import METRICS
from analysis.records.study import RunRecord, StudyRecords
from study.arms import ARMS, UNTRAINED

MOST_SENTENCES: Final = 3
"""Flags that have a sentence each; more are listed model by model."""
REWARDS: Final = ("chosen_reward", "rejected_reward", "reward_accuracy")
"""Columns of the logged training steps, of arms that read a reference."""


def displacement_rows(
    records: StudyRecords, found: Sequence[Comparison]
) -> tuple[DisplacementRow, ...]:
    """Compare every arm's chosen answers and margin with what it starts from.

    An arm that continues SFT is compared with SFT of as many updates in all, the
    others with the base model, on held-out pairs. An arm is flagged where the 95 %
    intervals of the chosen answers' log-probability and of the margin lie below and
    above zero; where no interval can be had, from one run, the estimates decide.

    Source: Razin et al. (2024), who call it likelihood displacement.
    """
    known = {(one.recipe, one.baseline, one.treatment, one.metric): one for one in found}
    rows = []
    for recipe in records.recipes:
        for arm in records.arms(recipe):
            start = (ARMS[arm].starts_from if arm in ARMS else None) or UNTRAINED
            chosen = known.get((recipe, start, arm, "chosen_logps"))
            margin = known.get((recipe, start, arm, "margin"))
            if chosen is not None and margin is not None:
                rows.append(_row(records.ok(recipe, arm), chosen, margin))
    return tuple(rows)


def displacement(rows: Sequence[DisplacementRow]) -> tuple[str, ...]:
    """Flag the arms whose chosen answers lost likelihood while their margin grew."""
    flagged = [row for row in rows if row.flagged]
    if len(flagged) > MOST_SENTENCES:
        return tuple(
            _listed(recipe, [row for row in flagged if row.recipe == recipe])
            for recipe in dict.fromkeys(row.recipe for row in flagged)
        )
    return tuple(
        f"Flag, {row.recipe}: {arm_name(row.arm)} makes chosen answers less likely than "
        f"{_start(row)} does, {_effect('chosen_logps', row.chosen)}, while its margin grows, "
        f"{_effect('margin', row.margin)}: it ranks by making rejected answers even less likely, "
        "and what it generates may resemble neither."
        for row in flagged
    )


def _row(runs: Sequence[RunRecord], chosen: Comparison, margin: Comparison) -> DisplacementRow:
    effects = [_bounded(one) for one in (chosen, margin)]
    high, margin_low = effects[0][2], effects[1][1]
    chosen_high = effects[0][0] if high is None else high
    return DisplacementRow(
        recipe=chosen.recipe,
        arm=chosen.treatment,
        start=chosen.baseline,
        chosen=effects[0],
        margin=effects[1],
        flagged=chosen_high < 0 < (effects[1][0] if margin_low is None else margin_low),
        rewards=_rewards(runs),
    )


def _bounded(found: Comparison) -> tuple[float, float | None, float | None]:
    if found.contrast is None:
        return found.estimate, None, None
    return found.estimate, *found.contrast.interval()


def _rewards(runs: Sequence[RunRecord]) -> tuple[float, ...]:
    """Average the last logged implicit rewards over runs; empty where none were logged."""
    last = [
        [row[name] for name in REWARDS]
        for run in runs
        for row in [row for row in run.steps if row["split"] == "train"][-1:]
        if all(row.get(name) is not None for name in REWARDS)
    ]
    return tuple(float(value) for value in np.mean(last, axis=0)) if last else ()


def _listed(recipe: str, rows: Sequence[DisplacementRow]) -> str:
    named = ", ".join(
        f"{arm_name(row.arm)} ({_size('chosen_logps', row.chosen[0])})" for row in rows
    )
    return (
        f"Flag, {recipe}: chosen answers become less likely while the margin grows in {named}; "
        "what these generate may resemble neither answer."
    )


def _start(row: DisplacementRow) -> str:
    return "the base model" if row.start == UNTRAINED else arm_name(row.start)


def _size(metric: str, value: float) -> str:
    return in_unit(signed(value, METRICS[metric].digits), METRICS[metric])


def _effect(metric: str, effect: tuple[float, float | None, float | None]) -> str:
    estimate, *bounds = effect
    size = _size(metric, estimate)
    if bounds[0] is None:
        return f"by {size} in one run, which is not tested"
    low, high = (number(bound, METRICS[metric].digits) for bound in bounds)
    return f"by {size} (95 % interval {low} to {high})"
