"""Draw how the cost of a training step grows; the points are found in ``bench``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator

from analysis.figures.style import columns_of, grid, legend, tell
from analysis.printing import count, memory
from analysis.rows import FigureFile
from analysis.tables.bench import Report, as_measured

GROWTH: Final = FigureFile(
    name="growth",
    caption="How the cost of a training step grows with the length of sequences, the size of the "
    "batch and the vocabulary: pairs per second above, peak memory over the loaded model below. "
    "All pairs of a batch are equally long, so that TRL's batches hold no padding; TRL runs "
    "without checkpointing and is left out where it does not fit into memory.",
    section="cost",
)


AXES = {
    "length": "tokens of a sequence",
    "batch": "distinct tokens of a batch",
    "vocabulary": "tokens of the vocabulary",
}


@dataclass(frozen=True, kw_only=True)
class GrowthPanel:
    """One measure along one axis: a line for each side."""

    x_label: str
    y_label: str
    lines: Mapping[str, tuple[tuple[float, float], ...]]
    """``trl`` and ``ours`` -> points; sides without any are left out."""
    in_bytes: bool


def growth_info(report: Report | None) -> tuple[GrowthPanel, ...]:
    """Return panels of pairs per second, then of memory, along each axis."""
    with as_measured():
        return _panels((report or {}).get("growth", {}).get("points", []))


def _panels(points: list[dict[str, Any]]) -> tuple[GrowthPanel, ...]:
    return tuple(
        GrowthPanel(
            x_label=x_label,
            y_label=y_label,
            lines={
                side: line for side in ("trl", "ours") if (line := _line(points, axis, side, name))
            },
            in_bytes=name == "peak_bytes",
        )
        for name, y_label in (("pairs_per_s", "pairs per second"), ("peak_bytes", "peak memory"))
        for axis, x_label in AXES.items()
        if any(point["axis"] == axis for point in points)
    )


def _line(
    points: list[dict[str, Any]], axis: str, side: str, name: str
) -> tuple[tuple[float, float], ...]:
    return tuple(
        (point["value"], point[name])
        for point in points
        if (point["axis"], point["side"]) == (axis, side) and point[name] is not None
    )


SIDES = {"ours": ("this study", "#009E73", "o"), "trl": ("TRL", "#CC79A7", "s")}


def growth_alt(panels: Sequence[GrowthPanel]) -> str:
    """Say what each side costs at the far end of every axis."""
    return " ".join(
        f"{'; '.join(_point_words(panel, side, *line[-1]) for side, line in panel.lines.items())}."
        for panel in panels
    )


def _point_words(panel: GrowthPanel, side: str, x: float, y: float) -> str:
    size = memory(y) if panel.in_bytes else f"{y:.3g} {panel.y_label}"
    return f"{SIDES[side][0]} at {count(x)} {panel.x_label}: {size}"


def draw_growth(panels: Sequence[GrowthPanel]) -> Figure:
    """Draw each measure along each axis, both on logarithmic scales."""
    figure, axes = grid(len(panels), columns=-(-len(panels) // 2), height=2.2)
    for panel, axis in zip(panels, axes, strict=True):
        for side, points in panel.lines.items():
            _, colour, marker = SIDES[side]
            xs, ys = columns_of(points)
            axis.plot(xs, ys, color=colour, marker=marker, markersize=4.5, lw=1.6)
            tell(axis, points, [_point_words(panel, side, x, y) for x, y in points])
        axis.set(xscale="log", yscale="log", xlabel=panel.x_label, ylabel=panel.y_label)
        ticks = sorted({x for points in panel.lines.values() for x, _ in points})
        axis.set_xticks(ticks, [count(x) for x in ticks], rotation=35, ha="right", fontsize=7.5)
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
