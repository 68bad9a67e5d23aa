"""Draw every figure of the report from what the modules beside this one compute."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures.bench import GROWTH, draw_growth, growth_alt, growth_info
from analysis.figures.claims import BETAS, beta_info, betas_alt, draw_betas
from analysis.figures.contrasts import CONTRASTS, contrast_info, contrasts_alt, draw_contrasts
from analysis.figures.curve_drawing import curve_drawer
from analysis.figures.curves import (
    CURVES,
    QUALITY,
    curve_info,
    curves_alt,
    leading_arms,
    quality_info,
)
from analysis.figures.front import FRONT, draw_front, front_alt, front_info
from analysis.figures.ladder import LADDER, draw_ladder, ladder_alt, ladder_info
from analysis.figures.lengths import LENGTHS, draw_lengths, length_info, lengths_alt
from analysis.figures.published import published_key
from analysis.figures.scale import SCALE, draw_scale, scale_alt, scale_info
from analysis.figures.search import (
    HISTORY,
    SPACE,
    draw_history,
    draw_space,
    history_alt,
    history_info,
    space_alt,
    space_info,
)
from analysis.figures.style import STYLE, save
from analysis.figures.trials import (
    EARLY,
    EXPECTED,
    draw_early,
    draw_expected_best,
    early_alt,
    expected_alt,
)
from analysis.records.study import StudyRecords
from analysis.rows import ContrastRow, FigureFile, Findings
from analysis.words.several import MANY
from study.arms import BASELINE


def draw_all(records: StudyRecords, findings: Findings, folder: Path) -> tuple[FigureFile, ...]:
    """Draw every figure that the records allow, as SVG, PDF and PNG.

    Args:
        records: what is drawn.
        findings: verdicts and contrasts of the same records.
        folder: where ``<name>.svg``, ``.pdf`` and ``.png`` are written.

    Returns:
        The figures with what they show in words and what their points stand for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(), sns.axes_style("whitegrid"), mpl.rc_context(STYLE):
        for file, draw, alt, info in _figures(records, findings):
            if info:
                tips = save(draw(info), folder / file.name)
                drawn.append(replace(file, alt=alt(info), tips=tips))
    return tuple(drawn)


def draw_verdict(findings: Findings, path: Path) -> None:
    """Draw the contrasts that the verdict rests on as one small SVG for the README.

    Args:
        findings: contrasts on each model and over all.
        path: the file to write, ``.svg``.
    """
    rows = [row for row in _contrasts(findings) if row.metric in findings.primary_metrics]
    with mpl.rc_context(), sns.axes_style("whitegrid"), mpl.rc_context(STYLE):
        if panels := contrast_info(rows):
            save(draw_contrasts(panels), path.with_suffix(""), formats=("svg",))


def _contrasts(findings: Findings) -> Sequence[ContrastRow]:
    """Take the contrasts that a figure holds: with many arms those over all models alone."""
    both = (*findings.contrasts, *findings.pooled)
    many = len({row.treatment for row in both if row.baseline == BASELINE}) >= MANY
    return findings.pooled if many and findings.pooled else both


_Drawn = tuple[FigureFile, Callable[[Any], Figure], Callable[[Any], str], Sequence[Any]]


def _figures(records: StudyRecords, findings: Findings) -> list[_Drawn]:
    """List every figure with how it is drawn, how it is told, and what it shows."""
    sources = published_key(records)
    quality = quality_info(records)
    leading = leading_arms(quality)
    curves: list[_Drawn] = [
        (
            curve.file,
            curve_drawer(curve.y_label, leading),
            partial(curves_alt, what=curve.y_label),
            curve_info(records, split=curve.split, columns=curve.columns),
        )
        for curve in CURVES
    ]
    accuracy = "preference accuracy"
    contrasts = contrast_info(_contrasts(findings))
    expected = [row for row in findings.tuning if row.expected_best]
    return [
        (HISTORY, draw_history, history_alt, history_info(records)),
        (SPACE, partial(draw_space, sources=sources), space_alt, space_info(records)),
        (FRONT, draw_front, front_alt, front_info(records)),
        (EXPECTED, draw_expected_best, expected_alt, expected),
        (EARLY, draw_early, early_alt, [row for row in findings.tuning if row.early]),
        (
            QUALITY,
            curve_drawer(accuracy, leading),
            partial(curves_alt, what=accuracy),
            quality,
        ),
        *curves,
        (CONTRASTS, draw_contrasts, contrasts_alt, contrasts),
        (LENGTHS, draw_lengths, lengths_alt, length_info(records)),
        (GROWTH, draw_growth, growth_alt, growth_info(records.bench)),
        (SCALE, draw_scale, scale_alt, scale_info(records.bench)),
        (BETAS, draw_betas, betas_alt, beta_info(records)),
        (LADDER, draw_ladder, ladder_alt, ladder_info(findings.ladder)),
    ]
