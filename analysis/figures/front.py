"""NLL against accuracy over all trials of a search, with each arm's front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure

from analysis.figures.palette import INK
from analysis.figures.search import TrialPoint, trial_point
from analysis.figures.style import (
    Point,
    colour_of,
    columns_of,
    grid,
    legend,
    mark,
    padded,
    tell,
    zoomed,
)
from analysis.printing import arm_name, number
from analysis.records.study import SearchRecord, StudyRecords
from analysis.rows import FigureFile
from analysis.statistics import trials as tuning

FRONT: Final = FigureFile(
    name="trade-off",
    caption="NLL against preference accuracy on validation pairs for every finished trial. Lines "
    "join the trials that no other trial of the arm beats in both; better is up and to the left. "
    "A few trials with a far higher NLL lie beyond the axis.",
    section="search",
)


@dataclass(frozen=True, kw_only=True)
class FrontPanel:
    """The trials of one recipe in NLL and accuracy, with each arm's front."""

    recipe: str
    points: tuple[TrialPoint, ...]
    fronts: Mapping[str, tuple[Point, ...]]
    chosen: Mapping[str, Point]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    """Where most trials lie; the others are beyond the axes."""


def front_info(records: StudyRecords) -> tuple[FrontPanel, ...]:
    """Collect the trade-off of NLL against accuracy over all complete trials."""
    return tuple(
        _front_panel(recipe, searches)
        for recipe in records.recipes
        if (searches := [s for s in records.searches if s.recipe == recipe and s.best])
    )


def _front_panel(recipe: str, searches: Sequence[SearchRecord]) -> FrontPanel:
    points, fronts, chosen = [], {}, {}
    for search in searches:
        assert search.best is not None
        trials: Sequence[Mapping[str, Any]] = search.trials
        for trial in trials:
            if trial["state"] == "complete":
                point = trial_point(trial, search.arm, {}, x=trial["nll"], y=trial["accuracy"])
                points.append(point)
            if trial["number"] == search.best["trial"]:
                chosen[search.arm] = (trial["nll"], trial["accuracy"])
        front = tuning.trade_off_front(search.trials)
        fronts[search.arm] = tuple((trial["nll"], trial["accuracy"]) for trial in front)
    x_range = zoomed([point.x for point in points])
    return FrontPanel(
        recipe=recipe,
        points=tuple(points),
        fronts=fronts,
        chosen=chosen,
        x_range=x_range,
        y_range=padded([point.y for point in points if point.x <= x_range[1]]),
    )


def draw_front(panels: Sequence[FrontPanel]) -> Figure:
    """Draw NLL against accuracy of all finished trials and each arm's front."""
    figure, axes = grid(len(panels), columns=2, height=3.0)
    for panel, axis in zip(panels, axes, strict=True):
        tell(
            axis,
            [(point.x, point.y) for point in panel.points],
            [
                f"{arm_name(point.arm)}, trial {point.number}: NLL {number(point.x, 3)}, accuracy "
                f"{number(point.y, 3)}"
                for point in panel.points
            ],
        )
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
            xlim=panel.x_range,
            ylim=panel.y_range,
        )
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.fronts))
    legend(
        figure,
        [mark("o", colour_of(arm), f"{arm_name(arm)} trial", line="-") for arm in arms]
        + [mark("*", "white", "chosen setting", edge=INK, size=12)],
    )
    return figure


def front_alt(panels: Sequence[FrontPanel]) -> str:
    """Say where the chosen trials lie."""
    return " ".join(
        f"{panel.recipe}: "
        + "; ".join(
            f"the chosen trial of {arm_name(arm)} has NLL {number(x, 3)} and accuracy "
            f"{number(y, 3)}"
            for arm, (x, y) in panel.chosen.items()
        )
        + "."
        for panel in panels
    )
