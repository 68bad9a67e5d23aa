"""Draw how the cost of a training step grows; the points are found in ``bench``."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator

from analysis.bench import GrowthPanel
from analysis.drawing import NEUTRAL, columns_of, grid, legend

SIDES = {"ours": ("this study", "#009E73", "o"), "trl": ("TRL", NEUTRAL, "s")}


def draw_growth(panels: Sequence[GrowthPanel]) -> Figure:
    """Draw each measure along each axis, both on logarithmic scales."""
    figure, axes = grid(len(panels), columns=-(-len(panels) // 2), height=2.2)
    for panel, axis in zip(panels, axes, strict=True):
        for side, points in panel.lines.items():
            _, colour, marker = SIDES[side]
            xs, ys = columns_of(points)
            axis.plot(xs, ys, color=colour, marker=marker, markersize=4.5, lw=1.6)
        axis.set(xscale="log", yscale="log", xlabel=panel.x_label, ylabel=panel.y_label)
        ticks = sorted({x for points in panel.lines.values() for x, _ in points})
        axis.set_xticks(ticks, [f"{x:,.0f}" for x in ticks], rotation=35, ha="right", fontsize=7.5)
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(
            EngFormatter(unit="B") if panel.in_bytes else FormatStrFormatter("%g")
        )
        axis.tick_params(axis="y", labelsize=7.5)
    legend(
        figure,
        [
            Line2D([], [], color=colour, marker=marker, label=label)
            for label, colour, marker in SIDES.values()
        ],
    )
    return figure
