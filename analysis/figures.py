"""Draw the figures of the report; what they show is computed in ``figure_data``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import captions, search_figures, tuning_figures
from analysis import figure_data as data
from analysis.bench import growth_info
from analysis.bench_figures import draw_growth
from analysis.curve_data import CurvePanel, curve_info
from analysis.drawing import COLOURS, INK, NEUTRAL, STYLE, columns_of, grid, legend, mark, save
from analysis.records import StudyRecords
from analysis.rows import FigureFile, Findings
from analysis.words import arm_name, setting


def draw_all(records: StudyRecords, findings: Findings, folder: Path) -> tuple[FigureFile, ...]:
    """Draw every figure that the records allow, as SVG, PDF and PNG.

    Args:
        records: what is drawn.
        findings: verdicts and contrasts of the same records.
        folder: where ``<name>.svg``, ``.pdf`` and ``.png`` are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(), sns.axes_style("whitegrid"), mpl.rc_context(STYLE):
        for file, draw, info in _figures(records, findings):
            if info:
                save(draw(info), folder / file.name)
                drawn.append(file)
    return tuple(drawn)


def draw_curves(panels: Sequence[CurvePanel], *, y_label: str) -> Figure:
    """Draw scores over steps: thin lines are seeds, thick lines their mean."""
    figure, axes = grid(len(panels), columns=2, height=2.9)
    for panel, axis in zip(panels, axes, strict=True):
        for line in panel.lines:
            xs, ys = zip(*line.points, strict=True)
            mean = line.seed is None
            axis.plot(
                xs,
                ys,
                color=COLOURS[line.arm],
                linestyle=_dash(line.kind),
                linewidth=2.0 if mean else 0.8,
                alpha=1.0 if mean else 0.45,
                zorder=3 if mean else 2,
            )
        for level in panel.reference:
            axis.axhline(level.y, color=COLOURS[level.arm], linestyle=_dash(level.kind), lw=1.1)
        axis.set_ylim(panel.y_range)
        axis.margins(x=0.01)
        for label in panel.labels:
            axis.annotate(
                f"{arm_name(label.arm)} {label.kind}".strip(),
                (1.01, label.y),
                xycoords=("axes fraction", "data"),
                color=COLOURS[label.arm],
                va="center",
                fontsize=8.5,
                annotation_clip=False,
            )
        axis.set(title=panel.recipe, xlabel="step", ylabel=y_label)
    return figure


def draw_lengths(panels: Sequence[data.LengthPanel]) -> Figure:
    """Draw how long the generated answers are."""
    figure, axes = grid(len(panels), columns=2, height=2.5)
    for panel, axis in zip(panels, axes, strict=True):
        for arm, shares in panel.shares.items():
            axis.stairs(
                shares, panel.edges, color=COLOURS[arm], lw=1.6, fill=False, label=arm_name(arm)
            )
            axis.stairs(shares, panel.edges, color=COLOURS[arm], alpha=0.12, fill=True)
            axis.plot(
                panel.means[arm],
                1.0,
                marker="v",
                markersize=7,
                color=COLOURS[arm],
                transform=axis.get_xaxis_transform(),
                clip_on=False,
            )
        axis.set(title=panel.recipe, xlabel="tokens in the answer", ylabel="share of answers")
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.shares))
    legend(
        figure,
        [Line2D([], [], color=COLOURS[arm], lw=2, label=arm_name(arm)) for arm in arms]
        + [mark("v", NEUTRAL, "mean")],
    )
    return figure


def draw_contrasts(
    panels: Sequence[data.ContrastPanel], *, baseline: str, treatment: str
) -> Figure:
    """Draw estimates with their 95 % intervals, one panel per metric."""
    rows = max(len(panel.bars) for panel in panels)
    figure, axes = grid(len(panels), columns=3, height=0.75 + 0.36 * rows)
    for place, (panel, axis) in enumerate(zip(panels, axes, strict=True)):
        for y, bar in enumerate(panel.bars):
            colour = COLOURS[bar.favours] if bar.favours else NEUTRAL
            axis.plot((bar.low, bar.high), (y, y), color=colour, lw=2.2, solid_capstyle="round")
            axis.plot(bar.estimate, y, "o", color=colour, markersize=5.5)
            axis.annotate(
                bar.text,
                (bar.estimate, y),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )
        axis.axvline(0, color=INK, lw=0.9)
        first = place % 3 == 0
        axis.set_yticks(range(len(panel.bars)), [bar.recipe if first else "" for bar in panel.bars])
        axis.set_ylim(len(panel.bars) - 0.5, -0.75)
        axis.set_xlim(panel.x_range)
        axis.set_title(panel.label, fontsize=8.2, fontweight="normal")
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(visible=False, axis="y")
    legend(
        figure,
        [
            mark("o", COLOURS[treatment], f"in favour of {arm_name(treatment)}", line="-"),
            mark("o", COLOURS[baseline], f"in favour of {arm_name(baseline)}", line="-"),
            mark("o", NEUTRAL, "inconclusive, or neither direction is better", line="-"),
        ],
    )
    return figure


def draw_betas(panels: Sequence[data.BetaPanel]) -> Figure:
    """Draw scores over β: dots are seeds, lines join their means."""
    figure, axes = grid(len(panels), columns=len(data.BETA_METRICS), height=2.5)
    for panel, axis in zip(panels, axes, strict=True):
        axis.plot(*columns_of(panel.means), color=COLOURS["orpo"], lw=1.6)
        axis.plot(*columns_of(panel.points), "o", color=COLOURS["orpo"], ms=4.5, alpha=0.6)
        axis.set_xscale("log")
        betas = [beta for beta, _ in panel.means]
        axis.set_xticks(betas, [f"{beta:g}" for beta in betas])
        axis.minorticks_off()
        axis.set(
            title=f"{panel.recipe}, learning rate {setting(panel.learning_rate)}",
            xlabel="β",
            ylabel=panel.label,
        )
    return figure


def _figures(
    records: StudyRecords, findings: Findings
) -> list[tuple[FigureFile, Callable[[Any], Figure], Sequence[Any]]]:
    """List every figure with its words, how it is drawn and what it shows."""
    sources = data.published_key(records)
    curves = [
        (
            curve.file,
            _curve_drawer(curve.y_label),
            curve_info(records, split=curve.split, columns=curve.columns),
        )
        for curve in captions.CURVES
    ]
    contrasts = data.contrast_info(
        (*findings.contrasts, *findings.pooled), baseline="sft", treatment="orpo"
    )
    return [
        (captions.HISTORY, search_figures.draw_history, data.history_info(records)),
        (
            captions.SPACE,
            lambda info: search_figures.draw_space(info, sources=sources),
            data.space_info(records),
        ),
        (captions.FRONT, search_figures.draw_front, data.front_info(records)),
        (
            captions.EXPECTED,
            tuning_figures.draw_expected_best,
            [row for row in findings.tuning if row.expected_best],
        ),
        (
            captions.EARLY,
            tuning_figures.draw_early,
            [row for row in findings.tuning if row.early],
        ),
        *curves,
        (
            captions.CONTRASTS,
            lambda info: draw_contrasts(info, baseline="sft", treatment="orpo"),
            contrasts,
        ),
        (captions.LENGTHS, draw_lengths, data.length_info(records)),
        (captions.GROWTH, draw_growth, growth_info(records.bench)),
        (captions.BETAS, draw_betas, data.beta_info(records)),
    ]


def _curve_drawer(y_label: str) -> Callable[[Any], Figure]:
    return lambda panels: draw_curves(panels, y_label=y_label)


def _dash(kind: str) -> str:
    return "--" if kind == "rejected" else "-"
