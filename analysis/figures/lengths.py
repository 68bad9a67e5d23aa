"""How long the answers of each arm are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import NEUTRAL, colour_of, grid, legend, mark
from analysis.printing import arm_name
from analysis.records.load import score_matrix
from analysis.records.study import StudyRecords
from analysis.rows import FigureFile

LENGTHS: Final = FigureFile(
    name="response-length",
    caption="Length of the generated answers to test prompts, all seeds of an arm together; "
    "triangles mark the means.",
    alt="Histograms of the number of tokens in the answers of each arm, one panel per recipe.",
    section="results",
)


@dataclass(frozen=True, kw_only=True)
class LengthPanel:
    """How long the generated answers of one recipe are."""

    recipe: str
    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    """Arm -> share of its answers, over all seeds, in every bin."""
    means: Mapping[str, float]


def length_info(records: StudyRecords, *, n_bins: int = 16) -> tuple[LengthPanel, ...]:
    """Collect the distribution of the length of answers of every arm."""
    panels = [_length_panel(records, recipe, n_bins) for recipe in records.recipes]
    return tuple(panel for panel in panels if panel.shares)


def _length_panel(records: StudyRecords, recipe: str, n_bins: int) -> LengthPanel:
    lengths = {}
    for arm in records.arms(recipe):
        scores = score_matrix(records, recipe, arm, "response_tokens")
        if scores is not None:
            lengths[arm] = scores.matrix.ravel()
    longest = max((float(values.max()) for values in lengths.values()), default=1.0)
    width = max(1, math.ceil(longest / n_bins))
    edges = np.arange(0.5, longest + width + 0.5, width)
    return LengthPanel(
        recipe=recipe,
        edges=tuple(float(edge) for edge in edges),
        shares={
            arm: tuple(float(n) / len(values) for n in np.histogram(values, edges)[0])
            for arm, values in lengths.items()
        },
        means={arm: float(values.mean()) for arm, values in lengths.items()},
    )


def draw_lengths(panels: Sequence[LengthPanel]) -> Figure:
    """Draw how long the generated answers are."""
    figure, axes = grid(len(panels), columns=2, height=2.5)
    for panel, axis in zip(panels, axes, strict=True):
        for arm, shares in panel.shares.items():
            axis.stairs(
                shares, panel.edges, color=colour_of(arm), lw=1.6, fill=False, label=arm_name(arm)
            )
            axis.stairs(shares, panel.edges, color=colour_of(arm), alpha=0.12, fill=True)
            axis.plot(
                panel.means[arm],
                1.0,
                marker="v",
                markersize=7,
                color=colour_of(arm),
                transform=axis.get_xaxis_transform(),
                clip_on=False,
            )
        axis.set(title=panel.recipe, xlabel="tokens in the answer", ylabel="share of answers")
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.shares))
    legend(
        figure,
        [Line2D([], [], color=colour_of(arm), lw=2, label=arm_name(arm)) for arm in arms]
        + [mark("v", NEUTRAL, "mean")],
    )
    return figure
