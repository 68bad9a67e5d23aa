"""Tables of how an article's published gap moves as its differences are mended."""

from collections.abc import Sequence

from analysis.findings import Findings, LadderRow
from analysis.printing import MISSING, arrow, capital, count, interval, number, signed
from paper.cells import Cell, Column, Group, Heading, Row, Span, Table, cell, row, slug

HEADINGS = {"scoring": "Scoring mended, the same runs", "training": "Training mended"}


def ladder(findings: Findings) -> Table | None:
    """Print the gap on every rung, over all models where there are several; None without any."""
    return _table(findings, findings.ladder[0].recipe, "ladder") if findings.ladder else None


def by_model(findings: Findings) -> list[Table]:
    """Print the same on each model, where there are several."""
    recipes = list(dict.fromkeys(found.recipe for found in findings.ladder))
    return [_table(findings, recipe, f"ladder-{slug(recipe)}") for recipe in recipes[1:]]


def _table(findings: Findings, recipe: str, name: str) -> Table:
    rows = [found for found in findings.ladder if found.recipe == recipe]
    metrics = list(dict.fromkeys(found.metric for found in rows))
    rungs: dict[str, dict[str, LadderRow]] = {}
    for found in rows:
        rungs.setdefault(found.rung, {})[found.metric] = found
    groups: dict[str, list[Row]] = {}
    for of_metric in rungs.values():
        first = next(iter(of_metric.values()))
        cells = [_gap(findings, of_metric.get(metric)) for metric in metrics]
        groups.setdefault(first.touches, []).append(row(_rung(first), *cells))
    sizes = " and ".join(
        f"{count(rows[0].n_examples)} answers" if metric == "rougeL" else f"{count(size)} pairs"
        for metric, size in ((found.metric, found.n_examples) for found in _firsts(rows))
    )
    return Table(
        name=name,
        columns=(
            Column(head="Mended", width=0.44, long=True),
            *(
                Column(
                    head=f"{capital(findings.metrics[metric].label)}"
                    f"{arrow(findings.metrics[metric])}",
                    width=round(0.56 / len(metrics), 3),
                    number=True,
                )
                for metric in metrics
            ),
        ),
        groups=tuple(
            Group(
                rows=tuple(found),
                heading=Heading(spans=(Span(text=HEADINGS[touches]),)) if touches else None,
            )
            for touches, found in groups.items()
        ),
        caption=f"ORPO minus SFT in article A's comparison, {recipe}: as published and after each "
        "difference is mended, with 95 % intervals; below, both arms\u2019 means, SFT first, and "
        f"the gaps of single seeds. {len(rows[0].by_seed)} runs of each arm, {sizes}.",
        note=findings.table_notes["ladder"],
        signature=findings.signature,
        is_dense=True,
    )


def _firsts(rows: Sequence[LadderRow]) -> list[LadderRow]:
    """Return the first row of each metric."""
    return list({found.metric: found for found in reversed(rows)}.values())[::-1]


def _rung(found: LadderRow) -> Cell:
    if not found.touches:
        return cell("As published", note="nothing is mended")
    return cell(found.mended, note=f"{found.rung}. Published: {found.published}")


def _gap(findings: Findings, found: LadderRow | None) -> Cell:
    if found is None:
        return cell(MISSING)
    digits = findings.metrics[found.metric].digits
    means = f"{number(found.baseline, digits)}, {number(found.treatment, digits)}"
    low, high = (number(end(found.by_seed), digits) for end in (min, max))
    return cell(
        f"{signed(found.estimate, digits)} {interval(found.low, found.high, digits)}",
        note=f"{means}; seeds {low} to {high}",
    )
