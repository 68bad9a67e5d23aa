"""What a search showed: pure functions of its trials and its frozen best."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Trial = Mapping[str, Any]

EDGE_SHARE = 0.05
"""A best value within this share of the range's end (in log) lies at its edge."""


def best_so_far(trials: Sequence[Trial], *, direction: str) -> list[tuple[int, float]]:
    """Return (number, best value up to it) for every finished trial.

    Only complete trials set a best; the series begins at the first of them.
    """
    better = min if direction == "minimize" else max
    series: list[tuple[int, float]] = []
    for trial in sorted(trials, key=lambda row: row["number"]):
        value = trial["value"] if trial["state"] == "complete" else None
        if series:
            best = series[-1][1] if value is None else better(series[-1][1], value)
            series.append((trial["number"], best))
        elif value is not None:
            series.append((trial["number"], value))
    return series


def count_states(trials: Sequence[Trial]) -> dict[str, int]:
    """Count trials by state: ``complete``, ``pruned``, ``diverged``."""
    states = [trial["state"] for trial in trials]
    return {state: states.count(state) for state in ("complete", "pruned", "diverged")}


def trade_off_front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the complete trials that no other beats in both NLL and accuracy.

    Sorted by NLL, lowest first; of trials equal in both, the earliest.
    """
    complete = [trial for trial in trials if trial["state"] == "complete"]
    front: list[Trial] = []
    for trial in sorted(complete, key=lambda row: (row["nll"], -row["accuracy"], row["number"])):
        if not front or trial["accuracy"] > front[-1]["accuracy"]:
            front.append(trial)
    return front


def at_edge(
    settings: Mapping[str, float], space: Mapping[str, tuple[float, float]]
) -> tuple[str, ...]:
    """Name the hyperparameters whose value lies at an edge of its log-range."""
    return tuple(name for name, (low, high) in space.items() if _is_edge(settings[name], low, high))


def published_tried(trials: Sequence[Trial]) -> tuple[dict[str, object], ...]:
    """Return source, settings, value and state of every published setting tried."""
    return tuple(
        {
            "source": trial["published"],
            "settings": dict(trial["settings"]),
            "value": trial["value"],
            "state": trial["state"],
        }
        for trial in trials
        if trial.get("published")
    )


def budget_difference(searches: Mapping[str, Sequence[Trial]]) -> str | None:
    """Say how the number of finished trials differs between arms, if it does.

    Args:
        searches: arm -> its finished trials.
    """
    counts = {arm: len(trials) for arm, trials in searches.items()}
    if len(set(counts.values())) <= 1:
        return None
    return ", ".join(f"{arm} {n}" for arm, n in counts.items())


def _is_edge(value: float, low: float, high: float) -> bool:
    place = math.log(value / low) / math.log(high / low)
    return not EDGE_SHARE < place < 1 - EDGE_SHARE
