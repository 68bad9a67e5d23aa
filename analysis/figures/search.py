"""Figures of the searches: ``*_info`` functions are pure; draw functions draw what they return."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.palette import FRAME, INK
from analysis.figures.published import key_lines, published_key
from analysis.figures.style import (
    LOSSES,
    Point,
    colour_of,
    columns_of,
    grid,
    legend,
    mark,
    objective_words,
    padded,
    padded_log,
    tell,
    zoomed,
)
from analysis.printing import arm_name, number, setting, setting_name
from analysis.records.study import SearchRecord, StudyRecords
from analysis.rows import FigureFile
from analysis.statistics import trials as tuning

HISTORY: Final = FigureFile(
    name="search-history",
    caption="The objective over the trials of each search, in the order they ran. Trials "
    "beyond the axis stand at its upper edge.",
    section="search",
)


SPACE: Final = FigureFile(
    name="search-space",
    caption="Where the searches looked: learning rate and β, coloured by the objective, where an "
    "arm has a β; learning rate against the objective for SFT. A dot is the larger the larger "
    "SimPO's γ/β is. Squares with numbers are published settings, the star is the setting chosen "
    "after repetition with fresh seeds. Trials beyond the axis stand at its upper edge.",
    section="search",
)


THIRD: Final = "gamma_beta_ratio"
"""Hyperparameter that sizes stand for, beside learning rate and β."""
MANY_PANELS: Final = 6
"""Panels that stand two in a row; more of them are smaller and four in a row."""


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """One trial as a point of a figure."""

    number: int
    arm: str
    x: float
    y: float
    value: float | None
    """The objective, None where the trial has none."""
    published: int | None
    """Number of the published setting in the figure's key, None for others."""
    third: float | None = None
    """Value of a third hyperparameter, ``THIRD``."""


@dataclass(frozen=True, kw_only=True)
class HistoryPanel:
    """One search in the order of its trials."""

    recipe: str
    arm: str
    objective: str
    complete: tuple[Point, ...]
    pruned: tuple[Point, ...]
    diverged: tuple[int, ...]
    """Numbers of the trials without a value."""
    best: tuple[Point, ...]
    y_range: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SpacePanel:
    """One search over its space: learning rate by β, or by the objective."""

    recipe: str
    arm: str
    objective: str
    low_is_good: bool
    has_beta: bool
    """Whether y is β; otherwise y is the objective."""
    points: tuple[TrialPoint, ...]
    chosen: Point
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def history_info(records: StudyRecords) -> tuple[HistoryPanel, ...]:
    """Collect the objective over the trials of every search."""
    return tuple(_history_panel(search) for search in records.searches if search.trials)


def space_info(records: StudyRecords) -> tuple[SpacePanel, ...]:
    """Collect where in its space every finished search looked and what it chose."""
    sources = published_key(records)
    return tuple(_space_panel(search, sources) for search in records.searches if search.best)


def _history_panel(search: SearchRecord) -> HistoryPanel:
    def of(state: str) -> tuple[Point, ...]:
        return tuple(
            (trial["number"], trial["value"])
            for trial in search.trials
            if trial["state"] == state and trial["value"] is not None
        )

    objective = search.config["recipe"]["search"]["objective"]
    direction = search.best["direction"] if search.best else _direction(objective)
    complete = of("complete")
    return HistoryPanel(
        recipe=search.recipe,
        arm=search.arm,
        objective=objective,
        complete=complete,
        pruned=of("pruned"),
        diverged=tuple(trial["number"] for trial in search.trials if trial["value"] is None),
        best=tuple(tuning.best_so_far(search.trials, direction=direction)),
        y_range=zoomed([value for _, value in complete]),
    )


def _direction(objective: str) -> str:
    return "minimize" if objective.startswith("nll") else "maximize"


def _space_panel(search: SearchRecord, sources: Mapping[str, int]) -> SpacePanel:
    assert search.best is not None
    has_beta = "beta" in search.space
    trials: Sequence[Mapping[str, Any]] = search.trials
    points = [
        trial_point(
            trial,
            search.arm,
            sources,
            x=trial["settings"]["learning_rate"],
            y=trial["settings"]["beta"] if has_beta else trial["value"],
        )
        for trial in trials
        if has_beta or trial["value"] is not None
    ]
    best = search.best["settings"]
    values = [point.y for point in points if point.value is not None]
    return SpacePanel(
        recipe=search.recipe,
        arm=search.arm,
        objective=search.best["objective"],
        low_is_good=search.best["direction"] == "minimize",
        has_beta=has_beta,
        points=tuple(points),
        chosen=(best["learning_rate"], best["beta"] if has_beta else search.best["trial_value"]),
        x_range=padded_log(*search.space["learning_rate"]),
        y_range=padded_log(*search.space["beta"]) if has_beta else zoomed(values),
    )


def trial_point(
    trial: Mapping[str, Any], arm: str, sources: Mapping[str, int], *, x: float, y: float
) -> TrialPoint:
    """Make a point of a trial, with its number in the key of published settings."""
    return TrialPoint(
        number=trial["number"],
        arm=arm,
        x=x,
        y=y,
        value=trial["value"] if trial["state"] == "complete" else None,
        published=sources.get(str(trial["published"])) if trial.get("published") else None,
        third=trial["settings"].get(THIRD),
    )


def draw_history(panels: Sequence[HistoryPanel]) -> Figure:
    """Draw the objective over trials with the best so far."""
    figure, axes = grid(len(panels), columns=2, height=2.3)
    for panel, axis in zip(panels, axes, strict=True):
        colour = colour_of(panel.arm)
        axis.scatter(
            *columns_of(_within(panel.complete, panel.y_range)),
            s=20,
            color=colour,
            alpha=0.75,
            zorder=3,
        )
        pruned = _within(panel.pruned, panel.y_range)
        axis.scatter(*columns_of(pruned), s=20, color=INK, lw=0.9, marker="x", zorder=3)
        best = _within(panel.best, panel.y_range)
        axis.plot(*columns_of(best), drawstyle="steps-post", color=INK, lw=1.4, zorder=2)
        for points, state in ((panel.complete, "finished"), (panel.pruned, "pruned")):
            tell(
                axis,
                _within(points, panel.y_range),
                [f"trial {x:g}, {state}: {number(y, 3)}" for x, y in points],
            )
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
        axis.set_ylim(panel.y_range)
    legend(
        figure,
        [
            mark("o", "none", "finished trial, in its arm's colour", edge=INK),
            mark("x", INK, "pruned, at its last value"),
            mark("v", INK, "no value (diverged)"),
            Line2D([], [], color=INK, lw=1.4, label="best so far"),
        ],
    )
    return figure


def draw_space(panels: Sequence[SpacePanel], *, sources: Mapping[str, int]) -> Figure:
    """Draw where the searches looked, what was published and what was chosen."""
    many = len(panels) > MANY_PANELS
    figure, axes = grid(len(panels), columns=4 if many else 2, height=1.2 if many else 2.7)
    for panel, axis in zip(panels, axes, strict=True):
        _draw_space(panel, axis, figure, is_small=many)
    if many:
        _share_labels(axes)
    handles = [
        mark("o", "none", "finished trial", edge=INK),
        mark("x", INK, "pruned or diverged"),
        mark("s", "none", "published setting", edge=INK, size=9),
        mark("*", "white", "chosen setting", edge=INK, size=13),
    ]
    legend(figure, handles)
    key = "\n".join(["Published settings", *key_lines(sources)])
    if sources:
        figure.supxlabel(key, x=0.06, ha="left", fontsize=6 if many else 8)
    return figure


def history_alt(panels: Sequence[HistoryPanel]) -> str:
    """Say what the best trial reached, and when."""
    return " ".join(
        f"{panel.recipe}, {arm_name(panel.arm)}: the best of "
        f"{len(panel.complete) + len(panel.pruned) + len(panel.diverged)} trials reached "
        f"{number(panel.best[-1][1], 3)}, first in trial "
        f"{next(x for x, y in panel.best if y == panel.best[-1][1]):g}; {len(panel.pruned)} were "
        f"pruned, {len(panel.diverged)} have no value."
        for panel in panels
        if panel.best
    )


def space_alt(panels: Sequence[SpacePanel]) -> str:
    """Say what every search chose."""
    return " ".join(
        f"{panel.recipe}, {arm_name(panel.arm)}: of {len(panel.points)} trials "
        f"{sum(point.value is not None for point in panel.points)} finished; chosen is learning "
        f"rate {setting(panel.chosen[0])}, "
        + (f"β {setting(panel.chosen[1])}." if panel.has_beta else "in one dimension.")
        for panel in panels
    )


def _within(points: Sequence[Point], y_range: tuple[float, float]) -> list[Point]:
    """Put points above a panel at its upper edge."""
    top = y_range[1] - 0.02 * (y_range[1] - y_range[0])
    return [(x, min(y, top)) for x, y in points]


def _ends(points: Sequence[TrialPoint], panel: SpacePanel) -> Point:
    """Return the ends of the colours: a few bad trials must not make the others alike."""
    values = [point.value for point in points if point.value is not None]
    return zoomed(values) if panel.objective in LOSSES else padded(values)


def _said(point: TrialPoint, panel: SpacePanel) -> str:
    beta = f", β {setting(point.y)}" if panel.has_beta else ""
    beta += f", {setting_name(THIRD)} {setting(point.third)}" if point.third is not None else ""
    value = "no final value" if point.value is None else number(point.value, 3)
    return f"trial {point.number}, learning rate {setting(point.x)}{beta}: {value}"


def _share_labels(axes: Sequence[Axes]) -> None:
    """Make the words of small panels small, and say what runs along them once."""
    for place, axis in enumerate(axes):
        axis.tick_params(labelsize=6)
        axis.tick_params(which="minor", labelleft=False, labelbottom=False)
        axis.yaxis.label.set_fontsize(7)
        axis.xaxis.label.set_fontsize(7)
        if place < len(axes) - 4:
            axis.set_xlabel("")


def _sizes(points: Sequence[TrialPoint], size: float) -> list[float]:
    """Return the sizes of dots, by their third hyperparameter where they have one."""
    known = [math.log(point.third) for point in points if point.third is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return [
        size if point.third is None or not span
        else size * (0.4 + 1.4 * (math.log(point.third) - low) / span)
        for point in points
    ]  # fmt: skip


def _draw_space(panel: SpacePanel, axis: Axes, figure: Figure, *, is_small: bool) -> None:
    valued = [point for point in panel.points if point.value is not None]
    others = [point for point in panel.points if point.value is None]
    colours = {
        "c": [point.value for point in valued],
        "cmap": "viridis" if panel.low_is_good else "viridis_r",
        "norm": Normalize(*_ends(valued, panel)),
    }
    inside = _within([(point.x, point.y) for point in valued], panel.y_range)
    dots = axis.scatter(
        *columns_of(inside),
        s=_sizes(valued, 14 if is_small else 30),
        edgecolor=FRAME,
        lw=0.4,
        zorder=3,
        **(colours if panel.has_beta else {"color": colour_of(panel.arm)}),
    )
    outside = _within([(point.x, point.y) for point in others], panel.y_range)
    axis.scatter(
        *columns_of(outside), s=8 if is_small else 20, marker="x", color=INK, lw=0.9, zorder=3
    )
    tell(
        axis,
        _within([(point.x, point.y) for point in panel.points], panel.y_range),
        [_said(point, panel) for point in panel.points],
    )
    for point in panel.points:
        if point.published is not None:
            x, y = _within([(point.x, point.y)], panel.y_range)[0]
            axis.scatter(
                x,
                y,
                s=30 if is_small else 85,
                marker="s",
                facecolor="none",
                edgecolor=INK,
                lw=1.1,
                zorder=4,
            )
            axis.annotate(
                str(point.published), (x, y), (4, 2) if is_small else (7, 4),
                textcoords="offset points", fontsize=6 if is_small else 8, zorder=6,
            )  # fmt: skip
    axis.scatter(
        *panel.chosen,
        s=90 if is_small else 230,
        marker="*",
        facecolor="none",
        edgecolor=INK,
        lw=1.2,
        zorder=5,
    )
    words = objective_words(panel.objective)
    between = "\n" if is_small else " "
    axis.set_title(
        f"{panel.recipe},{between}{arm_name(panel.arm)}", fontsize=6 if is_small else None
    )
    axis.set(
        xlabel="learning rate",
        ylabel="β" if panel.has_beta else "objective" if is_small else words,
        xscale="log",
        xlim=panel.x_range,
        ylim=panel.y_range,
    )
    if panel.has_beta:
        axis.set_yscale("log")
        axis.set_ylim(panel.y_range)
        cut = "max" if panel.objective in LOSSES else "neither"
        bar = figure.colorbar(dots, ax=axis, pad=0.02, extend=cut)
        bar.ax.tick_params(labelsize=6 if is_small else None)
        if not is_small:
            bar.set_label(words, fontsize=8)
        bar.outline.set_visible(False)
