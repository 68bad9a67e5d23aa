"""What a search minimises or maximises, free of β and the same for every arm."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from study.config import Settings

if TYPE_CHECKING:
    from study.workbench import Workbench

DIRECTION: Mapping[str, Literal["minimize", "maximize"]] = {
    "nll+lor": "minimize",
    "nll": "minimize",
    "accuracy": "maximize",
    "margin": "maximize",
    "rougeL": "maximize",
}

SCORES = ("nll", "lor", "accuracy", "margin", "log_odds")
"""Validation scores that a trial keeps beside its value."""

BY_VALIDATION_LOSS = ("nll+lor", "nll")
"""Objectives whose early values rank trials as their last ones do."""


def validation_value(objective: str, scores: Mapping[str, float]) -> float | None:
    """Return the objective from scores of validation pairs, None where it has none.

    ``rougeL`` needs generated answers and so has no value before a trial ends.
    """
    if objective == "rougeL":
        return None
    value = scores["nll"] + scores["lor"] if objective == "nll+lor" else scores[objective]
    return value if math.isfinite(value) else None


def score_trial(
    workbench: "Workbench",
    *,
    arm: str,
    settings: Settings,
    seed: int,
    follow: Callable[[int, Mapping[str, float]], bool],
) -> tuple[str, float | None]:
    """Train settings once; return ``complete``, ``pruned`` or ``diverged``, and the value.

    Args:
        workbench: base model and data.
        arm: the arm trained.
        settings: its hyperparameters.
        seed: seed of the adapter and of the order of batches.
        follow: told each validation; returns True to prune.
    """
    from study.train import train_run

    outcome = train_run(
        workbench, arm=arm, settings=settings, seed=seed, folder=None, on_validation=follow
    )
    if outcome.status == "stopped":
        return "pruned", None
    value = None if outcome.status == "diverged" else _final_value(workbench, outcome.validation)
    return ("diverged", None) if value is None else ("complete", value)


def _final_value(workbench: "Workbench", scores: Mapping[str, float]) -> float | None:
    objective = workbench.recipe.search.objective
    if objective == "rougeL":
        from study.evaluate import validation_rouge

        return validation_rouge(workbench)
    return validation_value(objective, scores)
