"""The answer where several arms are compared with the baseline."""

from collections.abc import Sequence
from typing import Final

from analysis.judged_rows import BestSetRow, DecisionRow, PairRow
from analysis.printing import arm_name, capital, in_unit, signed
from analysis.records.metrics import METRICS
from analysis.statistics import Outcome
from study.arms import ARMS, BASELINE
from study.config.judging import ANSWERS

MOST_NAMED: Final = 3
"""Arms in a list of the headline; longer ones are counted."""


def headline(rows: Sequence[DecisionRow], best_sets: Sequence[BestSetRow]) -> str:
    """Name the best arm in each co-primary metric, and those that are better than the baseline.

    Args:
        rows: decisions for every treatment over all models, or on the only one.
        best_sets: of every co-primary metric.
    """
    first = rows[0]
    where = f"over {first.n_models} models" if first.n_models > 1 else f"on {first.recipe}"
    better = [arm_name(row.treatment) for row in rows if row.outcome == Outcome.BETTER]
    named = " and ".join(better) if len(better) <= MOST_NAMED else f"{len(better)} of {len(rows)}"
    verdict = f"better than {arm_name(BASELINE)} in all: {named or 'none'}"
    clauses = "; ".join([*map(_leader, best_sets), verdict])
    return f"{capital(where)} {clauses}."


def matched(best_sets: Sequence[BestSetRow], treatments: Sequence[str]) -> str:
    """Compare every treatment with the baseline that had as many tokens; empty without one."""
    control = next((arm for arm in treatments if _is_control(arm)), None)
    if control is None:
        return ""
    said = [
        f"{arm_name(arm)} {effects}"
        for arm in treatments
        if arm != control and (effects := _effects(best_sets, control, arm))
    ]
    if not said:
        return ""
    return (
        f"Against {arm_name(control)}, which took as many tokens as the dearest arm: "
        f"{'; '.join(said)} (95 % intervals, one by one)."
    )


def _is_control(arm: str) -> bool:
    return arm in ARMS and ARMS[arm].budget == "tokens" and ARMS[arm].tuned_as == BASELINE


def _effects(best_sets: Sequence[BestSetRow], control: str, arm: str) -> str:
    words = []
    for row in best_sets:
        metric = METRICS[row.metric]
        if (pair := _pair(row, control, arm)) is None:
            continue
        values = [signed(value, metric.digits) for value in (pair.estimate, pair.low, pair.high)]
        words.append(f"{in_unit(values[0], metric)} {metric.label} ({values[1]} to {values[2]})")
    return " and ".join(words)


def _leader(row: BestSetRow) -> str:
    metric = METRICS[row.metric]
    sign = -1 if metric.higher_is_better is False else 1

    def lead(arm: str) -> float:
        pair = _pair(row, BASELINE, arm)
        return 0.0 if pair is None else sign * pair.estimate

    first, *others = sorted(row.kept, key=lead, reverse=True)
    what = "answers best" if row.metric in ANSWERS else "ranks given pairs best"
    if row.metric == "nll":
        what = "expects chosen answers best"
    over = ""
    if first != BASELINE:
        effect = in_unit(signed(sign * lead(first), metric.digits), metric)
        over = f" ({effect} {metric.label} over {arm_name(BASELINE)})"
    named = " and ".join(map(arm_name, others))
    alike = named if len(others) < MOST_NAMED else f"{len(others)} others"
    return f"{arm_name(first)} {what}{over}{f', level with {alike}' if others else ''}"


def _pair(row: BestSetRow, baseline: str, treatment: str) -> PairRow | None:
    """Return one contrast, turned round where the family has it the other way."""
    for pair in row.pairs:
        if (pair.baseline, pair.treatment) == (baseline, treatment):
            return pair
        if (pair.treatment, pair.baseline) == (baseline, treatment):
            return PairRow(
                baseline=baseline,
                treatment=treatment,
                estimate=-pair.estimate,
                low=-pair.high,
                high=-pair.low,
                p_adjusted=pair.p_adjusted,
            )
    return None
