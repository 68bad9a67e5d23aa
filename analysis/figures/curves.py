"""Scores over training: over updates, tokens and seconds, as the figures show them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import stats

from analysis.figures.style import (
    Point,
    padded,
)
from analysis.printing import arm_name, count, number
from analysis.records.study import RunRecord, StudyRecords
from analysis.rows import FigureFile
from study.arms import BASELINE, UNTRAINED


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of scores over steps."""

    file: FigureFile
    split: str
    columns: Mapping[str, str]
    """Column of the logged steps -> kind of answers, one panel each."""
    y_label: str


def _curve(
    name: str, y_label: str, caption: str, *, split: str = "validation", **columns: str
) -> Curve:
    return Curve(
        file=FigureFile(name=f"curve-{name}", caption=caption, section="curves"),
        split=split,
        columns=columns,
        y_label=y_label,
    )


SEEDS: Final = (
    "Thick lines are means over seeds with their 95 % band (t, from two seeds on), thin lines "
    "single seeds"
)


BASE: Final = (
    f"{SEEDS}. The axis starts where the arms differ, after the first validation; where the base "
    "model's score lies outside, it is named at the edge."
)


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
        "logps",
        "log-probability (nats/token)",
        "Log-probability per token of chosen and of rejected answers of validation pairs over "
        f"steps. {BASE}",
        chosen_logps="chosen",
        rejected_logps="rejected",
    ),
)


AXES: Final = {
    "step": "updates",
    "tokens": "distinct tokens trained on",
    "seconds": "seconds of training",
}
"""Column of the logged training steps -> what a curve runs over."""


MOST_COLOURED: Final = 5
"""Arms whose curves all have their colours; of more, some stand out and the others are grey."""


QUALITY: Final = FigureFile(
    name="quality",
    caption="Share of validation pairs whose chosen answer is the more likely one, over updates, "
    f"tokens and seconds, start and reference included; higher is better. {BASE} A seed's tokens "
    "and seconds are averaged with its arm's. Of more than five arms SFT and the four that end "
    "best have colours, the means of the others are grey.",
    section="cost",
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: a seed's, or the mean of the arm's seeds."""

    arm: str
    seed: int | None
    """None for the mean."""
    points: tuple[Point, ...]
    band: tuple[Point, ...] = ()
    """(low, high) at every point: 95 % interval of the mean; empty below two seeds."""
    n_seeds: int = 1


@dataclass(frozen=True, kw_only=True)
class Label:
    """The name of an arm and the height at which it is written."""

    arm: str
    y: float


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """The curves of one recipe, of one kind of answers."""

    recipe: str
    kind: str
    """``chosen``, ``rejected`` or empty."""
    along: str
    """``step``, ``tokens`` or ``seconds``."""
    lines: tuple[Line, ...]
    base: float | None
    """The base model's score, None where it has none."""
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @property
    def title(self) -> str:
        """Its recipe and kind."""
        return f"{self.recipe}, {self.kind} answers" if self.kind else self.recipe

    @property
    def means(self) -> tuple[Line, ...]:
        """The arms' mean lines."""
        return tuple(line for line in self.lines if line.seed is None)

    @property
    def shows_base(self) -> bool:
        """Whether the base model's score lies within the axis."""
        return self.base is not None and self.y_range[0] <= self.base <= self.y_range[1]


def curve_info(
    records: StudyRecords, *, split: str, columns: Mapping[str, str], along: str = "step"
) -> tuple[CurvePanel, ...]:
    """Collect scores over training: each seed's line and the mean of all seeds.

    The mean ends where not every seed has a value. Runs that diverged are drawn
    as far as they got and do not enter the mean.

    Args:
        records: the study.
        split: ``train`` or ``validation``.
        columns: column of the logged steps -> kind of answers, empty for a single one.
        along: what the curves run over, one of ``AXES``.
    """
    panels = (
        _curve_panel(records, recipe, split, column, kind=kind, along=along)
        for recipe in records.recipes
        for column, kind in columns.items()
    )
    return tuple(panel for panel in panels if panel.lines)


def quality_info(records: StudyRecords) -> tuple[CurvePanel, ...]:
    """Collect preference accuracy over updates, tokens and seconds, recipe by recipe."""
    found = [
        curve_info(records, split="validation", columns={"accuracy": ""}, along=along)
        for along in AXES
    ]
    if len({len(panels) for panels in found}) > 1:
        return found[0]  # some runs did not log tokens or seconds
    return tuple(panel for panels in zip(*found, strict=True) for panel in panels)


def _curve_panel(
    records: StudyRecords, recipe: str, split: str, column: str, *, kind: str, along: str
) -> CurvePanel:
    lines: list[Line] = []
    base = None
    for arm in records.arms(recipe):
        runs = records.of(recipe, arm)
        if arm == UNTRAINED:
            base = next((y for _, y in _series(runs[0], split, column, "step").values()), None)
        else:
            lines += _arm_lines(runs, split, column, along)
    start = min((_start(line, split) for line in lines if len(line.points) > 1), default=0.0)
    shown = [y for line in lines for x, y in line.points if x >= start]
    bands = [y for line in lines for bounds in _shown(line, start) for y in bounds]
    if shown:  # a band of two seeds may be far wider than everything that it is about
        room = (max(shown) - min(shown)) / 2
        bands = [min(max(y, min(shown) - room), max(shown) + room) for y in bands]
    shown += bands
    low, high = padded(shown)
    if base is not None and low - (high - low) / 2 < base < high + (high - low) / 2:
        low, high = padded([*shown, base])
    end = max((x for line in lines for x, _ in line.points), default=1.0)
    return CurvePanel(
        recipe=recipe,
        kind=kind,
        along=along,
        lines=tuple(lines),
        base=base,
        x_range=padded([start, end], 0.03),
        y_range=(low, high),
    )


def _start(line: Line, split: str) -> float:
    """Return where a line is first shown: all arms begin alike and fall far at once."""
    return line.points[1 if split == "validation" else len(line.points) // 5][0]


def _shown(line: Line, start: float) -> list[Point]:
    """Return the bounds of a line's band from a place on."""
    both = zip(line.points, line.band, strict=False)
    return [bounds for (x, _), bounds in both if x >= start]


def _arm_lines(runs: Sequence[RunRecord], split: str, column: str, along: str) -> list[Line]:
    arm = runs[0].arm
    series = {run.seed: _series(run, split, column, along) for run in runs}
    lines = [
        Line(arm=arm, seed=seed, points=tuple(found.values()))
        for seed, found in series.items()
        if found
    ]
    ok = [series[run.seed] for run in runs if run.ok]
    shared = sorted(set(ok[0]).intersection(*ok)) if ok else []
    if not shared:
        return lines
    values = np.array([[found[step] for step in shared] for found in ok])  # (S, T, 2)
    means = values.mean(axis=0)
    band: list[Point] = []
    if len(ok) > 1:
        reach = stats.t.ppf(0.975, len(ok) - 1) * values[:, :, 1].std(axis=0, ddof=1)
        reach = reach / np.sqrt(len(ok))
        band = [(float(y - r), float(y + r)) for (_, y), r in zip(means, reach, strict=True)]
    points = tuple((float(x), float(y)) for x, y in means)
    return [*lines, Line(arm=arm, seed=None, points=points, band=tuple(band), n_seeds=len(ok))]


def _series(run: RunRecord, split: str, column: str, along: str) -> dict[int, Point]:
    """Return step -> (place, value) of a column; rows where either is not known are left out."""
    places = _places(run, along)
    return {
        int(row["step"]): (places(int(row["step"])), float(row[column]))
        for row in run.steps
        if row["split"] == split and row.get(column) is not None and places(int(row["step"])) >= 0
    }


def _places(run: RunRecord, along: str) -> Callable[[int], float]:
    """Return a function from a step to how far training had come; -1 where it is not known.

    What the start and the reference took counts, as it does in the cost of the run.
    """
    begun = _begun(run, along)
    if along == "step":
        return lambda step: begun + step
    logged = [row for row in run.steps if row["split"] == "train"]
    if not logged or any(row.get(along) is None for row in logged):
        return lambda step: -1.0
    steps = [0, *(row["step"] for row in logged)]
    spent = np.cumsum([begun, *(row[along] for row in logged)])
    return lambda step: float(np.interp(step, steps, spent))


def _begun(run: RunRecord, along: str) -> float:
    """Return what a run had taken before its own first update."""
    start: Mapping[str, Any] = run.record.get("start", {}).get("cost", {})
    cost: Mapping[str, Any] = run.record["cost"]
    names = {"step": ("steps",), "tokens": ("train_tokens", "reference_tokens")}
    first, *reference = names.get(along, ("train_s", "reference_s"))
    return float(start.get(first, 0) + sum(cost.get(one, 0) for one in reference))


def leading_arms(panels: Sequence[CurvePanel]) -> tuple[str, ...]:
    """Name the arms that stand out among many: the baseline and those that end best.

    All of them where they are few. What ends best is the mean over the panels of where
    the arms' mean lines end, the more the better.
    """
    ends: dict[str, list[float]] = {}
    for panel in panels:
        for line in panel.means:
            ends.setdefault(line.arm, []).append(line.points[-1][1])
    if len(ends) <= MOST_COLOURED:
        return tuple(ends)
    best = sorted(ends, key=lambda arm: -float(np.mean(ends[arm])))
    first = [arm for arm in best if arm != BASELINE][: MOST_COLOURED - 1]
    return tuple(arm for arm in ends if arm in (BASELINE, *first))


def curves_alt(panels: Sequence[CurvePanel], *, what: str) -> str:
    """Say where every arm ends, and the base model."""
    return " ".join(
        f"{panel.title}: {what} ends at {'; '.join(_ending(line, panel) for line in panel.means)}"
        f"{f'; base {number(panel.base, 3)}' if panel.base is not None else ''}."
        for panel in panels
        if panel.means
    )


def _ending(line: Line, panel: CurvePanel) -> str:
    x, y = line.points[-1]
    low, high = line.band[-1] if line.band else (None, None)
    band = f" ({number(low, 3)} to {number(high, 3)})" if line.band else ""
    return f"{arm_name(line.arm)} {number(y, 3)}{band} after {spent(x, panel.along)}"


def spent(x: float, along: str) -> str:
    """Say how far along a curve is, in words."""
    if along == "seconds":
        return f"{number(x, 1)} s"
    return f"{count(x)} {'updates' if along == 'step' else 'tokens'}"
