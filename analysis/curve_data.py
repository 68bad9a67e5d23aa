"""Scores over training steps as the figures show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.records import RunRecord, StudyRecords

Point = tuple[float, float]

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
            if arm == "base":
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


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Return the range of values, widened at both ends by a share of it."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = share * (high - low) or 0.1 * (abs(low) or 1.0)
    return low - pad, high + pad
