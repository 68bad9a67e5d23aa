"""Scores over β, at the settings on which claims rest."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.style import LABEL_WIDTH, Point, colour_of, columns_of, grid, tell
from analysis.printing import (
    number,
    plain,
    setting,
)
from analysis.records.load import scores_of
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords
from analysis.rows import FigureFile
from study.config.claims import SETTINGS_OF

BETAS: Final = FigureFile(
    name="claims-beta",
    caption="ORPO at one learning rate and several β on held-out test pairs: the margin, and the "
    "log-probability per token of the chosen answers. Dots are single seeds, lines join their "
    "means; β is on a logarithmic axis.",
    section="claims",
)


@dataclass(frozen=True, kw_only=True)
class BetaPanel:
    """One metric of one recipe over β, at the claims' learning rate."""

    recipe: str
    label: str
    learning_rate: float
    points: tuple[Point, ...]
    """(β, mean over pairs) of every run."""
    means: tuple[Point, ...]


BETA_METRICS = ("margin", "chosen_logps")


def beta_info(records: StudyRecords) -> tuple[BetaPanel, ...]:
    """Collect margin and chosen log-probability over β, where three β have runs.

    The learning rate is the one at which most settings of the claims differ in β.
    """
    return tuple(
        panel
        for recipe in records.claims
        for metric in BETA_METRICS
        if len((panel := _beta_panel(records, recipe, metric)).means) > 2
    )


def _beta_panel(records: StudyRecords, recipe: str, metric: str) -> BetaPanel:
    settings = records.claims[recipe]["settings"]
    rates = [values["learning_rate"] for values in settings.values()]
    rate = max(rates, key=rates.count)
    points = [
        (float(settings[name]["beta"]), float(mean))
        for name in settings
        if settings[name]["learning_rate"] == rate
        if (scores := scores_of([r for r in records.side(recipe, name) if r.ok], metric))
        for mean in scores.matrix.mean(axis=1)
    ]
    described = METRICS[metric]
    return BetaPanel(
        recipe=recipe,
        label="\n".join(textwrap.wrap(f"{described.label} ({described.unit})", LABEL_WIDTH)),
        learning_rate=float(rate),
        points=tuple(points),
        means=tuple(
            (beta, float(np.mean([y for x, y in points if x == beta])))
            for beta in sorted({x for x, _ in points})
        ),
    )


def betas_alt(panels: Sequence[BetaPanel]) -> str:
    """Say from where to where each score goes as β grows."""
    return " ".join(
        f"{panel.recipe}: {' '.join(panel.label.split())} goes from "
        f"{number(panel.means[0][1], 3)} at β {plain(panel.means[0][0])} to "
        f"{number(panel.means[-1][1], 3)} at β {plain(panel.means[-1][0])}."
        for panel in panels
    )


def draw_betas(panels: Sequence[BetaPanel]) -> Figure:
    """Draw scores over β: dots are seeds, lines join their means."""
    figure, axes = grid(len(panels), columns=len(BETA_METRICS), height=2.5)
    for panel, axis in zip(panels, axes, strict=True):
        axis.plot(*columns_of(panel.means), color=colour_of(SETTINGS_OF), lw=1.6)
        axis.plot(*columns_of(panel.points), "o", color=colour_of(SETTINGS_OF), ms=4.5, alpha=0.6)
        axis.set_xscale("log")
        tell(
            axis,
            [*panel.means, *panel.points],
            [
                f"β {plain(x)}, {kind}: {number(y, 3)}"
                for kind, points in (("mean", panel.means), ("one seed", panel.points))
                for x, y in points
            ],
        )
        betas = [beta for beta, _ in panel.means]
        axis.set_xticks(betas, [plain(beta) for beta in betas])
        axis.minorticks_off()
        axis.set(
            title=f"{panel.recipe}, learning rate {setting(panel.learning_rate)}",
            xlabel="β",
            ylabel=panel.label,
        )
    return figure
