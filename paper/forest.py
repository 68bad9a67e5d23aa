"""A forest of effects as panels of one metric each, laid out for any skin.

Lengths are whole units of a panel, ``WIDTH`` wide and ``height`` high, counted
from the upper left corner; skins scale them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from analysis.findings import ContrastRow, DecisionRow, Findings, Metric
from analysis.printing import (
    arm_colour,
    arm_name,
    arrow,
    interval,
    signed,
    verdict_words,
    with_unit,
)
from paper.cells import tone

WIDTH: Final = 320
LEFT: Final = 96
"""Where names of rows end."""
ROW: Final = 20
TOP: Final = 8
AXIS: Final = 18
"""Height of the labels below the rows."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One effect: its place on the axis, and its words."""

    name: str
    y: int
    x: int
    low: int
    high: int
    text: str
    tone: str
    is_main: bool
    colour: str = ""
    """Its own, ``#rrggbb``; empty where its tone colours it."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The effects on one metric; the band is the smallest effect of interest."""

    name: str
    label: str
    height: int
    effects: tuple[Effect, ...]
    zero: int
    band: tuple[int, int] | None
    """Left and right end, cut at the axis; None where no smallest effect was named."""
    ticks: tuple[tuple[int, str], ...]
    alt: str

    @property
    def bottom(self) -> int:
        """Where the axis stands."""
        return self.height - AXIS


@dataclass(frozen=True, kw_only=True)
class Forest:
    """All panels, and what they compare."""

    caption: str
    panels: tuple[Panel, ...]


def forest(findings: Findings, baseline: str, treatment: str, compared: str) -> Forest | None:
    """Lay out the effects on every registered metric, or None where none was tested.

    Args:
        findings: what the report says.
        baseline: arm that is subtracted.
        treatment: arm that it is subtracted from.
        compared: both in words.
    """
    rows = [
        row
        for row in _registered(findings)
        if (row.baseline, row.treatment) == (baseline, treatment)
    ]
    panels = _panels(findings, rows, lambda row: (row.recipe, compared, ""))
    if not panels:
        return None
    return Forest(
        caption=f"{compared} in the registered metrics, with 95 % intervals. {BAND}",
        panels=panels,
    )


def arms_forest(findings: Findings, found: Sequence[DecisionRow]) -> Forest | None:
    """Lay out one scope with a row for each arm in its colour, or None where none was tested.

    Args:
        findings: what the report says.
        found: the decisions of that scope, in the order of the rows.
    """
    order = [one.treatment for one in found]
    recipe, baseline = found[0].recipe, found[0].baseline
    rows = sorted(
        (
            row
            for row in _registered(findings)
            if (row.recipe, row.baseline) == (recipe, baseline) and row.treatment in order
        ),
        key=lambda row: order.index(row.treatment),
    )

    def named(row: ContrastRow) -> tuple[str, str, str]:
        name = arm_name(row.treatment)
        return name, f"{name} − {arm_name(baseline)}", arm_colour(row.treatment)

    panels = _panels(findings, rows, named)
    if not panels:
        return None
    return Forest(
        caption=f"Every arm minus {arm_name(baseline)} in the registered metrics, {recipe}, with "
        f"95 % intervals. {BAND}",
        panels=panels,
    )


BAND: Final = (
    "The band is the smallest effect of interest; an arrow says which direction is better."
)
Named = Callable[[ContrastRow], tuple[str, str, str]]
"""What a row is called, what it compares in words, and its colour, if it has its own."""


def _registered(findings: Findings) -> list[ContrastRow]:
    """List the contrasts with intervals in registered metrics."""
    return [
        row
        for row in (*findings.pooled, *findings.contrasts)
        if row.low is not None and (row.family or row.metric in findings.primary_metrics)
    ]


def _panels(findings: Findings, rows: Sequence[ContrastRow], named: Named) -> tuple[Panel, ...]:
    names = sorted({row.metric for row in rows}, key=list(findings.metrics).index)
    names.sort(key=lambda name: name not in findings.primary_metrics)
    return tuple(
        _panel(findings.metrics[name], [row for row in rows if row.metric == name], named)
        for name in names
    )


def _panel(metric: Metric, rows: Sequence[ContrastRow], named: Named) -> Panel:
    sesoi = rows[0].sesoi
    reach = [0.0, *(value for row in rows for value in (row.low, row.high) if value is not None)]
    span = max(reach) - min(reach)
    if sesoi is not None and sesoi < span:
        reach += [-sesoi, sesoi]
    low, high = min(reach), max(reach)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> int:
        inside = min(max(value, low), high)
        return round(LEFT + (WIDTH - LEFT - 6) * (inside - low) / (high - low))

    effects = tuple(
        Effect(
            name=named(row)[0],
            y=TOP + ROW * number + ROW // 2,
            x=place(row.estimate),
            low=place(row.low if row.low is not None else row.estimate),
            high=place(row.high if row.high is not None else row.estimate),
            text=f"{signed(row.estimate, metric.digits)} "
            f"{interval(row.low, row.high, metric.digits)}",
            tone=tone(row.verdict),
            is_main=number == 0 and not named(row)[2],
            colour=named(row)[2],
        )
        for number, row in enumerate(rows)
    )
    ticks = {place(0.0): "0"}
    for value in (min(reach), max(reach)):
        if abs(place(value) - place(0.0)) > 30:
            ticks[place(value)] = signed(value, min(metric.digits, 2))
    return Panel(
        name=metric.name.replace("_", "-"),
        label=with_unit(metric.label, metric.unit) + arrow(metric),
        height=TOP + ROW * len(rows) + AXIS,
        effects=effects,
        zero=place(0.0),
        band=None if sesoi is None else (place(-sesoi), place(sesoi)),
        ticks=tuple(sorted(ticks.items())),
        alt="; ".join(
            f"{named(row)[1]} in {metric.label} on {row.recipe}: {effect.text}, "
            f"{verdict_words(row)}"
            for row, effect in zip(rows, effects, strict=True)
        ),
    )
