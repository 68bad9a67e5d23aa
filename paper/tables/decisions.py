"""The table of decisions: every treatment against the baseline over both metrics."""

from analysis.findings import CoPrimaryRow, DecisionRow, Findings
from analysis.printing import MISSING, arm_name, interval, number, p_value, signed, with_unit
from paper.cells import Cell, Column, Row, Table, cell, one_group, row, tone


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
    notes = [p_value(one.p_adjusted), f"±{one.sesoi:g}"]
    if one.heterogeneity_p is not None:
        notes.append(f"models alike {p_value(one.heterogeneity_p)}")
    return cell(
        signed(one.estimate, digits), interval(one.low, one.high, digits), note=", ".join(notes)
    )
