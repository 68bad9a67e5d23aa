"""Draw what trials and runs cost as they become many; the points are found in ``bench``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator

from analysis.figures.style import columns_of, grid, tell
from analysis.printing import count
from analysis.rows import FigureFile
from analysis.tables.bench import Report, as_measured

SCALE: Final = FigureFile(
    name="scale",
    caption="What this study itself costs as trials and runs become many, in seconds of a "
    "processor core: on the left, what a search does for each trial beside its training, by the "
    "number of workers that share the search; on the right, `study status` and `study report`.",
    section="cost",
)
COLOURS, MARKERS = ("#0072B2", "#E69F00", "#009E73"), ("o", "s", "^")


@dataclass(frozen=True, kw_only=True)
class ScalePanel:
    """One cost as one thing becomes many: a line for each way."""

    x_label: str
    y_label: str
    lines: Mapping[str, tuple[tuple[float, float], ...]]


def scale_info(report: Report | None) -> tuple[ScalePanel, ...]:
    """Return a panel for trials and one for runs; none where they were not measured."""
    with as_measured():
        part = (report or {}).get("scale", {})
        panels = (
            ScalePanel(
                x_label="trials of a search",
                y_label="core seconds per trial",
                lines=_by_workers(part.get("trials", [])),
            ),
            ScalePanel(
                x_label="runs in a folder",
                y_label="core seconds",
                lines={
                    f"study {name}": line
                    for name in ("status", "report")
                    if (line := _line(part.get("runs", []), "n_runs", f"{name}_cpu_s"))
                },
            ),
        )
    return tuple(panel for panel in panels if panel.lines)


def _by_workers(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple[tuple[float, float], ...]]:
    among = dict.fromkeys(point["workers"] for point in points)
    return {
        f"{n} worker{'s' * (n > 1)}": _line(
            [point for point in points if point["workers"] == n], "n_trials", "cpu_s_per_trial"
        )
        for n in among
    }


def _line(points: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[tuple[float, float], ...]:
    return tuple((point[x], point[y]) for point in points)


def scale_alt(panels: Sequence[ScalePanel]) -> str:
    """Say what each way costs at its largest size."""
    return " ".join(
        f"{'; '.join(_words(panel, name, *line[-1]) for name, line in panel.lines.items())}."
        for panel in panels
    )


def _words(panel: ScalePanel, name: str, x: float, y: float) -> str:
    return f"{name} at {count(x)} {panel.x_label}: {y:.3g} {panel.y_label}"


def draw_scale(panels: Sequence[ScalePanel]) -> Figure:
    """Draw each cost over the number of things, both on logarithmic scales."""
    figure, axes = grid(len(panels), columns=2, height=2.6)
    for panel, axis in zip(panels, axes, strict=True):
        ways = zip(panel.lines.items(), COLOURS, MARKERS, strict=False)
        for (name, points), colour, marker in ways:
            xs, ys = columns_of(points)
            axis.plot(xs, ys, color=colour, marker=marker, markersize=4.5, lw=1.6, label=name)
            tell(axis, points, [_words(panel, name, x, y) for x, y in points])
        axis.set(xscale="log", yscale="log", xlabel=panel.x_label, ylabel=panel.y_label)
        ticks = sorted({x for points in panel.lines.values() for x, _ in points})
        axis.set_xticks(ticks, [count(x) for x in ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.legend(fontsize=8)
    return figure
