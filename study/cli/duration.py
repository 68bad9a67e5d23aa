"""How long a study takes on this machine, worked out from parts that were timed on it."""

import math
from collections.abc import Mapping
from typing import Any

from study.arms import ARMS
from study.config.recipe import Recipe
from study.config.seeds import SEEDS
from study.errors import listed
from study.workers.devices import plan_slots
from study.workers.jobs import run_jobs

MOST_WORKERS = 4
"""Workers that are timed side by side at most; more take as long each."""

KEPT_SHARE = {"none": 1.0, "median": 0.625, "halving": 0.5}
"""Share of all updates that is left where as many trials are pruned as a rule can: half of
them at a quarter; with halving, half of the others at a half."""


def measure(recipe: Recipe, device: str, *, workers: int | None = None) -> dict[str, Any]:
    """Time a recipe's parts in as many workers as a study has, and work out the whole.

    Args:
        recipe: names pairs that can be read here.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        workers: of the study; None leaves it to the machine.

    Raises:
        StudyError: the model or the pairs cannot be loaded.
    """
    from study.run.timing import mean_of, timing_job

    slots = plan_slots([recipe], device=device, workers=workers)
    side_by_side = min(len(slots), MOST_WORKERS, len(recipe.arms))
    parts = run_jobs([timing_job(recipe)] * side_by_side, slots=slots)
    found = mean_of(parts)
    return {
        "workers": len(slots),
        "batch_pairs": recipe.training.batch_pairs,
        "searched": list(recipe.search.space),
        "trials": recipe.search.trials,
        "repeated": [recipe.search.confirm_top, recipe.search.confirm_seeds],
        **found,
        **_whole(recipe, found, len(slots)),
    }


def _whole(recipe: Recipe, parts: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Return seconds of a search, least and most, and of a comparison.

    A start is made once for each seed, and all arms that continue it wait for it.
    """
    search = recipe.search
    run_s = {
        arm: part["train_s"] + _validations_s(recipe, parts, part["steps"])
        for arm, part in parts["arms"].items()
    }
    reference_s = {arm: part["reference_s"] for arm, part in parts["arms"].items()}
    starts_s = sum(
        part["train_s"] + _validations_s(recipe, parts, recipe.training.start_steps)
        for part in parts["starts"].values()
    )
    evaluate_s = parts["score_s"] + parts["answer_s"]
    repeats, seeds = search.confirm_top * search.confirm_seeds, 1 + search.confirm_seeds
    stages = [
        [arm for arm in search.space if (ARMS[arm].starts_from is not None) is continues]
        for continues in (False, True)
    ]
    least, most = (
        sum(
            _wall(
                [
                    run_s[arm] * (search.trials * share + repeats) + reference_s[arm] * seeds
                    for arm in stage
                ],
                workers,
            )
            for stage in stages
        )
        + (starts_s * seeds if stages[1] else 0.0)
        for share in (KEPT_SHARE[search.pruning], 1.0)
    )
    runs = [run_s[arm] + reference_s[arm] + evaluate_s for arm in run_s] * SEEDS
    return {
        "search_s": [least, most],
        "compare_s": _wall([*runs, *[starts_s] * SEEDS, evaluate_s], workers),
    }


def _validations_s(recipe: Recipe, parts: Mapping[str, Any], steps: float) -> float:
    """Return what scoring held-out pairs takes in a training of so many steps."""
    every: int = recipe.training.validate_every_steps
    return math.ceil(steps / every) * float(parts["validate_s"])


def _wall(jobs: list[float], workers: int) -> float:
    """Return when the last of some jobs ends: they are evenly spread, and none is split."""
    return max([*jobs, sum(jobs) / workers])


def lines(found: Mapping[str, Any], estimate: int) -> list[tuple[str, str]]:
    """Lay out what was measured, and what follows from it, for reading.

    Args:
        found: what `measure` returned.
        estimate: bytes of a step, as worked out from shapes, without the weights.
    """
    arms, (top, seeds) = found["arms"], found["repeated"]
    least, most = found["search_s"]
    pruned = "" if least == most else f"{_long(least)} if trials are pruned, "
    steps = ", ".join(
        f"{arm} {part['step_s']:.1f} s for {part['step_tokens']:,.0f} tokens"
        for arm, part in arms.items()
    )
    peak = max(part["step_peak_bytes"] for part in arms.values())
    each = found["score_s"] + found["answer_s"]
    loaded = found["loaded_bytes"]
    memory = (
        f"{_gib(peak)} for a whole process: {_gib(loaded)} before the first step (Python, "
        f"libraries, model, pairs), {_gib(peak - loaded)} for a step, which was estimated at "
        f"{_gib(estimate)} for pairs of full length"
    )
    search = (
        f"{pruned}{_long(most)} at most: {found['trials']} trials of {listed(found['searched'])}, "
        f"the best {top} repeated with {seeds} fresh seed{'s' * (seeds > 1)}"
    )
    compare = (
        f"{_long(found['compare_s'])}: {SEEDS} seeds of {listed(arms)}, and the base, each with "
        f"{_long(each)} of scores and answers"
    )
    return [
        ("timed step", f"{steps}; {found['batch_pairs']} pairs, {_busy(found['workers'])}"),
        ("measured peak", memory),
        ("study search", search),
        ("study compare", compare),
    ]


def _busy(workers: int) -> str:
    """Say how many workers the times are of, and how to learn of others."""
    busy = "the machine as busy as it was just now"
    if workers > 1:
        return f"{workers} workers, {busy}"
    return f"one worker, {busy}; with --workers 2 two are timed side by side"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


def _long(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
