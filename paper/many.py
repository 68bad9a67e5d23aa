"""What to do where many arms were compared: at most eight pieces of advice."""

from collections.abc import Iterator, Sequence

from analysis.findings import BestSetRow, ContrastRow, CoPrimaryRow, DecisionRow, Findings
from analysis.printing import arm_name, listed, number, plain, setting_name
from analysis.statistics import Outcome
from analysis.words.several import in_lead
from paper.tables import decisions

PURPOSES = ("Where the model ranks or scores given answers", "Where its own answers count")


def advice(findings: Findings) -> list[tuple[str, str]]:
    """Say what to take for which purpose, what to leave and what would change the verdict."""
    found = decisions.overall(findings)
    return [
        *_leaders(findings),
        *_for_both(found),
        *_not_shown(found),
        *_displaced(findings),
        *_changes(findings, found),
        *edges(findings),
    ]


def edges(findings: Findings) -> list[tuple[str, str]]:
    """Name the settings that lie at the edge of the range searched, in one item."""
    named = [
        f"{setting_name(name)} of {arm_name(row.arm)} on {row.recipe}"
        for row in findings.searches
        for name in row.at_edge
    ]
    if not named:
        return []
    lie = "the best value lies" if len(named) == 1 else "the best values lie"
    return [
        (
            "Search more widely",
            (
                f"{lie} at the edge of the range searched in {listed(named)}, so a better one may "
                "lie outside."
            ),
        )
    ]


def tested(findings: Findings, found: DecisionRow, one: CoPrimaryRow) -> ContrastRow | None:
    """Return the contrast that a metric of a decision rests on."""
    key = (found.recipe, found.baseline, found.treatment, one.metric)
    rows = (*findings.pooled, *findings.contrasts)
    return next(
        (row for row in rows if (row.recipe, row.baseline, row.treatment, row.metric) == key), None
    )


def what_would_change(
    findings: Findings, one: CoPrimaryRow, sizes: Sequence[float]
) -> tuple[str, str]:
    """Say what could be found in one metric, with one size or the range of those of arms."""
    metric = findings.metrics[one.metric]
    ends = dict.fromkeys(number(size, metric.digits) for size in (min(sizes), max(sizes)))
    by_arm = " (by arm)" if len(ends) > 1 else ""
    enough = max(sizes) <= one.sesoi
    return (
        f"What would change the verdict in {metric.label}",
        f"a study like this finds a difference of {' to '.join(ends)}{by_arm} four times in five; "
        f"the smallest of interest is {plain(one.sesoi)}, "
        + ("so more seeds or pairs would hardly." if enough else "so more seeds or pairs."),
    )


def _leaders(findings: Findings) -> Iterator[tuple[str, str]]:
    """Name the best set of each metric by what it is good for."""
    by_metric: dict[str, BestSetRow] = {found.metric: found for found in findings.best_sets}
    for name, purpose in zip(findings.primary_metrics, PURPOSES, strict=False):
        if name not in by_metric:
            continue
        first, *others = in_lead(by_metric[name])
        level = f", or {listed(list(map(arm_name, others)))}, not shown to be worse"
        yield (
            purpose,
            f"take {arm_name(first)}{level * bool(others)} ({findings.metrics[name].label}).",
        )


def _for_both(found: Sequence[DecisionRow]) -> Iterator[tuple[str, str]]:
    """Name the arms that are better over both metrics, the cheapest first."""
    baseline = arm_name(found[0].baseline)
    better = sorted(
        (row for row in found if row.outcome == Outcome.BETTER),
        key=lambda row: row.costs.get("train_s", 0.0),
    )
    told = listed(
        [
            f"{arm_name(row.treatment)} ({number(row.costs.get('train_s'), 2)}× the seconds)"
            for row in better
        ]
    )
    if better:
        yield "For both", f"shown to be better than {baseline}, the cheapest first: {told}."
    else:
        yield "For both", f"stay with {baseline}: no arm is shown to be better over both metrics."


def _not_shown(found: Sequence[DecisionRow]) -> Iterator[tuple[str, str]]:
    """Name the arms whose answers are shown to be worse."""
    baseline = arm_name(found[0].baseline)
    worse = [
        arm_name(row.treatment) for row in found if len(row.metrics) > 1 and row.metrics[1].worse
    ]
    if worse:
        yield "For own answers leave", f"{listed(worse)}: shown to be worse than {baseline}."


def _displaced(findings: Findings) -> Iterator[tuple[str, str]]:
    """Warn of arms under which chosen answers become less likely."""
    flagged = dict.fromkeys(arm_name(row.arm) for row in findings.displaced if row.flagged)
    if flagged:
        yield (
            "Watch what it writes",
            f"{listed(list(flagged))} made chosen answers less likely while the margin grew.",
        )


def _changes(findings: Findings, found: Sequence[DecisionRow]) -> Iterator[tuple[str, str]]:
    """Say once for each metric what a study like this one finds."""
    for place, one in enumerate(found[0].metrics):
        rows = [tested(findings, row, row.metrics[place]) for row in found if row.metrics[place:]]
        sizes = [row.detectable for row in rows if row is not None and row.detectable is not None]
        if sizes:
            yield what_would_change(findings, one, sizes)
