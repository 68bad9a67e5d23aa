"""How an article's published gap moves, one row for each rung that is mended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.palette import INK, NEUTRAL
from analysis.figures.style import WIDTH, grid, padded, tell
from analysis.judged_rows import LadderRow
from analysis.printing import interval, number, signed
from analysis.records.metrics import METRICS
from analysis.rows import FigureFile

LADDER: Final = FigureFile(
    name="ladder",
    caption="ORPO minus SFT as article A published it and after each difference is mended, from "
    "top to bottom, all above it kept: means with 95 % intervals over seeds and prompts; small "
    "dots are single seeds. On the last row the arms differ in the loss alone.",
    section="ladder",
)


@dataclass(frozen=True, kw_only=True)
class LadderPanel:
    """One metric on every rung, the published set-up first."""

    label: str
    digits: int
    rows: tuple[LadderRow, ...]
    x_range: tuple[float, float]


def ladder_info(rows: Sequence[LadderRow]) -> tuple[LadderPanel, ...]:
    """Collect the gaps of the widest scope, one panel for each metric."""
    widest = [row for row in rows if row.recipe == rows[0].recipe]
    return tuple(
        LadderPanel(
            label=METRICS[metric].label,
            digits=METRICS[metric].digits,
            rows=tuple(mine := [row for row in widest if row.metric == metric]),
            x_range=padded(
                [0.0]
                + [
                    value
                    for row in mine
                    for value in (row.estimate, row.low, row.high, *row.by_seed)
                    if value is not None
                ]
            ),
        )
        for metric in dict.fromkeys(row.metric for row in widest)
    )


def ladder_alt(panels: Sequence[LadderPanel]) -> str:
    """Say the gap on every rung with its interval."""
    return " ".join(
        f"{panel.label}, ORPO minus SFT: {'; '.join(_words(row, panel) for row in panel.rows)}."
        for panel in panels
    )


def draw_ladder(panels: Sequence[LadderPanel]) -> Figure:
    """Draw gaps with their intervals from the published set-up down to the loss alone."""
    n_rows = max(len(panel.rows) for panel in panels)
    figure, axes = grid(len(panels), columns=2, height=0.9 + 0.25 * n_rows)
    figure.set_figwidth(WIDTH)
    for place, (panel, axis) in enumerate(zip(panels, axes, strict=True)):
        for y, row in enumerate(panel.rows):
            axis.plot(row.by_seed, [y] * len(row.by_seed), "o", color=NEUTRAL, ms=3, alpha=0.7)
            if row.low is not None and row.high is not None:
                axis.plot((row.low, row.high), (y, y), color=INK, lw=1.8, solid_capstyle="round")
            axis.plot(row.estimate, y, "o", color=INK, ms=5)
        axis.plot([row.estimate for row in panel.rows], range(len(panel.rows)), color=INK, lw=0.7)
        tell(
            axis,
            [(row.estimate, y) for y, row in enumerate(panel.rows)],
            [_words(row, panel) for row in panel.rows],
        )
        n_scoring = sum(row.touches in ("", "scoring") for row in panel.rows)
        if n_scoring < len(panel.rows):
            axis.axhline(n_scoring - 0.5, color=NEUTRAL, lw=0.8, ls=":")
        axis.axvline(0, color=INK, lw=0.9)
        axis.set_yticks(
            range(len(panel.rows)),
            [rung_name(row) if place == 0 else "" for row in panel.rows],
        )
        axis.set_ylim(len(panel.rows) - 0.5, -0.5)
        axis.set_xlim(panel.x_range)
        axis.set_title(f"{panel.label}, ORPO minus SFT", fontsize=8.5)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(visible=False, axis="y")
    return figure


def rung_name(row: LadderRow) -> str:
    """Name a rung in few words."""
    return "as published" if not row.touches else f"+ {row.rung.replace('-', ' ')}"


def _words(row: LadderRow, panel: LadderPanel) -> str:
    bounds = (
        "" if row.low is None else f", 95 % interval {interval(row.low, row.high, panel.digits)}"
    )
    seeds = ", ".join(number(gap, panel.digits) for gap in row.by_seed)
    name = rung_name(row).removeprefix("+ ")
    return f"{name}: {signed(row.estimate, panel.digits)}{bounds}; single seeds {seeds}"
