"""The contrasts between arms as intervals, one panel per metric."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.palette import INK
from analysis.figures.style import (
    LABEL_WIDTH,
    colour_of,
    grid,
    legend,
    mark,
    padded,
    tell,
)
from analysis.printing import arm_name, number, signed, verdict_words
from analysis.records.metrics import METRICS
from analysis.rows import ContrastRow, FigureFile
from analysis.statistics.verdicts import Verdict
from study.arms import BASELINE

CONTRASTS: Final = FigureFile(
    name="contrasts",
    caption="Every arm minus SFT on held-out test pairs in every score, with 95 % intervals over "
    "training seeds and prompts; with several models the lowest bar is the contrast over all of "
    "them, with many arms only these are shown. The colour follows the verdict, which is corrected "
    "for the number of tests.",
    section="results",
)


MOST_NAMED: Final = 3
"""Treatments that the key names one by one; more of them have their names beside the rows."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One contrast: estimate, interval, and which arm the interval favours."""

    name: str
    """Its recipe, and its treatment where there are several."""
    treatment: str
    estimate: float
    low: float
    high: float
    favours: str | None
    """An arm, or None where the verdict is open or nothing is better."""
    text: str
    words: str
    """The contrast in full: effect, interval, verdict."""


@dataclass(frozen=True, kw_only=True)
class ContrastPanel:
    """The contrasts of one metric, one bar per recipe, and one over all models."""

    metric: str
    label: str
    bars: tuple[Bar, ...]
    x_range: tuple[float, float]


def contrast_info(contrasts: Iterable[ContrastRow]) -> tuple[ContrastPanel, ...]:
    """Collect the tested contrasts with the baseline, one panel per metric."""
    rows = [row for row in contrasts if row.baseline == BASELINE and row.low is not None]
    return tuple(
        _contrast_panel(metric, [row for row in rows if row.metric == metric])
        for metric in METRICS
        if any(row.metric == metric for row in rows)
    )


def _contrast_panel(metric: str, rows: Sequence[ContrastRow]) -> ContrastPanel:
    described = METRICS[metric]
    unit = f" ({described.unit})" if described.unit else ""
    label = "\n".join(textwrap.wrap(f"{described.label}{unit}", LABEL_WIDTH))
    arms, recipes = {row.treatment for row in rows}, {row.recipe for row in rows}

    def name(row: ContrastRow) -> str:
        parts = [row.recipe] * (len(recipes) > 1 or len(arms) == 1)
        return ", ".join([*parts, *([arm_name(row.treatment)] if len(arms) > 1 else [])])

    bars = tuple(_bar(row, described.digits, name(row)) for row in rows)
    reach = [value for bar in bars for value in (bar.low, bar.high)]
    return ContrastPanel(
        metric=metric,
        label=label,
        bars=bars,
        x_range=padded([0.0, *reach]),
    )


def _bar(row: ContrastRow, digits: int, name: str) -> Bar:
    assert row.low is not None
    assert row.high is not None
    favours = {1: row.treatment, -1: row.baseline}.get(Verdict(row.verdict).favours)
    return Bar(
        name=name,
        treatment=row.treatment,
        estimate=row.estimate,
        low=row.low,
        high=row.high,
        favours=favours,
        text=signed(row.estimate, digits),
        words=f"{arm_name(row.treatment)} minus {arm_name(row.baseline)} in "
        f"{METRICS[row.metric].label}, {row.recipe}: {signed(row.estimate, digits)}, 95 % interval "
        f"{number(row.low, digits)} to {number(row.high, digits)}, {verdict_words(row)}",
    )


def contrasts_alt(panels: Sequence[ContrastPanel]) -> str:
    """Say every effect with its interval and verdict."""
    return f"{'; '.join(bar.words for panel in panels for bar in panel.bars)}."


def draw_contrasts(panels: Sequence[ContrastPanel]) -> Figure:
    """Draw estimates with their 95 % intervals, one panel per metric."""
    rows = max(len(panel.bars) for panel in panels)
    figure, axes = grid(len(panels), columns=3, height=0.75 + 0.36 * rows)
    for place, (panel, axis) in enumerate(zip(panels, axes, strict=True)):
        for y, bar in enumerate(panel.bars):
            colour = colour_of(bar.favours) if bar.favours else INK
            axis.plot((bar.low, bar.high), (y, y), color=colour, lw=2.2, solid_capstyle="round")
            axis.plot(bar.estimate, y, "o", color=colour, markersize=5.5)
            axis.annotate(
                bar.text,
                (bar.estimate, y),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )
        tell(
            axis,
            [(bar.estimate, y) for y, bar in enumerate(panel.bars)],
            [bar.words for bar in panel.bars],
        )
        axis.axvline(0, color=INK, lw=0.9)
        first = place % 3 == 0
        axis.set_yticks(range(len(panel.bars)), [bar.name if first else "" for bar in panel.bars])
        axis.set_ylim(len(panel.bars) - 0.5, -0.75)
        axis.set_xlim(panel.x_range)
        axis.set_title(panel.label, fontsize=8.2, fontweight="normal")
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(visible=False, axis="y")
    treatments = dict.fromkeys(bar.treatment for panel in panels for bar in panel.bars)
    named = [BASELINE] if len(treatments) > MOST_NAMED else [*treatments, BASELINE]
    own = [mark("o", "none", "in favour of the arm, in its colour", edge=INK)]
    legend(
        figure,
        [
            *(own if len(treatments) > MOST_NAMED else []),
            *(
                mark("o", colour_of(arm), f"in favour of {arm_name(arm)}", line="-")
                for arm in named
            ),
            mark("o", INK, "inconclusive, or neither direction is better", line="-"),
        ],
    )
    return figure
