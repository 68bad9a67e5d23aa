"""What all figures share: colours, style, panels, legends and formats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.palette import FRAME, INK, NEUTRAL, PAPER, RULE
from study.arms import ARMS

Point = tuple[float, float]
Tip = tuple[float, float, str]
"""A place in points from the upper left corner of a figure, and what stands there in words."""


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Return the range of values, widened at both ends by a share of it."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = share * (high - low) or 0.1 * (abs(low) or 1.0)
    return low - pad, high + pad


def zoomed(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of values without outliers at its upper end, widened.

    An outlier lies more than three quartile ranges above the third quartile, so
    that a few bad trials do not squash the good ones.
    """
    if not values:
        return 0.0, 1.0
    low, high = np.quantile(values, (0.25, 0.75))
    return padded([value for value in values if value <= high + 3 * (high - low)])


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


mpl.use("Agg")


Columns = tuple[tuple[float, ...], tuple[float, ...]]


STYLE: Final[Any] = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": FRAME,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
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


class Tips(Artist):
    """Points that a reader may ask for their values; they draw nothing themselves."""

    def __init__(self, points: Sequence[Point], texts: Sequence[str]) -> None:
        super().__init__()
        self.points, self.texts = tuple(points), tuple(texts)
        self.set_in_layout(False)

    def draw(self, renderer: RendererBase) -> None:
        """Draw nothing."""


def tell(axis: Axes, points: Sequence[Point], texts: Sequence[str]) -> None:
    """Say in words what stands at points of a panel, in its data's coordinates."""
    axis.add_artist(Tips(points, texts))


def save(figure: Figure, stem: Path, *, formats: Sequence[str] = tuple(FORMATS)) -> tuple[Tip, ...]:
    """Write a figure in each of the formats, laid out once; return what may be asked."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # with one of any kind, each format is drawn twice
    for ending in formats:
        file = stem.with_name(f"{stem.name}.{ending}")
        figure.savefig(file, metadata=FORMATS[ending], dpi=160)
    found = tuple(tip for axis in figure.axes for tip in _tips(figure, axis))
    plt.close(figure)
    return found


def _tips(figure: Figure, axis: Axes) -> list[Tip]:
    """Return the tips within a panel, in points of the SVG."""
    box, height, scale = axis.get_window_extent(), figure.bbox.height, 72 / figure.dpi
    found = []
    for tips in axis.findobj(Tips):
        assert isinstance(tips, Tips)
        for point, text in zip(tips.points, tips.texts, strict=True):
            x, y = (float(value) for value in axis.transData.transform(point))
            if box.x0 - 1 <= x <= box.x1 + 1 and box.y0 - 1 <= y <= box.y1 + 1:
                found.append((round(scale * x, 1), round(scale * (height - y), 1), text))
    return found


def colour_of(arm: str) -> str:
    """Return the colour of an arm's marks; a setting has the neutral one."""
    return ARMS[arm].colour if arm in ARMS else NEUTRAL
