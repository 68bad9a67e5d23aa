"""Draw the expected best of random trials and how early the end could be known."""

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.figures.palette import INK
from analysis.figures.style import (
    colour_of,
    grid,
    legend,
    objective_words,
    tell,
)
from analysis.printing import arm_name, interval, number
from analysis.rows import FigureFile
from analysis.search_rows import TuningRow
from analysis.tables.trials import SCORES, score_label

EXPECTED: Final = FigureFile(
    name="expected-best",
    caption="How good the best of n trials is expected to be, from the trials whose settings were "
    "drawn at random; published settings and those guided by earlier trials are left out. A "
    "pruned trial counts as the worst. The vertical axis does not reach the worst "
    "single trials; where the band meets the frame, n trials do not bound it.",
    section="search",
)


EARLY: Final = FigureFile(
    name="early-correlation",
    caption="How early the outcome could have been predicted: Spearman's rank correlation, over "
    "complete trials, between each score at a step and its final value, with 95 % intervals; the "
    "objective first, one row per search.",
    section="search",
)


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
        tell(
            axis,
            [(point.n, point.expected) for point in points],
            [f"best of {point.n}: {number(point.expected, 3)} expected" for point in points],
        )
        axis.set_ylim(bottom, top)
        axis.set_xlim(0.7, ns[-1] + 0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(
        figure,
        [
            Line2D([], [], marker="o", color=INK, markersize=4, label="expected best of n"),
            Patch(color=INK, alpha=0.3, label="80 % band of the median best, for all n at once"),
        ],
    )
    return figure


def draw_early(rows: Sequence[TuningRow]) -> Figure:
    """Draw the rank correlation of scores at each step with their final values."""
    scores = _scores(rows)
    figure, axes = grid(len(rows) * len(scores), columns=len(scores), height=1.45)
    places = [(row, score) for row in rows for score in scores]
    for (row, score), axis in zip(places, axes, strict=True):
        first = score == scores[0]
        for early in row.early:
            if early.score != score:
                continue
            steps = [point.step for point in early.steps]
            axis.plot(
                steps,
                [point.correlation for point in early.steps],
                "o-",
                color=colour_of(row.arm),
                markersize=3.5,
            )
            axis.fill_between(
                steps,
                [point.low for point in early.steps],
                [point.high for point in early.steps],
                color=colour_of(row.arm),
                alpha=0.15,
                lw=0,
            )
            tell(
                axis,
                [(point.step, point.correlation) for point in early.steps],
                [
                    f"{score_label(score)}, step {point.step}: {number(point.correlation, 2)} "
                    f"{interval(point.low, point.high, 2)}"
                    for point in early.steps
                ],
            )
        axis.axhline(0, color=INK, lw=0.7)
        axis.set(
            title=f"{row.recipe},\n{arm_name(row.arm)}" if first else "",
            xlabel=score_label(score),
            ylabel="correlation" if first else "",
            ylim=(-0.6, 1.05),
        )
        axis.tick_params(labelsize=7.5, labelleft=first)
        axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


def expected_alt(rows: Sequence[TuningRow]) -> str:
    """Say what the best of some trials is expected to be."""
    return " ".join(row.meaning["expected"] for row in rows)


def early_alt(rows: Sequence[TuningRow]) -> str:
    """Say how early the order of the trials was known."""
    return " ".join(row.meaning["early"] for row in rows)


def _scores(rows: Sequence[TuningRow]) -> list[str]:
    """List the scores that were followed, objectives first."""
    objectives = {row.objective for row in rows}
    drawn = [score for score in SCORES if any(e.score == score for row in rows for e in row.early)]
    return sorted(drawn, key=lambda score: score not in objectives)


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
