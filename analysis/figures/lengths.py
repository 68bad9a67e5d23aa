"""How long the answers of each arm are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.palette import INK
from analysis.figures.style import (
    colour_of,
    grid,
    legend,
    mark,
    tell,
)
from analysis.printing import arm_name, number, percent
from analysis.records.load import score_matrix
from analysis.records.study import StudyRecords
from analysis.rows import FigureFile
from study.arms import UNTRAINED

LENGTHS: Final = FigureFile(
    name="response-length",
    caption="Length of the generated answers to test prompts, all seeds of an arm together; "
    "triangles mark the means. The axis ends with the trained arms' answers; where the base "
    "model's are longer, its mean is named at the edge.",
    section="results",
)


@dataclass(frozen=True, kw_only=True)
class LengthPanel:
    """How long the generated answers of one recipe are."""

    recipe: str
    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    """Arm -> share of its answers, over all seeds, in every bin; without arms whose
    answers are longer than any trained arm's."""
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
    trained = [float(values.max()) for arm, values in lengths.items() if arm != UNTRAINED]
    longest = max(trained, default=max((float(v.max()) for v in lengths.values()), default=1.0))
    width = max(1, math.ceil(longest / n_bins))
    edges = np.arange(0.5, longest + width + 0.5, width)
    means = {arm: float(values.mean()) for arm, values in lengths.items()}
    return LengthPanel(
        recipe=recipe,
        edges=tuple(float(edge) for edge in edges),
        shares={
            arm: tuple(float(n) / len(values) for n in np.histogram(values, edges)[0])
            for arm, values in lengths.items()
            if means[arm] <= edges[-1]
        },
        means=means,
    )


def lengths_alt(panels: Sequence[LengthPanel]) -> str:
    """Say how long the answers of every arm are on average."""
    return " ".join(
        f"{panel.recipe}: mean tokens of an answer "
        + ", ".join(f"{arm_name(arm)} {number(mean, 1)}" for arm, mean in panel.means.items())
        + "."
        for panel in panels
    )


def draw_lengths(panels: Sequence[LengthPanel]) -> Figure:
    """Draw how long the generated answers are, the arms' bars beside each other."""
    figure, axes = grid(len(panels), columns=2, height=2.3)
    for panel, axis in zip(panels, axes, strict=True):
        edges = np.array(panel.edges)
        width = 0.86 * (edges[1] - edges[0]) / max(1, len(panel.shares))
        for place, (arm, shares) in enumerate(panel.shares.items()):
            lefts = edges[:-1] + 0.07 * (edges[1] - edges[0]) + place * width
            axis.bar(lefts, shares, width, align="edge", color=colour_of(arm), lw=0)
            tell(
                axis,
                [(float(x + width / 2), share) for x, share in zip(lefts, shares, strict=True)],
                [
                    f"{arm_name(arm)}: {percent(share)} have {_bin(low, high)} tokens"
                    for share, low, high in zip(
                        shares, panel.edges[:-1], panel.edges[1:], strict=True
                    )
                ],
            )
        _draw_means(axis, panel)
        axis.set_xlim(edges[0], edges[-1])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(title=panel.recipe, xlabel="tokens in the answer", ylabel="share of answers")
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.shares))
    legend(
        figure,
        [Line2D([], [], color=colour_of(arm), lw=5, label=arm_name(arm)) for arm in arms]
        + [mark("v", INK, "mean")],
    )
    return figure


def _draw_means(axis: Axes, panel: LengthPanel) -> None:
    for arm, mean in panel.means.items():
        if arm in panel.shares:
            axis.plot(
                mean, 1.0, marker="v", markersize=7, color=colour_of(arm), clip_on=False,
                transform=axis.get_xaxis_transform(),
            )  # fmt: skip
        else:
            axis.annotate(
                f"{arm_name(arm)} {number(mean, 1)} →", (0.99, 0.9), xycoords="axes fraction",
                ha="right", fontsize=7.5, color=INK,
            )  # fmt: skip


def _bin(low: float, high: float) -> str:
    first, last = math.ceil(low), math.floor(high)
    return str(first) if first == last else f"{first} to {last}"
