"""Tables of the sources' claims and the verdicts on them."""

from collections.abc import Iterable, Sequence

from analysis.findings import ClaimPart, ClaimRow, Findings
from analysis.printing import MISSING, interval, number, p_value, signed, with_unit
from paper.cells import Column, Group, Heading, Row, Span, Table, cell, one_group, row, tone

CLAIM_COLUMNS = (
    Column(head="Prediction", width=0.31, long=True),
    Column(head="Estimate", width=0.09, number=True),
    Column(head="95 % interval", width=0.14, number=True),
    Column(head="Detectable", width=0.1, number=True),
    Column(head="p-value\n(Holm)", width=0.12, number=True),
    Column(head="Counted", width=0.12),
    Column(head="Verdict", width=0.12),
)


def claims(findings: Findings) -> Table:
    """Print the verdict on every claim, over all models where there are several."""
    groups = [
        Group(heading=_claim(rows), rows=tuple(_prediction(part) for part in rows[0].parts))
        for rows in by_claim(findings.claims)
    ]
    return Table(
        name="claims",
        columns=CLAIM_COLUMNS,
        groups=tuple(groups),
        caption="Verdicts on the sources' claims, by prediction: effect, 95 % interval and the "
        "smallest effect that four of five such studies would find.",
        note=findings.table_notes["claims"],
        signature=findings.signature,
    )


def short(findings: Findings) -> Table:
    """Print one line for each claim, with the scale that it was made on and that of this study."""
    return Table(
        name="claims-short",
        columns=(
            Column(head="Claim", width=0.54),
            Column(head="Verdict", width=0.14, unbroken=True),
            Column(head="Made on", width=0.32),
        ),
        groups=one_group(
            [
                row(
                    f"{rows[0].claim}. {rows[0].sentence}",
                    cell(rows[0].verdict, tone=tone(rows[0].verdict)),
                    f"{rows[0].made_at} ({rows[0].source})",
                )
                for rows in by_claim(findings.claims)
            ]
        ),
        caption="Claims of the sources and what these records say of them. This study: "
        f"{'; '.join(dict.fromkeys(rows[0].here for rows in by_claim(findings.claims)))}.",
        note="Tests, null hypotheses, n, corrections and what could be found: with the claims by "
        "prediction in the appendix.",
        signature=findings.signature,
    )


def claims_by_model(findings: Findings) -> Table | None:
    """Print the verdict on every claim on each model; None where there is but one."""
    groups = [
        Group(
            heading=Heading(
                spans=(
                    Span(text=f"{found.claim}. {found.recipe}", strong=True),
                    Span(text=": "),
                    Span(text=found.verdict, strong=True, tone=tone(found.verdict)),
                    Span(text="."),
                )
            ),
            rows=tuple(_prediction(part) for part in found.parts),
        )
        for rows in by_claim(findings.claims)
        for found in rows[1:]
    ]
    if not groups:
        return None
    return Table(
        name="claims-models",
        columns=CLAIM_COLUMNS,
        groups=tuple(groups),
        caption="Verdicts on the sources' claims on each model, each by itself.",
        note=findings.table_notes["claims-models"],
        signature=findings.signature,
    )


def by_claim(rows: Iterable[ClaimRow]) -> list[list[ClaimRow]]:
    """List the rows of every claim, that over all models first if there are several."""
    groups: dict[str, list[ClaimRow]] = {}
    for found in rows:
        groups.setdefault(found.claim, []).append(found)
    return list(groups.values())


def hypotheses(rows: Iterable[ClaimRow]) -> list[tuple[str, str]]:
    """List every (test, null hypothesis) that claims were judged by, once each."""
    found = [
        (part.test, part.null_hypothesis)
        for of_claim in rows
        for part in of_claim.parts
        if part.null_hypothesis and part.p_value is not None
    ]
    return list(dict.fromkeys(found))


def _claim(rows: Sequence[ClaimRow]) -> Heading:
    first = rows[0]
    elsewhere = "".join(f", {other.recipe}: {other.verdict}" for other in rows[1:])
    untested = f" Not testable: {first.remark}." if first.remark else ""
    return Heading(
        spans=(
            Span(text=f"{first.claim}. {first.sentence}", strong=True),
            Span(text=" "),
            Span(text=first.verdict.capitalize(), strong=True, tone=tone(first.verdict)),
            Span(text=f"{elsewhere}."),
        ),
        note=f"{first.source}, made on {first.made_at}. Here: {first.here}.{untested}",
    )


def _prediction(part: ClaimPart) -> Row:
    show = signed if part.is_difference else number
    adjusted = () if part.p_adjusted is None else (f"({p_value(part.p_adjusted)})",)
    return row(
        cell(with_unit(part.prediction, part.unit), note=part.test),
        show(part.estimate, part.digits),
        interval(part.low, part.high, part.digits),
        number(part.detectable, part.digits),
        cell(p_value(part.p_value), *adjusted),
        part.n or MISSING,
        cell(part.verdict, note=part.remark, tone=tone(part.verdict)),
    )
