"""Draw the expected best of random trials and how early the end could be known."""

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import INK, NEUTRAL, colour_of, grid, legend, objective_words
from analysis.printing import arm_name
from analysis.rows import FigureFile
from analysis.search_rows import TuningRow
from analysis.tables.trials import SCORES, score_label

EXPECTED: Final = FigureFile(
    name="expected-best",
    caption="How good the best of n trials is expected to be, from the trials whose settings were "
    "drawn at random; published settings and those guided by earlier trials are left out. A "
    "pruned trial counts as the worst. The vertical axis does not reach the worst "
    "single trials; where the band meets the frame, n trials do not bound it.",
    alt="Curves of the expected best objective against the number of random trials, with bands.",
    section="search",
)


EARLY: Final = FigureFile(
    name="early-correlation",
    caption="How early the outcome could have been predicted: Spearman's rank correlation, over "
    "complete trials, between each score at a step and its final value.",
    alt="Curves of rank correlations with the final value over training steps for each search.",
    section="search",
)


DASHES = dict(zip(SCORES, ("--", (0, (8, 2)), ":", "-.", (0, (5, 1, 1, 1, 1, 1))), strict=True))


def draw_expected_best(rows: Sequence[TuningRow]) -> Figure:
    """Draw the expected best of n random trials with the band of the median."""
    figure, axes = grid(len(rows), columns=2, height=2.3)
    for row, axis in zip(rows, axes, strict=True):
        colour, points = colour_of(row.arm), row.expected_best
        ns = [point.n for point in points]
        axis.plot(ns, [point.expected for point in points], "o-", color=colour, markersize=4)
        axis.set(
            title=f"{row.recipe}, {arm_name(row.arm)}",
            xlabel="random trials",
            ylabel=objective_words(row.objective),
        )
        bottom, top = drawn_range(row)
        axis.fill_between(
            ns,
            [bottom if point.low is None else point.low for point in points],
            [top if point.high is None else point.high for point in points],
            color=colour,
            alpha=0.15,
            lw=0,
        )
        axis.set_ylim(bottom, top)
        axis.set_xlim(0.7, ns[-1] + 0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(
        figure,
        [
            Line2D([], [], marker="o", color=NEUTRAL, markersize=4, label="expected best of n"),
            Patch(
                color=NEUTRAL, alpha=0.3, label="80 % band of the median best, for all n at once"
            ),
        ],
    )
    return figure


def draw_early(rows: Sequence[TuningRow]) -> Figure:
    """Draw the rank correlation of scores at each step with their final values."""
    figure, axes = grid(len(rows), columns=2, height=2.5)
    for row, axis in zip(rows, axes, strict=True):
        colour = colour_of(row.arm)
        for early in row.early:
            steps = [point.step for point in early.steps]
            correlations = [point.correlation for point in early.steps]
            if early.score == row.objective:
                axis.plot(steps, correlations, "o-", color=colour, markersize=3.5, zorder=3)
                axis.fill_between(
                    steps,
                    [point.low for point in early.steps],
                    [point.high for point in early.steps],
                    color=colour,
                    alpha=0.15,
                    lw=0,
                )
            else:
                axis.plot(steps, correlations, ls=DASHES[early.score], color=NEUTRAL, lw=1.2)
        axis.axhline(0, color=INK, lw=0.7)
        axis.set(
            title=f"{row.recipe}, {arm_name(row.arm)}",
            xlabel=f"step (of {row.last_step})",
            ylabel="rank correlation",
            ylim=(-0.6, 1.05),
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn = [score for score in SCORES if any(e.score == score for row in rows for e in row.early)]
    legend(
        figure,
        [
            Line2D([], [], marker="o", color=NEUTRAL, label="objective, with 95 % interval"),
            *(
                Line2D([], [], color=NEUTRAL, ls=DASHES[score], label=score_label(score))
                for score in drawn
            ),
        ],
    )
    return figure


def drawn_range(row: TuningRow) -> tuple[float, float]:
    """Return the heights shown: what the expected best spans, one trial left out.

    A single random trial may be arbitrarily bad and would squash the rest.
    """
    known = [point.expected for point in row.expected_best[1:]]
    known += [
        bound
        for point in row.expected_best[2:]
        for bound in (point.low, point.high)
        if bound is not None
    ]
    spread = 0.15 * (max(known) - min(known)) or 0.1
    return min(known) - spread, max(known) + spread
