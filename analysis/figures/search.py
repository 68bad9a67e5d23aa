"""Figures of the searches: ``*_info`` functions are pure; draw functions draw what they return."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import (
    INK,
    KEY_WIDTH,
    LOSSES,
    NEUTRAL,
    Point,
    colour_of,
    columns_of,
    grid,
    label_decades,
    legend,
    logarithmic,
    mark,
    objective_words,
    padded,
    padded_log,
)
from analysis.printing import arm_name
from analysis.records.study import SearchRecord, StudyRecords
from analysis.rows import FigureFile
from analysis.statistics import trials as tuning

HISTORY: Final = FigureFile(
    name="search-history",
    caption="The objective over the trials of each search, in the order they ran.",
    alt="Scatter plots of the objective against the trial number with a line for the best so far.",
    section="search",
)


SPACE: Final = FigureFile(
    name="search-space",
    caption="Where the searches looked: learning rate and β for ORPO, coloured by the objective; "
    "learning rate against the objective for SFT. Squares with numbers are published settings, "
    "the star is the setting chosen after repetition with fresh seeds.",
    alt="Scatter plots of trials over learning rate and β, published and chosen settings marked.",
    section="search",
)


FRONT: Final = FigureFile(
    name="trade-off",
    caption="NLL against preference accuracy on validation pairs for every finished trial. Lines "
    "join the trials that no other trial of the arm beats in both; better is up and to the left.",
    alt="Scatter plot of NLL against accuracy of all trials with the front of each arm.",
    section="search",
)


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


@dataclass(frozen=True, kw_only=True)
class FrontPanel:
    """The trials of one recipe in NLL and accuracy, with each arm's front."""

    recipe: str
    points: tuple[TrialPoint, ...]
    fronts: Mapping[str, tuple[Point, ...]]
    chosen: Mapping[str, Point]


def history_info(records: StudyRecords) -> tuple[HistoryPanel, ...]:
    """Collect the objective over the trials of every search."""
    return tuple(_history_panel(search) for search in records.searches if search.trials)


def space_info(records: StudyRecords) -> tuple[SpacePanel, ...]:
    """Collect where in its space every finished search looked and what it chose."""
    sources = published_key(records)
    return tuple(_space_panel(search, sources) for search in records.searches if search.best)


def published_key(records: StudyRecords) -> dict[str, int]:
    """Number the sources of published settings that were tried, from 1."""
    tried = [
        str(trial["published"])
        for search in records.searches
        for trial in search.trials
        if trial.get("published")
    ]
    return {source: number for number, source in enumerate(dict.fromkeys(tried), start=1)}


def key_lines(sources: Mapping[str, int]) -> list[str]:
    """Write the key of published settings in lines that fit below the figure."""
    return [
        line
        for source, number in sources.items()
        for line in textwrap.wrap(f"{number}  {source}", KEY_WIDTH, subsequent_indent="    ")
    ]


def front_info(records: StudyRecords) -> tuple[FrontPanel, ...]:
    """Collect the trade-off of NLL against accuracy over all complete trials."""
    return tuple(
        _front_panel(recipe, searches)
        for recipe in records.recipes
        if (searches := [s for s in records.searches if s.recipe == recipe and s.best])
    )


def _history_panel(search: SearchRecord) -> HistoryPanel:
    def of(state: str) -> tuple[Point, ...]:
        return tuple(
            (trial["number"], trial["value"])
            for trial in search.trials
            if trial["state"] == state and trial["value"] is not None
        )

    objective = search.config["recipe"]["search"]["objective"]
    direction = search.best["direction"] if search.best else _direction(objective)
    return HistoryPanel(
        recipe=search.recipe,
        arm=search.arm,
        objective=objective,
        complete=of("complete"),
        pruned=of("pruned"),
        diverged=tuple(trial["number"] for trial in search.trials if trial["value"] is None),
        best=tuple(tuning.best_so_far(search.trials, direction=direction)),
    )


def _direction(objective: str) -> str:
    return "minimize" if objective.startswith("nll") else "maximize"


def _space_panel(search: SearchRecord, sources: Mapping[str, int]) -> SpacePanel:
    assert search.best is not None
    has_beta = "beta" in search.space
    trials: Sequence[Mapping[str, Any]] = search.trials
    points = [
        _trial_point(
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
    values = [point.y for point in points]
    return SpacePanel(
        recipe=search.recipe,
        arm=search.arm,
        objective=search.best["objective"],
        low_is_good=search.best["direction"] == "minimize",
        has_beta=has_beta,
        points=tuple(points),
        chosen=(best["learning_rate"], best["beta"] if has_beta else search.best["trial_value"]),
        x_range=padded_log(*search.space["learning_rate"]),
        y_range=padded_log(*search.space["beta"]) if has_beta else padded(values),
    )


def _trial_point(
    trial: Mapping[str, Any], arm: str, sources: Mapping[str, int], *, x: float, y: float
) -> TrialPoint:
    return TrialPoint(
        number=trial["number"],
        arm=arm,
        x=x,
        y=y,
        value=trial["value"] if trial["state"] == "complete" else None,
        published=sources.get(str(trial["published"])) if trial.get("published") else None,
    )


def _front_panel(recipe: str, searches: Sequence[SearchRecord]) -> FrontPanel:
    points, fronts, chosen = [], {}, {}
    for search in searches:
        assert search.best is not None
        trials: Sequence[Mapping[str, Any]] = search.trials
        for trial in trials:
            if trial["state"] == "complete":
                point = _trial_point(trial, search.arm, {}, x=trial["nll"], y=trial["accuracy"])
                points.append(point)
            if trial["number"] == search.best["trial"]:
                chosen[search.arm] = (trial["nll"], trial["accuracy"])
        front = tuning.trade_off_front(search.trials)
        fronts[search.arm] = tuple((trial["nll"], trial["accuracy"]) for trial in front)
    return FrontPanel(recipe=recipe, points=tuple(points), fronts=fronts, chosen=chosen)


def draw_history(panels: Sequence[HistoryPanel]) -> Figure:
    """Draw the objective over trials with the best so far."""
    figure, axes = grid(len(panels), columns=2, height=2.3)
    for panel, axis in zip(panels, axes, strict=True):
        colour = colour_of(panel.arm)
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
            logarithmic(axis, axis.yaxis)
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


def draw_space(panels: Sequence[SpacePanel], *, sources: Mapping[str, int]) -> Figure:
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
    key = "\n".join(["Published settings", *key_lines(sources)])
    if sources:
        figure.supxlabel(key, x=0.06, ha="left", fontsize=8)
    return figure


def draw_front(panels: Sequence[FrontPanel]) -> Figure:
    """Draw NLL against accuracy of all finished trials and each arm's front."""
    figure, axes = grid(len(panels), columns=2, height=3.0)
    for panel, axis in zip(panels, axes, strict=True):
        for point in panel.points:
            axis.scatter(point.x, point.y, s=18, color=colour_of(point.arm), alpha=0.5, zorder=2)
        for arm, front in panel.fronts.items():
            axis.plot(
                *columns_of(front), color=colour_of(arm), lw=1.5, drawstyle="steps-post", zorder=3
            )
        for arm, (x, y) in panel.chosen.items():
            axis.scatter(
                x, y, s=150, marker="*", color=colour_of(arm), edgecolor=INK, lw=0.8, zorder=4
            )
        axis.set(
            title=panel.recipe,
            xlabel="NLL (nats/token), lower is better",
            ylabel="preference accuracy",
        )
        logarithmic(axis, axis.xaxis)
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.fronts))
    legend(
        figure,
        [mark("o", colour_of(arm), f"{arm_name(arm)} trial", line="-") for arm in arms]
        + [mark("*", "white", "chosen setting", edge=INK, size=12)],
    )
    return figure


def _draw_space(panel: SpacePanel, axis: Axes, figure: Figure) -> None:
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
        **(colours if panel.has_beta else {"color": colour_of(panel.arm)}),
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
        logarithmic(axis, axis.yaxis)
        axis.autoscale(axis="y")
    if panel.has_beta:
        axis.set_yscale("log")
        axis.set_ylim(panel.y_range)
        bar = figure.colorbar(dots, ax=axis, pad=0.02)
        bar.set_label(words, fontsize=8)
        bar.outline.set_visible(False)
        if panel.objective in LOSSES:
            label_decades(bar.ax.yaxis)
