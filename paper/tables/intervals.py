"""Tables of differences with intervals and without tests."""

from collections.abc import Iterable, Sequence

from analysis.findings import Findings, IntervalRow
from analysis.printing import MISSING, arm_name, arrow, count, interval, signed, with_unit
from paper.cells import Cell, Column, Group, Heading, Span, Table, cell, row, slug


def subgroups(findings: Findings, recipe: str, treatment: str) -> Table | None:
    """Print the differences within subgroups on one model or over all; None without any."""
    rows = _of(findings.subgroups, recipe, treatment)
    if not rows:
        return None
    groupings = dict.fromkeys(found.grouping for found in rows)
    return _table(
        findings,
        name=f"subgroups-{slug(recipe)}-{slug(treatment)}",
        head="Pairs",
        groups=[
            (grouping, dict.fromkeys(found.group for found in rows if found.grouping == grouping))
            for grouping in groupings
        ],
        rows=rows,
        metrics=list(dict.fromkeys(found.metric for found in rows)),
        caption=f"{recipe}: {_compared(rows)} within registered subgroups, with 95 % intervals.",
    )


def matched(findings: Findings) -> Table | None:
    """Print the differences from the baseline with as many tokens; None without that arm."""
    metrics = [name for name in findings.primary_metrics if name in findings.metrics]
    rows = [found for found in findings.matched if found.metric in metrics]
    if not rows:
        return None
    recipes = dict.fromkeys(found.recipe for found in rows)
    treatments = dict.fromkeys(found.treatment for found in rows)
    if len(treatments) > 1:
        widest = next(iter(recipes))
        return _table(
            findings,
            name="matched",
            head="Arm",
            groups=[("", map(arm_name, treatments))],
            rows=[_called(found) for found in rows if found.recipe == widest],
            metrics=metrics,
            caption=f"Every arm minus {arm_name(rows[0].baseline)}, which was given as many "
            f"distinct tokens, {widest}: what the loss adds at equal cost, with 95 % intervals.",
            is_dense=True,
        )
    return _table(
        findings,
        name="matched",
        head="Model",
        groups=[("", recipes)],
        rows=[_named(found) for found in rows],
        metrics=metrics,
        caption=f"{_compared(rows)}, which was given as many distinct tokens: what the loss adds "
        "at equal cost, with 95 % intervals.",
    )


def scopes(findings: Findings) -> tuple[tuple[str, str], ...]:
    """List (recipe, treatment) of which there are subgroups, the widest scope first."""
    return tuple(dict.fromkeys((row.recipe, row.treatment) for row in findings.subgroups))


def _of(rows: Iterable[IntervalRow], recipe: str, treatment: str) -> list[IntervalRow]:
    return [row for row in rows if (row.recipe, row.treatment) == (recipe, treatment)]


def _named(found: IntervalRow) -> IntervalRow:
    """Take the model for the group."""
    return IntervalRow(**{**vars(found), "group": found.recipe})


def _called(found: IntervalRow) -> IntervalRow:
    """Take the arm for the group."""
    return IntervalRow(**{**vars(found), "group": arm_name(found.treatment)})


def _compared(rows: Sequence[IntervalRow]) -> str:
    return f"{arm_name(rows[0].treatment)} minus {arm_name(rows[0].baseline)}"


def _table(
    findings: Findings,
    *,
    name: str,
    head: str,
    groups: Sequence[tuple[str, Iterable[str]]],
    rows: Sequence[IntervalRow],
    metrics: Sequence[str],
    caption: str,
    is_dense: bool = False,
) -> Table:
    known = {(found.grouping, found.group, found.metric): found for found in rows}
    labels = [findings.metrics[metric] for metric in metrics]
    return Table(
        name=name,
        columns=(
            Column(head=head, width=0.34),
            *(
                Column(
                    head=with_unit(metric.label, metric.unit) + arrow(metric),
                    width=round(0.66 / len(labels), 3),
                    number=True,
                )
                for metric in labels
            ),
        ),
        groups=tuple(
            Group(
                heading=Heading(spans=(Span(text=f"By {grouping}"),)) if grouping else None,
                rows=tuple(
                    row(
                        group,
                        *(
                            _effect(findings, known.get((grouping, group, metric)))
                            for metric in metrics
                        ),
                    )
                    for group in names
                ),
            )
            for grouping, names in groups
        ),
        caption=caption,
        note=findings.table_notes["intervals"],
        signature=findings.signature,
        is_dense=is_dense,
    )


def _effect(findings: Findings, found: IntervalRow | None) -> Cell:
    if found is None:
        return cell(MISSING)
    digits = findings.metrics[found.metric].digits
    return cell(
        f"{signed(found.estimate, digits)} {interval(found.low, found.high, digits)}, "
        f"n {count(found.n_examples)}"
    )
