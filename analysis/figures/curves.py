"""Scores over training steps as the figures show them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure

from analysis.figures.style import Point, colour_of, grid, padded
from analysis.printing import arm_name
from analysis.records.study import RunRecord, StudyRecords
from analysis.rows import FigureFile
from study.arms import UNTRAINED


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of scores over steps."""

    file: FigureFile
    split: str
    columns: Mapping[str, str]
    """Column of the logged steps -> kind of line."""
    y_label: str


def _curve(
    name: str, y_label: str, caption: str, *, split: str = "validation", **columns: str
) -> Curve:
    return Curve(
        file=FigureFile(
            name=f"curve-{name}",
            caption=caption,
            alt=f"Line chart of {y_label} over steps for SFT and ORPO, one panel per recipe.",
            section="curves",
        ),
        split=split,
        columns=columns,
        y_label=y_label,
    )


SEEDS: Final = "Thin lines are single seeds, thick lines their mean"


BASE: Final = f"{SEEDS}; the grey line is the base model."


CURVES: Final = (
    _curve(
        "loss",
        "training loss",
        "Training loss over steps. ORPO's loss contains β times its odds-ratio term, so the arms' "
        "losses are different quantities and only their course may be compared. "
        f"{SEEDS}.",
        split="train",
        loss="",
    ),
    _curve(
        "nll",
        "NLL (nats/token)",
        f"NLL of chosen answers of validation pairs over steps; lower is better. {BASE}",
        nll="",
    ),
    _curve(
        "margin",
        "margin (nats/token)",
        "Margin of validation pairs over steps: log-probability per token of the chosen answer "
        f"minus that of the rejected one, free of β; higher is better. {BASE}",
        margin="",
    ),
    _curve(
        "accuracy",
        "preference accuracy",
        "Share of validation pairs whose chosen answer is the more likely one, over steps; higher "
        f"is better. {BASE}",
        accuracy="",
    ),
    _curve(
        "logps",
        "log-probability (nats/token)",
        "Log-probability per token of chosen (solid) and rejected (dashed) answers of validation "
        f"pairs over steps. {BASE.replace('line is', 'lines are')}",
        chosen_logps="chosen",
        rejected_logps="rejected",
    ),
)


LABEL_GAP = 0.075
"""Smallest distance between labels, in heights of the panel."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line over steps: a seed's, or the mean of the arm's seeds."""

    arm: str
    kind: str
    """``chosen``, ``rejected`` or empty."""
    seed: int | None
    """None for the mean."""
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Label:
    """The name of a mean line and the height at which it is written."""

    arm: str
    kind: str
    y: float


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """The curves of one recipe."""

    recipe: str
    lines: tuple[Line, ...]
    reference: tuple[Label, ...]
    """Heights of the base model's scores, drawn as level lines."""
    labels: tuple[Label, ...]
    y_range: tuple[float, float]


def curve_info(
    records: StudyRecords, *, split: str, columns: Mapping[str, str]
) -> tuple[CurvePanel, ...]:
    """Collect scores over steps: each seed's line and the mean of all seeds.

    The mean ends where not every seed has a value. Runs that diverged are drawn
    as far as they got and do not enter the mean.

    Args:
        records: the study.
        split: ``train`` or ``validation``.
        columns: column of the logged steps -> kind of line, empty for a single one.
    """
    return tuple(_curve_panel(records, recipe, split, columns) for recipe in records.recipes)


def spread(wanted: Sequence[float], *, gap: float) -> list[float]:
    """Move heights apart until neighbours are at least ``gap`` from each other.

    Keeps their order and, as far as it can, their centre.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[list[int], float]] = []
    for i in order:
        members, centre = [i], wanted[i]
        while groups and centre - (len(members) - 1) * gap / 2 < (
            groups[-1][1] + (len(groups[-1][0]) - 1) * gap / 2 + gap
        ):
            before, _ = groups.pop()
            members = before + members
            centre = sum(wanted[k] for k in members) / len(members)
        groups.append((members, centre))
    heights = list(wanted)
    for members, centre in groups:
        for place, i in enumerate(members):
            heights[i] = centre + (place - (len(members) - 1) / 2) * gap
    return heights


def _curve_panel(
    records: StudyRecords, recipe: str, split: str, columns: Mapping[str, str]
) -> CurvePanel:
    lines, reference = [], []
    for arm in records.arms(recipe):
        for column, kind in columns.items():
            if arm == UNTRAINED:
                points = _points(records.of(recipe, arm)[0], split, column)
                reference += [Label(arm=arm, kind=kind, y=points[0][1])] if points else []
            else:
                lines += _arm_lines(records.of(recipe, arm), split, column, kind)
    ends = [
        Label(arm=line.arm, kind=line.kind, y=line.points[-1][1])
        for line in lines
        if line.seed is None
    ]
    heights = [y for line in lines for _, y in line.points] + [label.y for label in reference]
    low, high = padded(heights)
    labels = [*ends, *reference]
    places = spread([label.y for label in labels], gap=LABEL_GAP * (high - low))
    return CurvePanel(
        recipe=recipe,
        lines=tuple(lines),
        reference=tuple(reference),
        labels=tuple(
            Label(arm=label.arm, kind=label.kind, y=y)
            for label, y in zip(labels, places, strict=True)
        ),
        y_range=(low, high),
    )


def _arm_lines(runs: Sequence[RunRecord], split: str, column: str, kind: str) -> list[Line]:
    series = {run.seed: _points(run, split, column) for run in runs}
    ok = [dict(series[run.seed]) for run in runs if run.ok]
    shared = sorted(set(ok[0]).intersection(*ok)) if ok else []
    mean = tuple((x, sum(points[x] for points in ok) / len(ok)) for x in shared)
    arm = runs[0].arm
    lines = [
        Line(arm=arm, kind=kind, seed=seed, points=points)
        for seed, points in series.items()
        if points
    ]
    return lines + ([Line(arm=arm, kind=kind, seed=None, points=mean)] if mean else [])


def _points(run: RunRecord, split: str, column: str) -> tuple[Point, ...]:
    """Return (step, value) of a column; rows where it has no value are left out."""
    return tuple(
        (float(row["step"]), float(row[column]))
        for row in run.steps
        if row["split"] == split and row.get(column) is not None
    )


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
                color=colour_of(line.arm),
                linestyle=_dash(line.kind),
                linewidth=2.0 if mean else 0.8,
                alpha=1.0 if mean else 0.45,
                zorder=3 if mean else 2,
            )
        for level in panel.reference:
            axis.axhline(level.y, color=colour_of(level.arm), linestyle=_dash(level.kind), lw=1.1)
        axis.set_ylim(panel.y_range)
        axis.margins(x=0.01)
        for label in panel.labels:
            axis.annotate(
                f"{arm_name(label.arm)} {label.kind}".strip(),
                (1.01, label.y),
                xycoords=("axes fraction", "data"),
                color=colour_of(label.arm),
                va="center",
                fontsize=8.5,
                annotation_clip=False,
            )
        axis.set(title=panel.recipe, xlabel="step", ylabel=y_label)
    return figure


def curve_drawer(y_label: str) -> Callable[[Any], Figure]:
    """Return a function that draws panels of curves under one label."""
    return lambda panels: draw_curves(panels, y_label=y_label)


def _dash(kind: str) -> str:
    return "--" if kind == "rejected" else "-"
