"""What all figures share: colours, style, panels, legends and formats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from study.arms import ARMS

Point = tuple[float, float]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Return the range of values, widened at both ends by a share of it."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = share * (high - low) or 0.1 * (abs(low) or 1.0)
    return low - pad, high + pad


LABEL_WIDTH, KEY_WIDTH = 28, 100
"""Characters in a line of a panel's label and of the key of published settings."""


def padded_log(low: float, high: float) -> tuple[float, float]:
    """Return a range on a logarithmic axis, widened at both ends."""
    factor = (high / low) ** 0.06
    return low / factor, high * factor


LOSSES = ("nll+ranking", "nll+lor", "nll")
"""Objectives above zero, whose bad trials would squash the good ones on a linear axis."""


def objective_words(objective: str) -> str:
    """Say what a search optimised, with the better direction."""
    return {
        "nll+ranking": "NLL + ranking loss (lower is better)",
        "nll+lor": "NLL + $L_{OR}$ (lower is better)",
        "nll": "NLL (lower is better)",
        "accuracy": "accuracy (higher is better)",
        "margin": "margin (higher is better)",
        "rougeL": "ROUGE-L (higher is better)",
    }.get(objective, objective)


def logarithmic(axis: Axes, which: Axis) -> None:
    """Make one axis logarithmic, with plain numbers at its marks."""
    (axis.set_xscale if which is axis.xaxis else axis.set_yscale)("log")
    label_decades(which)


def label_decades(which: Axis) -> None:
    """Label 1, 2 and 5 of each decade as plain numbers."""
    which.set_major_locator(LogLocator(subs=(1, 2, 5)))
    which.set_major_formatter(ScalarFormatter())
    which.set_minor_formatter(NullFormatter())


mpl.use("Agg")


Columns = tuple[tuple[float, ...], tuple[float, ...]]


NEUTRAL = "#8c8c8c"


INK = "#262626"


STYLE: Final[Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#b0b0b0",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "orpo-study",
    "pdf.fonttype": 42,
}


FORMATS: Final = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
"""Formats that every figure is written in, without the time of drawing."""


WIDTH = 7.2
"""Inches; a page's text width."""


def grid(n_panels: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels; a single one gets less than the full width."""
    columns = min(columns, n_panels)
    rows = -(-n_panels // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH if columns > 1 else 0.65 * WIDTH, rows * height),
        layout="constrained",
        squeeze=False,
    )
    flat = list(axes.flat)
    for axis in flat[n_panels:]:
        axis.set_visible(False)
    return figure, flat[:n_panels]


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Set one legend for all panels above them."""
    figure.legend(
        handles=list(handles), loc="outside upper center", ncols=min(4, len(handles)), fontsize=8
    )


def mark(
    marker: str,
    colour: str,
    label: str,
    *,
    edge: str | None = None,
    size: float = 6,
    line: Literal["none", "-"] = "none",
) -> Line2D:
    """Make a legend entry of one marker, with a line through it if asked for."""
    return Line2D(
        [],
        [],
        marker=marker,
        color=colour,
        markeredgecolor=edge or colour,
        linestyle=line,
        markersize=size,
        label=label,
    )


def columns_of(points: Sequence[tuple[float, float]]) -> Columns:
    """Return the x and the y values of points."""
    return tuple(x for x, _ in points), tuple(y for _, y in points)


def save(figure: Figure, stem: Path, *, formats: Sequence[str] = tuple(FORMATS)) -> None:
    """Write a figure in each of the formats, laid out once."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ending in formats:
        file = stem.with_name(f"{stem.name}.{ending}")
        figure.savefig(file, metadata=FORMATS[ending], dpi=160)
    plt.close(figure)


def colour_of(arm: str) -> str:
    """Return the colour of an arm's marks; a setting has the neutral one."""
    return ARMS[arm].colour if arm in ARMS else NEUTRAL
