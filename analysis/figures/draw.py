"""Draw every figure of the report from what the modules beside this one compute."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures.bench import GROWTH, draw_growth, growth_info
from analysis.figures.claims import BETAS, beta_info, draw_betas
from analysis.figures.contrasts import CONTRASTS, contrast_info, draw_contrasts
from analysis.figures.curves import CURVES, curve_drawer, curve_info
from analysis.figures.lengths import LENGTHS, draw_lengths, length_info
from analysis.figures.search import (
    FRONT,
    HISTORY,
    SPACE,
    draw_front,
    draw_history,
    draw_space,
    front_info,
    history_info,
    published_key,
    space_info,
)
from analysis.figures.style import STYLE, save
from analysis.figures.trials import EARLY, EXPECTED, draw_early, draw_expected_best
from analysis.records.study import StudyRecords
from analysis.rows import FigureFile, Findings


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


def draw_verdict(findings: Findings, path: Path) -> None:
    """Draw the contrasts that the verdict rests on as one small SVG for the README.

    Args:
        findings: contrasts on each model and over all.
        path: the file to write, ``.svg``.
    """
    rows = [
        row
        for row in (*findings.contrasts, *findings.pooled)
        if row.metric in findings.primary_metrics
    ]
    with mpl.rc_context(), sns.axes_style("whitegrid"), mpl.rc_context(STYLE):
        if panels := contrast_info(rows):
            save(draw_contrasts(panels), path.with_suffix(""), formats=("svg",))


def _figures(
    records: StudyRecords, findings: Findings
) -> list[tuple[FigureFile, Callable[[Any], Figure], Sequence[Any]]]:
    """List every figure with its words, how it is drawn and what it shows."""
    sources = published_key(records)
    curves = [
        (
            curve.file,
            curve_drawer(curve.y_label),
            curve_info(records, split=curve.split, columns=curve.columns),
        )
        for curve in CURVES
    ]
    contrasts = contrast_info((*findings.contrasts, *findings.pooled))
    return [
        (HISTORY, draw_history, history_info(records)),
        (
            SPACE,
            lambda info: draw_space(info, sources=sources),
            space_info(records),
        ),
        (FRONT, draw_front, front_info(records)),
        (
            EXPECTED,
            draw_expected_best,
            [row for row in findings.tuning if row.expected_best],
        ),
        (
            EARLY,
            draw_early,
            [row for row in findings.tuning if row.early],
        ),
        *curves,
        (
            CONTRASTS,
            draw_contrasts,
            contrasts,
        ),
        (LENGTHS, draw_lengths, length_info(records)),
        (GROWTH, draw_growth, growth_info(records.bench)),
        (BETAS, draw_betas, beta_info(records)),
    ]
