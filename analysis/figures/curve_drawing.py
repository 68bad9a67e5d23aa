"""Draw scores over training."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.curves import AXES, CurvePanel, Line, spent
from analysis.figures.palette import INK, NEUTRAL
from analysis.figures.style import colour_of, columns_of, grid, legend, tell
from analysis.printing import arm_name, number
from study.arms import UNTRAINED


def draw_curves(
    panels: Sequence[CurvePanel], *, y_label: str, leading: Collection[str] = ()
) -> Figure:
    """Draw scores over training: thin lines are seeds, thick lines their mean with its band.

    Args:
        panels: what is drawn.
        y_label: what the scores are.
        leading: arms in colour, the others are grey and without seeds; all where empty.
    """
    wide = len({panel.along for panel in panels}) > 1
    figure, axes = grid(len(panels), columns=3 if wide else 2, height=2.1 if wide else 2.5)
    for panel, axis in zip(panels, axes, strict=True):
        for line in panel.lines:
            _draw_line(axis, line, panel, is_faint=bool(leading) and line.arm not in leading)
        _draw_base(axis, panel)
        axis.set_ylim(panel.y_range)
        axis.set_xlim(panel.x_range)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=panel.along != "seconds"))
        if panel.along == "tokens":
            axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")
        first = not wide or panel.along == "step"
        axis.set(
            title=panel.title if first else "",
            xlabel=AXES[panel.along],
            ylabel=y_label if first else "",
        )
    arms = list(dict.fromkeys(line.arm for panel in panels for line in panel.lines))
    shown = [arm for arm in arms if not leading or arm in leading]
    handles = [Line2D([], [], color=colour_of(arm), lw=2, label=arm_name(arm)) for arm in shown]
    if len(shown) < len(arms):
        others = ", ".join(arm_name(arm) for arm in arms if arm not in shown)
        handles.append(Line2D([], [], color=NEUTRAL, lw=1, label=others))
    if any(panel.shows_base for panel in panels):
        handles.append(Line2D([], [], color=colour_of(UNTRAINED), lw=1.1, label="Base"))
    legend(figure, handles)
    return figure


def _draw_line(axis: Axes, line: Line, panel: CurvePanel, *, is_faint: bool) -> None:
    mean, colour = line.seed is None, NEUTRAL if is_faint else colour_of(line.arm)
    if is_faint and not mean:
        return
    axis.plot(
        *columns_of(line.points),
        color=colour,
        linewidth=1.0 if is_faint else 2.0 if mean else 0.8,
        alpha=1.0 if mean else 0.4,
        zorder=1.5 if is_faint else 3 if mean else 2,
    )
    if line.band and not is_faint:
        axis.fill_between(
            columns_of(line.points)[0], *columns_of(line.band), color=colour, alpha=0.16, lw=0
        )
    who = f"mean of {line.n_seeds} seeds" if mean else f"seed {line.seed}"
    bands = line.band or ((None, None),) * len(line.points)
    tell(
        axis,
        line.points,
        [
            f"{panel.title}, {arm_name(line.arm)}, {who}, {spent(x, panel.along)}: {number(y, 3)}"
            + ("" if low is None else f" (95 % {number(low, 3)} to {number(high, 3)})")
            for (x, y), (low, high) in zip(line.points, bands, strict=True)
        ],
    )


def _draw_base(axis: Axes, panel: CurvePanel) -> None:
    """Draw the base model's score, or name it at the edge beyond which it lies."""
    if panel.base is None:
        return
    if panel.shows_base:
        axis.axhline(panel.base, color=colour_of(UNTRAINED), lw=1.1)
        return
    below = panel.base < panel.y_range[0]
    axis.annotate(
        f"Base {number(panel.base, 2)} {'↓' if below else '↑'}",
        (0.98, 0.03 if below else 0.97),
        xycoords="axes fraction",
        ha="right",
        va="bottom" if below else "top",
        fontsize=7.5,
        color=INK,
    )


def curve_drawer(y_label: str, leading: Collection[str] = ()) -> Callable[[Any], Figure]:
    """Return a function that draws panels of curves under one label, some arms in colour."""
    return lambda panels: draw_curves(panels, y_label=y_label, leading=leading)
