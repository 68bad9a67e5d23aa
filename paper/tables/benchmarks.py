"""The table of benchmark scores."""

from analysis.findings import BenchmarkRow, Findings
from analysis.printing import MISSING, arm_name, number, p_value, signed
from paper.cells import Column, Group, Heading, Row, Span, Table, cell, row

NOTE = (
    "Above chance is (accuracy − chance) / (1 − chance), averaged over tasks of equal weight; "
    "intervals are over seeds and over items like these within exactly these tasks, clustered by "
    "passage. Holm-corrected over the treatments, tasks behind them. The plan does not name these "
    "scores, so they are no part of the verdict."
)


def benchmark(findings: Findings) -> Table:
    """Print every arm's average and tasks, beside the baseline's."""
    places = dict.fromkeys((r.recipe, r.form, r.group) for r in findings.benchmarks)
    return Table(
        name="benchmarks",
        columns=(
            Column(head="Arm", width=0.24, unbroken=True),
            Column(head="Runs", width=0.07, number=True),
            Column(head="Items", width=0.08, number=True),
            Column(head="Accuracy", width=0.11, number=True),
            Column(head="Above chance", width=0.2, number=True),
            Column(head="Minus SFT's", width=0.2, number=True),
            Column(head="p (Holm)", width=0.1, number=True),
        ),
        groups=tuple(
            Group(
                heading=Heading(spans=(Span(text=f"{recipe}, {form}, {group}", strong=True),)),
                rows=tuple(
                    _row(found)
                    for found in findings.benchmarks
                    if (found.recipe, found.form, found.group) == (recipe, form, group)
                ),
            )
            for recipe, form, group in places
        ),
        caption="Scores on benchmarks: averages over tasks first, then every task.",
        note=NOTE,
        signature=findings.signature,
    )


def _row(found: BenchmarkRow) -> Row:
    name = arm_name(found.arm)
    return row(
        f"{name}, {found.task}" if found.task else f"{name}, all tasks",
        str(found.n_seeds),
        str(found.n_items),
        number(found.accuracy, 3),
        cell(number(found.above_chance, 3), note=_interval(found.low, found.high)),
        MISSING
        if found.difference is None
        else cell(
            signed(found.difference, 3), note=_interval(found.difference_low, found.difference_high)
        ),
        MISSING if found.p_adjusted is None else p_value(found.p_adjusted),
        primary=not found.task,
    )


def _interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None else f"{number(low, 3)} to {number(high, 3)}"
