"""What a search minimises or maximises, free of β and the same for every arm.

The default is the NLL of chosen answers plus the calibrated ranking loss: no
method trains on the second term, so none is favoured, and neither hides what
the other costs. ``nll+lor``, the first studies' objective, holds ORPO's own term.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from study.arms import Settings
from study.config.canonical import digest
from study.records.files import read_jsonl
from study.records.layout import STEPS

if TYPE_CHECKING:
    from study.model.workbench import Workbench
    from study.run.planned import Start


def settings_key(settings: Settings) -> tuple[tuple[str, float], ...]:
    """Return settings as a key that is equal for equal settings."""
    return tuple(sorted(settings.items()))


DIRECTION: Mapping[str, Literal["minimize", "maximize"]] = {
    "nll+ranking": "minimize",
    "nll+lor": "minimize",
    "nll": "minimize",
    "accuracy": "maximize",
    "margin": "maximize",
    "rougeL": "maximize",
}


SCORES = ("nll", "ranking", "lor", "accuracy", "margin", "log_odds")
"""Validation scores that a trial keeps beside its value.

Every objective but ROUGE is one of them or a sum of two. Trials that are older
than ``ranking`` do not have it.
"""


UNFINISHED = ".trial-"
"""What the names of trials' own folders begin with."""


BY_VALIDATION_LOSS = ("nll+ranking", "nll+lor", "nll")
"""Objectives whose early values rank trials as their last ones do."""


def validation_value(objective: str, scores: Mapping[str, float]) -> float | None:
    """Return the objective from scores of validation pairs, None where it has none.

    An objective's name is that of a score, or of scores to be added up.
    ``rougeL`` needs generated answers and so has no value before a trial ends.
    """
    if objective == "rougeL":
        return None
    value = sum(scores[part] for part in objective.split("+"))
    return value if math.isfinite(value) else None


def score_trial(
    workbench: "Workbench",
    *,
    arm: str,
    settings: Settings,
    seed: int,
    follow: Callable[[int, Mapping[str, float]], bool],
    folder: Path,
    start: "Start | None" = None,
) -> tuple[str, float | None]:
    """Train settings once; return ``complete``, ``pruned`` or ``diverged``, and the value.

    Args:
        workbench: base model and data.
        arm: the arm trained.
        settings: its hyperparameters.
        seed: seed of the adapter and of the order of batches.
        follow: told each validation, after a restart the earlier ones too;
            returns True to prune.
        folder: where checkpoints go; one found there is resumed from.
        start: what the arm continues.
    """
    from study.run.train import train_run

    told: list[int] = []

    def hear(step: int, scores: Mapping[str, float]) -> bool:
        if not told:
            _tell_earlier(folder, step, follow)
        told.append(step)
        return follow(step, scores)

    outcome = train_run(
        workbench,
        arm=arm,
        settings=settings,
        seed=seed,
        folder=folder,
        on_validation=hear,
        start=start,
    )
    scores = outcome.validation
    if not told:  # it was stopped between its last step and its end
        scores = _tell_earlier(folder, workbench.recipe.training.max_steps + 1, follow)
    if outcome.status == "stopped":
        return "pruned", None
    value = None if outcome.status == "diverged" else _final_value(workbench, scores)
    return ("diverged", None) if value is None else ("complete", value)


def _tell_earlier(
    folder: Path, before: int, follow: Callable[[int, Mapping[str, float]], bool]
) -> dict[str, float]:
    """Tell again what was measured before a training was stopped; return the last scores."""
    scores: dict[str, float] = {}
    for row in read_jsonl(folder / STEPS):
        if row["split"] == "validation" and row["step"] < before:
            scores = {key: row[key] for key in row if key not in ("split", "step")}
            follow(row["step"], scores)
    return scores


def unfinished_folder(search: Path, settings: Settings, seed: int) -> Path:
    """Return where one training of a search keeps its checkpoints until it ends."""
    return search / f"{UNFINISHED}{digest([dict(settings), seed])[:16]}"


def discard_unfinished(search: Path) -> None:
    """Remove what trainings left behind that ended or that nobody will go on with."""
    for folder in search.glob(f"{UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _final_value(workbench: "Workbench", scores: Mapping[str, float]) -> float | None:
    objective = workbench.recipe.search.objective
    if objective == "rougeL":
        from study.run.answers import validation_rouge

        return validation_rouge(workbench)
    return validation_value(objective, scores)
