"""What the figures show, as frozen values: every computation of a figure is here.

Each ``*_info`` function is pure; ``figures`` draws what it returns.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import tuning
from analysis.curve_data import Point, padded
from analysis.load import score_matrix, scores_of
from analysis.metrics import METRICS
from analysis.records import SearchRecord, StudyRecords
from analysis.rows import ContrastRow
from analysis.verdicts import Verdict
from analysis.words import signed

LABEL_WIDTH, KEY_WIDTH = 28, 100
"""Characters in a line of a panel's label and of the key of published settings."""


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """One trial as a point of a figure."""

    number: int
    arm: str
    x: float
    y: float
    value: float | None
    """The objective, None where the trial has none."""
    published: int | None
    """Number of the published setting in the figure's key, None for others."""


@dataclass(frozen=True, kw_only=True)
class HistoryPanel:
    """One search in the order of its trials."""

    recipe: str
    arm: str
    objective: str
    complete: tuple[Point, ...]
    pruned: tuple[Point, ...]
    diverged: tuple[int, ...]
    """Numbers of the trials without a value."""
    best: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class SpacePanel:
    """One search over its space: learning rate by β, or by the objective."""

    recipe: str
    arm: str
    objective: str
    low_is_good: bool
    has_beta: bool
    """Whether y is β; otherwise y is the objective."""
    points: tuple[TrialPoint, ...]
    chosen: Point
    x_range: tuple[float, float]
    y_range: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class FrontPanel:
    """The trials of one recipe in NLL and accuracy, with each arm's front."""

    recipe: str
    points: tuple[TrialPoint, ...]
    fronts: Mapping[str, tuple[Point, ...]]
    chosen: Mapping[str, Point]


@dataclass(frozen=True, kw_only=True)
class LengthPanel:
    """How long the generated answers of one recipe are."""

    recipe: str
    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    """Arm -> share of its answers, over all seeds, in every bin."""
    means: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One contrast: estimate, interval, and which arm the interval favours."""

    recipe: str
    estimate: float
    low: float
    high: float
    favours: str | None
    """An arm, or None where the verdict is open or nothing is better."""
    text: str


@dataclass(frozen=True, kw_only=True)
class ContrastPanel:
    """The contrasts of one metric, one bar per recipe, and one over all models."""

    metric: str
    label: str
    bars: tuple[Bar, ...]
    x_range: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class BetaPanel:
    """One metric of one recipe over β, at the claims' learning rate."""

    recipe: str
    label: str
    learning_rate: float
    points: tuple[Point, ...]
    """(β, mean over pairs) of every run."""
    means: tuple[Point, ...]


BETA_METRICS = ("margin", "chosen_logps")


def beta_info(records: StudyRecords) -> tuple[BetaPanel, ...]:
    """Collect margin and chosen log-probability over β, where three β have runs.

    The learning rate is the one at which most settings of the claims differ in β.
    """
    return tuple(
        panel
        for recipe in records.claims
        for metric in BETA_METRICS
        if len((panel := _beta_panel(records, recipe, metric)).means) > 2
    )


def history_info(records: StudyRecords) -> tuple[HistoryPanel, ...]:
    """Collect the objective over the trials of every search."""
    return tuple(_history_panel(search) for search in records.searches if search.trials)


def space_info(records: StudyRecords) -> tuple[SpacePanel, ...]:
    """Collect where in its space every finished search looked and what it chose."""
    sources = published_key(records)
    return tuple(_space_panel(search, sources) for search in records.searches if search.best)


def published_key(records: StudyRecords) -> dict[str, int]:
    """Number the sources of published settings that were tried, from 1."""
    tried = [
        str(trial["published"])
        for search in records.searches
        for trial in search.trials
        if trial.get("published")
    ]
    return {source: number for number, source in enumerate(dict.fromkeys(tried), start=1)}


def key_lines(sources: Mapping[str, int]) -> list[str]:
    """Write the key of published settings in lines that fit below the figure."""
    return [
        line
        for source, number in sources.items()
        for line in textwrap.wrap(f"{number}  {source}", KEY_WIDTH, subsequent_indent="    ")
    ]


def front_info(records: StudyRecords) -> tuple[FrontPanel, ...]:
    """Collect the trade-off of NLL against accuracy over all complete trials."""
    return tuple(
        _front_panel(recipe, searches)
        for recipe in records.recipes
        if (searches := [s for s in records.searches if s.recipe == recipe and s.best])
    )


def length_info(records: StudyRecords, *, n_bins: int = 16) -> tuple[LengthPanel, ...]:
    """Collect the distribution of the length of answers of every arm."""
    panels = [_length_panel(records, recipe, n_bins) for recipe in records.recipes]
    return tuple(panel for panel in panels if panel.shares)


def contrast_info(
    contrasts: Iterable[ContrastRow], *, baseline: str, treatment: str
) -> tuple[ContrastPanel, ...]:
    """Collect the tested contrasts of two arms, one panel per metric."""
    rows = [
        row
        for row in contrasts
        if (row.baseline, row.treatment) == (baseline, treatment) and row.low is not None
    ]
    return tuple(
        _contrast_panel(metric, [row for row in rows if row.metric == metric])
        for metric in METRICS
        if any(row.metric == metric for row in rows)
    )


def _history_panel(search: SearchRecord) -> HistoryPanel:
    def of(state: str) -> tuple[Point, ...]:
        return tuple(
            (trial["number"], trial["value"])
            for trial in search.trials
            if trial["state"] == state and trial["value"] is not None
        )

    objective = search.config["recipe"]["search"]["objective"]
    direction = search.best["direction"] if search.best else _direction(objective)
    return HistoryPanel(
        recipe=search.recipe,
        arm=search.arm,
        objective=objective,
        complete=of("complete"),
        pruned=of("pruned"),
        diverged=tuple(trial["number"] for trial in search.trials if trial["value"] is None),
        best=tuple(tuning.best_so_far(search.trials, direction=direction)),
    )


def _beta_panel(records: StudyRecords, recipe: str, metric: str) -> BetaPanel:
    settings = records.claims[recipe]["settings"]
    rates = [values["learning_rate"] for values in settings.values()]
    rate = max(rates, key=rates.count)
    points = [
        (float(settings[name]["beta"]), float(mean))
        for name in settings
        if settings[name]["learning_rate"] == rate
        if (scores := scores_of([r for r in records.side(recipe, name) if r.ok], metric))
        for mean in scores.matrix.mean(axis=1)
    ]
    described = METRICS[metric]
    return BetaPanel(
        recipe=recipe,
        label="\n".join(textwrap.wrap(f"{described.label} ({described.unit})", LABEL_WIDTH)),
        learning_rate=float(rate),
        points=tuple(points),
        means=tuple(
            (beta, float(np.mean([y for x, y in points if x == beta])))
            for beta in sorted({x for x, _ in points})
        ),
    )


def _direction(objective: str) -> str:
    return "minimize" if objective.startswith("nll") else "maximize"


def _space_panel(search: SearchRecord, sources: Mapping[str, int]) -> SpacePanel:
    assert search.best is not None
    has_beta = "beta" in search.space
    points = [
        _trial_point(
            trial,
            search.arm,
            sources,
            x=trial["settings"]["learning_rate"],
            y=trial["settings"]["beta"] if has_beta else trial["value"],
        )
        for trial in search.trials
        if has_beta or trial["value"] is not None
    ]
    best = search.best["settings"]
    values = [point.y for point in points]
    return SpacePanel(
        recipe=search.recipe,
        arm=search.arm,
        objective=search.best["objective"],
        low_is_good=search.best["direction"] == "minimize",
        has_beta=has_beta,
        points=tuple(points),
        chosen=(best["learning_rate"], best["beta"] if has_beta else search.best["trial_value"]),
        x_range=_padded_log(*search.space["learning_rate"]),
        y_range=_padded_log(*search.space["beta"]) if has_beta else padded(values),
    )


def _trial_point(
    trial: Mapping[str, Any], arm: str, sources: Mapping[str, int], *, x: float, y: float
) -> TrialPoint:
    return TrialPoint(
        number=trial["number"],
        arm=arm,
        x=x,
        y=y,
        value=trial["value"] if trial["state"] == "complete" else None,
        published=sources.get(str(trial["published"])) if trial.get("published") else None,
    )


def _front_panel(recipe: str, searches: Sequence[SearchRecord]) -> FrontPanel:
    points, fronts, chosen = [], {}, {}
    for search in searches:
        assert search.best is not None
        for trial in search.trials:
            if trial["state"] == "complete":
                point = _trial_point(trial, search.arm, {}, x=trial["nll"], y=trial["accuracy"])
                points.append(point)
            if trial["number"] == search.best["trial"]:
                chosen[search.arm] = (trial["nll"], trial["accuracy"])
        front = tuning.trade_off_front(search.trials)
        fronts[search.arm] = tuple((trial["nll"], trial["accuracy"]) for trial in front)
    return FrontPanel(recipe=recipe, points=tuple(points), fronts=fronts, chosen=chosen)


def _length_panel(records: StudyRecords, recipe: str, n_bins: int) -> LengthPanel:
    lengths = {}
    for arm in records.arms(recipe):
        scores = score_matrix(records, recipe, arm, "response_tokens")
        if scores is not None:
            lengths[arm] = scores.matrix.ravel()
    longest = max((float(values.max()) for values in lengths.values()), default=1.0)
    width = max(1, math.ceil(longest / n_bins))
    edges = np.arange(0.5, longest + width + 0.5, width)
    return LengthPanel(
        recipe=recipe,
        edges=tuple(float(edge) for edge in edges),
        shares={
            arm: tuple(float(n) / len(values) for n in np.histogram(values, edges)[0])
            for arm, values in lengths.items()
        },
        means={arm: float(values.mean()) for arm, values in lengths.items()},
    )


def _contrast_panel(metric: str, rows: Sequence[ContrastRow]) -> ContrastPanel:
    described = METRICS[metric]
    unit = f" ({described.unit})" if described.unit else ""
    label = "\n".join(textwrap.wrap(f"{described.label}{unit}", LABEL_WIDTH))
    bars = tuple(_bar(row, described.digits) for row in rows)
    reach = [value for bar in bars for value in (bar.low, bar.high)]
    return ContrastPanel(
        metric=metric,
        label=label,
        bars=bars,
        x_range=padded([0.0, *reach]),
    )


def _bar(row: ContrastRow, digits: int) -> Bar:
    assert row.low is not None
    assert row.high is not None
    favours = {1: row.treatment, -1: row.baseline}.get(Verdict(row.verdict).favours)
    return Bar(
        recipe=row.recipe,
        estimate=row.estimate,
        low=row.low,
        high=row.high,
        favours=favours,
        text=signed(row.estimate, digits),
    )


def _padded_log(low: float, high: float) -> tuple[float, float]:
    factor = (high / low) ** 0.06
    return low / factor, high * factor
