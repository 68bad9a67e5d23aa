"""Tables of contrasts: two arms beside each other in every score."""

from collections.abc import Sequence

from analysis.findings import ContrastRow, Findings, Metric
from analysis.printing import (
    arm_name,
    arrow,
    count,
    interval,
    number,
    p_value,
    percent,
    setting,
    signed,
    verdict_words,
    with_unit,
)
from paper.cells import Column, Group, Heading, Row, Span, Table, cell, one_group, row, slug, tone


def tests(findings: Findings, rows: Sequence[ContrastRow]) -> Table:
    """Print one comparison of two arms in every score, grouped by its test."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for found in rows:
        key = (found.null_hypothesis, found.test)
        groups.setdefault(key, []).append(_tested(findings, found))
    recipe, baseline, treatment = compared(rows)
    return Table(
        name=slug(f"tests {_key(rows[0])}"),
        columns=(
            Column(head="Score", width=0.17),
            Column(head="Effect", width=0.08, number=True),
            Column(head="95 % interval", width=0.15, number=True),
            Column(head="p-value", width=0.105, number=True),
            Column(head="Corrected", width=0.105, number=True),
            Column(head="Detectable", width=0.1, number=True),
            Column(head="Seeds", width=0.08, number=True),
            Column(head="Pairs", width=0.06, number=True),
            Column(head="Verdict", width=0.15),
        ),
        groups=tuple(
            Group(heading=_hypothesis(hypothesis, test), rows=tuple(group))
            for (hypothesis, test), group in groups.items()
        ),
        caption=f"{recipe}: {treatment} against {baseline}. The effect is the mean of {treatment} "
        f"minus the mean of {baseline}.",
        note=findings.table_notes[f"tests:{_key(rows[0])}"],
        signature=findings.signature,
    )


def parts(findings: Findings, rows: Sequence[ContrastRow]) -> Table:
    """Print other scopes and sizes of the effects of one comparison."""
    recipe, baseline, treatment = compared(rows)
    return Table(
        name=slug(f"parts {_key(rows[0])}"),
        columns=(
            Column(head="Score", width=0.17),
            Column(head="On these\npairs alone", width=0.16, number=True),
            Column(head="df", width=0.05, number=True),
            Column(head="Prompts\nwon", width=0.14, number=True),
            Column(head="Relative", width=0.09, number=True),
            Column(head="Smallest\neffect of\ninterest", width=0.08, number=True),
            Column(head="Equivalence,\ncorrected", width=0.13, number=True),
            Column(head="Detectable,\nrange", width=0.18, number=True),
        ),
        groups=one_group([_parts_of(findings.metrics[found.metric], found) for found in rows]),
        caption=f"{recipe}: {treatment} against {baseline}, other scopes and sizes of the same "
        "effects.",
        note=findings.table_notes[f"parts:{_key(rows[0])}"],
        signature=findings.signature,
    )


def comparisons(findings: Findings) -> list[tuple[ContrastRow, ...]]:
    """List the comparisons of two arms: pooled over models first, then each recipe's."""
    groups: dict[str, list[ContrastRow]] = {}
    for found in (*findings.pooled, *findings.contrasts):
        groups.setdefault(_key(found), []).append(found)
    return [tuple(group) for group in groups.values()]


def compared(rows: Sequence[ContrastRow]) -> tuple[str, str, str]:
    """Name the recipe, the baseline and the treatment of one comparison."""
    return rows[0].recipe, arm_name(rows[0].baseline), arm_name(rows[0].treatment)


def _key(found: ContrastRow) -> str:
    return f"{found.recipe}:{found.baseline}:{found.treatment}"


def _hypothesis(hypothesis: str, test: str) -> Heading:
    if not hypothesis:
        return Heading(spans=(Span(text=f"{test}."),))
    return Heading(
        spans=(
            Span(text="Null hypothesis:", strong=True),
            Span(text=f" {hypothesis}. "),
            Span(text="Test:", strong=True),
            Span(text=f" {test}."),
        )
    )


def _tested(findings: Findings, found: ContrastRow) -> Row:
    metric = findings.metrics[found.metric]
    failures = interval(found.bound_low, found.bound_high, metric.digits)
    return row(
        with_unit(metric.label, metric.unit) + arrow(metric),
        signed(found.estimate, metric.digits),
        cell(
            interval(found.low, found.high, metric.digits),
            note="" if found.bound_low is None else f"with failures {failures}",
        ),
        p_value(found.p_value),
        p_value(found.p_adjusted),
        number(found.detectable, metric.digits),
        f"{found.n_treatment} and {found.n_baseline}",
        count(found.n_examples),
        cell(verdict_words(found), note=found.remark, tone=tone(found.verdict)),
        primary=found.metric in findings.primary_metrics,
    )


def _parts_of(metric: Metric, found: ContrastRow) -> Row:
    won = [percent(found.win_rate)]
    if found.win_rate is not None:
        won.append(interval(found.win_low, found.win_high, 2))
    return row(
        with_unit(metric.label, metric.unit),
        interval(found.test_set_low, found.test_set_high, metric.digits),
        number(found.df, 1),
        cell(*won),
        percent(found.relative),
        setting(found.sesoi),
        p_value(found.tost_adjusted),
        interval(found.detectable_low, found.detectable_high, metric.digits),
    )
