"""The answer where several arms are compared with the baseline."""

from collections.abc import Iterator, Sequence
from typing import Final

from analysis.judged_rows import BestSetRow, DecisionRow, PairRow
from analysis.printing import arm_name, capital, in_unit, is_matched, listed, number, signed
from analysis.records.metrics import METRICS
from analysis.statistics import Outcome
from study.arms import BASELINE
from study.config.judging import ANSWERS

MOST_NAMED: Final = 3
"""Arms in a list of the headline; longer ones are counted."""
MANY: Final = 3
"""Treatments from which on the answer is told by what they share, not one by one."""
ORDER: Final = (
    Outcome.BETTER, Outcome.TRADE_OFF, Outcome.EQUIVALENT, Outcome.DEPENDS,
    Outcome.INCONCLUSIVE, Outcome.WORSE,
)  # fmt: skip
"""Outcomes as they are listed, the best first; what was not tested comes last."""


def answer(rows: Sequence[DecisionRow], best_sets: Sequence[BestSetRow]) -> str:
    """Tell what many arms come to: the best, the verdicts, cost; effects are in the table.

    Args:
        rows: decisions for every treatment over all models, or on the only one.
        best_sets: of every co-primary metric.
    """
    return " ".join([*map(_best, best_sets), *_verdicts(rows), *_beyond_tokens(best_sets, rows),
                     *_costs(rows), _size(rows[0])])  # fmt: skip


def by_outcome(rows: Sequence[DecisionRow]) -> list[DecisionRow]:
    """Sort decisions by what was decided, the best first, arms in their own order."""
    known = list(map(str, ORDER))
    return sorted(
        rows, key=lambda row: known.index(row.outcome) if row.outcome in known else len(known)
    )


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
    control = next((arm for arm in treatments if is_matched(arm)), None)
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


def _best(row: BestSetRow) -> str:
    """Name the leader in one metric, with its lead, and whom it is not shown to beat."""
    metric = METRICS[row.metric]
    first, *others = in_lead(row)
    pair = _pair(row, BASELINE, first)
    lead = ""
    if pair is not None:
        low, high = (signed(value, metric.digits) for value in (pair.low, pair.high))
        effect = in_unit(signed(pair.estimate, metric.digits), metric)
        lead = f" ({effect} over {arm_name(BASELINE)}, 95 % interval {low} to {high})"
    level = listed([arm_name(arm) for arm in others])
    return (
        f"Best in {metric.label}: {arm_name(first)}{lead}"
        f"{f', not shown to beat {level}' if level else ''}."
    )


def _verdicts(rows: Sequence[DecisionRow]) -> Iterator[str]:
    """List the arms of every outcome, and once why arms were not tested."""
    arms: dict[str, list[str]] = {}
    for row in by_outcome(rows):
        arms.setdefault(row.outcome, []).append(arm_name(row.treatment))
    told = "; ".join(f"{outcome}: {listed(names)}" for outcome, names in arms.items())
    yield f"Over both metrics, against {arm_name(BASELINE)}, {told}."
    if len(arms) == 1 and rows[0].reason:
        yield f"For {arm_name(rows[0].treatment)} the reason is: {rows[0].reason}."


def _beyond_tokens(best_sets: Sequence[BestSetRow], rows: Sequence[DecisionRow]) -> Iterator[str]:
    """Name the arms that beat the baseline with as many tokens, where there is one."""
    control = next((row.treatment for row in rows if is_matched(row.treatment)), None)
    if control is None or not best_sets:
        return
    said = []
    for row in best_sets:
        better = [
            arm_name(one.treatment)
            for one in rows
            if one.treatment != control and _is_shown(row, control, one.treatment)
        ]
        said.append(f"in {METRICS[row.metric].label} {listed(better) or 'none'}")
    yield (
        f"Shown to be better than {arm_name(control)}, which took as many tokens as the dearest "
        f"arm (Holm over all pairs): {', '.join(said)}."
    )


def _is_shown(row: BestSetRow, control: str, arm: str) -> bool:
    pair = _pair(row, control, arm)
    if pair is None or pair.p_adjusted > 0.05:
        return False
    return (pair.estimate > 0) == (METRICS[row.metric].higher_is_better is not False)


def _costs(rows: Sequence[DecisionRow]) -> Iterator[str]:
    """Say between which arms the cost of training lies."""
    ratios = sorted(
        (row.costs["train_s"], arm_name(row.treatment)) for row in rows if "train_s" in row.costs
    )
    if ratios:
        (low, cheap), (high, dear) = ratios[0], ratios[-1]
        yield (
            f"Training takes from {number(low, 2)} ({cheap}) to {number(high, 2)} ({dear}) times "
            f"the seconds of {arm_name(BASELINE)}."
        )


def _size(row: DecisionRow) -> str:
    seeds = min(row.n_seeds)
    each = f" of each of {row.n_models} models" if row.n_models > 1 else ""
    n = f"{seeds} {'seed' if seeds == 1 else 'seeds'} per arm{each}"
    return f"{n}, {row.n_examples} held-out pairs."


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
    first, *others = in_lead(row)
    what = "answers best" if row.metric in ANSWERS else "ranks given pairs best"
    if row.metric == "nll":
        what = "expects chosen answers best"
    over = ""
    if first != BASELINE:
        pair = _pair(row, BASELINE, first)
        effect = in_unit(signed(pair.estimate if pair else 0.0, metric.digits), metric)
        over = f" ({effect} {metric.label} over {arm_name(BASELINE)})"
    named = " and ".join(map(arm_name, others))
    alike = named if len(others) < MOST_NAMED else f"{len(others)} others"
    return f"{arm_name(first)} {what}{over}{f', level with {alike}' if others else ''}"


def in_lead(row: BestSetRow) -> list[str]:
    """Sort the arms of a best set by their lead over the baseline."""
    sign = -1 if METRICS[row.metric].higher_is_better is False else 1

    def lead(arm: str) -> float:
        pair = _pair(row, BASELINE, arm)
        return 0.0 if pair is None else sign * pair.estimate

    return sorted(row.kept, key=lead, reverse=True)


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
