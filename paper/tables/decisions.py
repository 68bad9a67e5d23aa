"""The table of decisions: every treatment against the baseline over both metrics."""

from analysis.findings import CoPrimaryRow, DecisionRow, Findings
from analysis.printing import (
    MISSING,
    arm_name,
    interval,
    number,
    p_value,
    plain,
    signed,
    with_unit,
)
from paper.cells import Cell, Column, Group, Heading, Row, Span, Table, cell, one_group, row, tone
from paper.tables import several


def answer(findings: Findings) -> Table | None:
    """Print the verdict in three rows: ranking, own answers, cost; None where there is none.

    With several treatments each has its rows, with many each has one.
    """
    main = overall(findings)
    if not main:
        return None
    if several.is_many(main):
        return several.answer(findings, main)
    return Table(
        name="answer",
        columns=(
            Column(head="In question", width=0.34),
            Column(head="Effect", width=0.14, number=True),
            Column(head="95 % interval", width=0.22, number=True),
            Column(head="Verdict", width=0.3),
        ),
        groups=tuple(
            Group(
                heading=Heading(
                    spans=(
                        Span(text=f"{compared(found)}, {found.recipe}: "),
                        Span(text=found.outcome, strong=True, tone=tone(found.outcome)),
                    ),
                    note=found.reason,
                ),
                rows=(*_effects(findings, found), _cost(found)),
            )
            for found in main
        ),
        caption="What was decided.",
        note=findings.table_notes["decisions"],
        signature=findings.signature,
    )


def overall(findings: Findings) -> tuple[DecisionRow, ...]:
    """List the decisions of the widest scope: over all models, where there are several."""
    if not findings.decisions:
        return ()
    return tuple(
        found for found in findings.decisions if found.recipe == findings.decisions[0].recipe
    )


def compared(found: DecisionRow) -> str:
    """Name what is subtracted from what."""
    return f"{arm_name(found.treatment)} − {arm_name(found.baseline)}"


def words(one: CoPrimaryRow) -> str:
    """Say what is shown of one metric."""
    if one.low is None:
        return "not tested"
    if one.signs_conflict:
        return "differs in sign between models"
    if one.better or one.worse:
        return "better" if one.better else "worse"
    if one.equivalent:
        return "equivalent"
    return "not worse" if one.not_inferior else "not shown to be as good"


def _effects(findings: Findings, found: DecisionRow) -> list[Row]:
    names = ("Ranking of given pairs", "Own answers")
    rows = []
    for place, one in enumerate(found.metrics):
        metric = findings.metrics[one.metric]
        notes = [p_value(one.p_adjusted), f"margin ±{plain(one.sesoi)}"]
        rows.append(
            row(
                cell(names[min(place, 1)], note=with_unit(metric.label, metric.unit)),
                signed(one.estimate, metric.digits),
                interval(one.low, one.high, metric.digits),
                cell(words(one), note=", ".join(notes), tone=tone(words(one))),
            )
        )
    if len(found.metrics) == 1:
        rows.append(row("Own answers", MISSING, MISSING, "not scored"))
    return rows


def _cost(found: DecisionRow) -> Row:
    told = [
        f"{number(found.costs[name], 2)}× {label}"
        for name, label in (("train_tokens", "tokens"), ("peak_memory_bytes", "memory"))
        if name in found.costs
    ]
    seconds = found.costs.get("train_s")
    effect = MISSING if seconds is None else f"{number(seconds, 2)}×"
    verdict = MISSING if seconds is None else "dearer" if seconds > 1 else "not dearer"
    return row(
        cell("Cost", note="seconds of training"),
        effect,
        MISSING,
        cell(verdict, note=", ".join(told)),
    )


def decisions(findings: Findings) -> Table | None:
    """Print the verdicts over all models and on each, or None where none was reached."""
    if not findings.decisions:
        return None
    metrics = [findings.metrics[name] for name in findings.primary_metrics]
    width = 0.42 / len(metrics)
    return Table(
        name="decisions",
        columns=(
            Column(head="Where", width=0.17),
            *(
                Column(head=with_unit(metric.label, metric.unit), width=width, number=True)
                for metric in metrics
            ),
            Column(head="Seconds,\ntokens", width=0.13, number=True),
            Column(head="Diverged", width=0.12, number=True),
            Column(head="Verdict", width=0.16),
        ),
        groups=one_group([_decision(findings, found) for found in findings.decisions]),
        caption="The verdict: effects on the co-primary metrics with 95 % intervals, corrected "
        "p-values and margins, and the costs as ratios.",
        note=findings.table_notes["decisions"],
        signature=findings.signature,
    )


def _decision(findings: Findings, found: DecisionRow) -> Row:
    known = {one.metric: one for one in found.metrics}
    costs = [
        MISSING if name not in found.costs else f"{number(found.costs[name], 2)}×"
        for name in ("train_s", "train_tokens")
    ]
    return row(
        cell(found.recipe, note=f"{arm_name(found.treatment)} − {arm_name(found.baseline)}"),
        *(_metric(findings, known.get(name)) for name in findings.primary_metrics),
        cell(*costs),
        cell(
            *(
                f"{k} of {n} {arm_name(arm)}"
                for arm, k, n in zip(
                    (found.baseline, found.treatment), found.n_diverged, found.n_begun, strict=True
                )
            )
        ),
        cell(found.outcome, note=found.reason, tone=tone(found.outcome)),
        primary=found is findings.decisions[0],
    )


def _metric(findings: Findings, one: CoPrimaryRow | None) -> Cell:
    if one is None:
        return cell(MISSING)
    digits = findings.metrics[one.metric].digits
    notes = [p_value(one.p_adjusted), f"±{plain(one.sesoi)}"]
    if one.heterogeneity_p is not None:
        notes.append(f"models alike {p_value(one.heterogeneity_p)}")
    return cell(
        signed(one.estimate, digits), interval(one.low, one.high, digits), note=", ".join(notes)
    )
