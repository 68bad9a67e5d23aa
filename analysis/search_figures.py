"""Draw what the searches did; what is shown is computed in ``figure_data``."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from analysis import figure_data as data
from analysis.drawing import COLOURS, INK, NEUTRAL, columns_of, grid, legend, mark
from analysis.words import arm_name

LOSSES = ("nll+lor", "nll")
"""Objectives above zero, whose bad trials would squash the good ones on a linear axis."""


def draw_history(panels: Sequence[data.HistoryPanel]) -> Figure:
    """Draw the objective over trials with the best so far."""
    figure, axes = grid(len(panels), columns=2, height=2.3)
    for panel, axis in zip(panels, axes, strict=True):
        colour = COLOURS[panel.arm]
        axis.scatter(*columns_of(panel.complete), s=20, color=colour, alpha=0.75, zorder=3)
        axis.scatter(*columns_of(panel.pruned), s=24, color=NEUTRAL, marker="x", zorder=3)
        axis.plot(*columns_of(panel.best), drawstyle="steps-post", color=INK, lw=1.4, zorder=2)
        axis.scatter(
            panel.diverged,
            [1.0] * len(panel.diverged),
            transform=axis.get_xaxis_transform(),
            marker="v",
            s=26,
            color=INK,
            clip_on=False,
            zorder=4,
        )
        axis.set(
            title=f"{panel.recipe}, {arm_name(panel.arm)}",
            xlabel="trial",
            ylabel=objective_words(panel.objective),
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.objective in LOSSES:
            _logarithmic(axis, axis.yaxis)
    legend(
        figure,
        [
            mark("o", NEUTRAL, "finished trial (colour of its arm)"),
            mark("x", NEUTRAL, "pruned, at its last value"),
            mark("v", INK, "no value (diverged)"),
            Line2D([], [], color=INK, lw=1.4, label="best so far"),
        ],
    )
    return figure


def draw_space(panels: Sequence[data.SpacePanel], *, sources: Mapping[str, int]) -> Figure:
    """Draw where the searches looked, what was published and what was chosen."""
    figure, axes = grid(len(panels), columns=2, height=2.7)
    for panel, axis in zip(panels, axes, strict=True):
        _draw_space(panel, axis, figure)
    handles = [
        mark("o", NEUTRAL, "finished trial"),
        mark("x", NEUTRAL, "pruned or diverged"),
        mark("s", "none", "published setting", edge=INK, size=9),
        mark("*", "white", "chosen setting", edge=INK, size=13),
    ]
    legend(figure, handles)
    key = "\n".join(["Published settings", *data.key_lines(sources)])
    if sources:
        figure.supxlabel(key, x=0.06, ha="left", fontsize=8)
    return figure


def draw_front(panels: Sequence[data.FrontPanel]) -> Figure:
    """Draw NLL against accuracy of all finished trials and each arm's front."""
    figure, axes = grid(len(panels), columns=2, height=3.0)
    for panel, axis in zip(panels, axes, strict=True):
        for point in panel.points:
            axis.scatter(point.x, point.y, s=18, color=COLOURS[point.arm], alpha=0.5, zorder=2)
        for arm, front in panel.fronts.items():
            axis.plot(
                *columns_of(front), color=COLOURS[arm], lw=1.5, drawstyle="steps-post", zorder=3
            )
        for arm, (x, y) in panel.chosen.items():
            axis.scatter(
                x, y, s=150, marker="*", color=COLOURS[arm], edgecolor=INK, lw=0.8, zorder=4
            )
        axis.set(
            title=panel.recipe,
            xlabel="NLL (nats/token), lower is better",
            ylabel="preference accuracy",
        )
        _logarithmic(axis, axis.xaxis)
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.fronts))
    legend(
        figure,
        [mark("o", COLOURS[arm], f"{arm_name(arm)} trial", line="-") for arm in arms]
        + [mark("*", "white", "chosen setting", edge=INK, size=12)],
    )
    return figure


def objective_words(objective: str) -> str:
    """Say what a search optimised, with the better direction."""
    return {
        "nll+lor": "NLL + $L_{OR}$ (lower is better)",
        "nll": "NLL (lower is better)",
        "accuracy": "accuracy (higher is better)",
        "margin": "margin (higher is better)",
        "rougeL": "ROUGE-L (higher is better)",
    }.get(objective, objective)


def _draw_space(panel: data.SpacePanel, axis: Axes, figure: Figure) -> None:
    valued = [point for point in panel.points if point.value is not None]
    others = [point for point in panel.points if point.value is None]
    colours = {
        "c": [point.value for point in valued],
        "cmap": "viridis" if panel.low_is_good else "viridis_r",
        "norm": LogNorm() if panel.objective in LOSSES else None,
    }
    dots = axis.scatter(
        [point.x for point in valued],
        [point.y for point in valued],
        s=30,
        zorder=3,
        **(colours if panel.has_beta else {"color": COLOURS[panel.arm]}),
    )
    axis.scatter(
        [point.x for point in others],
        [point.y for point in others],
        s=24,
        marker="x",
        color=NEUTRAL,
        zorder=3,
    )
    for point in panel.points:
        if point.published is not None:
            axis.scatter(
                point.x,
                point.y,
                s=85,
                marker="s",
                facecolor="none",
                edgecolor=INK,
                lw=1.1,
                zorder=4,
            )
            axis.annotate(
                str(point.published), (point.x, point.y), (7, 4), textcoords="offset points",
                fontsize=8, zorder=6,
            )  # fmt: skip
    axis.scatter(
        *panel.chosen, s=230, marker="*", facecolor="none", edgecolor=INK, lw=1.2, zorder=5
    )
    words = objective_words(panel.objective)
    axis.set(
        title=f"{panel.recipe}, {arm_name(panel.arm)}",
        xlabel="learning rate",
        ylabel="β" if panel.has_beta else words,
        xscale="log",
        xlim=panel.x_range,
        ylim=panel.y_range,
    )
    if not panel.has_beta and panel.objective in LOSSES:
        _logarithmic(axis, axis.yaxis)
        axis.autoscale(axis="y")
    if panel.has_beta:
        axis.set_yscale("log")
        axis.set_ylim(panel.y_range)
        bar = figure.colorbar(dots, ax=axis, pad=0.02)
        bar.set_label(words, fontsize=8)
        bar.outline.set_visible(False)
        if panel.objective in LOSSES:
            _label_decades(bar.ax.yaxis)


def _logarithmic(axis: Axes, which: Axis) -> None:
    (axis.set_xscale if which is axis.xaxis else axis.set_yscale)("log")
    _label_decades(which)


def _label_decades(which: Axis) -> None:
    """Label 1, 2 and 5 of each decade as plain numbers."""
    which.set_major_locator(LogLocator(subs=(1, 2, 5)))
    which.set_major_formatter(ScalarFormatter())
    which.set_minor_formatter(NullFormatter())
