"""How long a study takes on this machine, worked out from parts that were timed on it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from study.config.recipe import Recipe
from study.workers.devices import plan_slots
from study.workers.jobs import run_jobs

SEEDS = 3
"""Seeds of a comparison unless `study compare` is told otherwise."""

MOST_WORKERS = 4
"""Workers that are timed side by side at most; more take as long each."""

KEPT_SHARE = {"none": 1.0, "median": 0.625, "halving": 0.5}
"""Share of all updates that is left where as many trials are pruned as a rule can: half of
them at a quarter; with halving, half of the others at a half."""


def measure(recipe: Recipe, device: str) -> dict[str, Any]:
    """Time a recipe's parts in as many workers as a study has, and work out the whole.

    Args:
        recipe: names pairs that can be read here.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        StudyError: the model or the pairs cannot be loaded.
    """
    from study.run.timing import mean_of, timing_job

    slots = plan_slots([recipe], device=device, workers=None)
    side_by_side = min(len(slots), MOST_WORKERS, len(recipe.arms))
    parts = run_jobs([timing_job(recipe)] * side_by_side, slots=slots)
    found = mean_of(parts)
    return {
        "workers": len(slots),
        "batch_pairs": recipe.training.batch_pairs,
        "searched": [arm for arm in recipe.search.space if arm in found["arms"]],
        "not_timed": sorted(set(recipe.arms) - set(found["arms"])),
        "trials": recipe.search.trials,
        "repeated": [recipe.search.confirm_top, recipe.search.confirm_seeds],
        **found,
        **_whole(recipe, found, len(slots)),
    }


def _whole(recipe: Recipe, parts: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Return seconds of a search, least and most, and of a comparison."""
    training, search = recipe.training, recipe.search
    validations = math.ceil(training.max_steps / training.validate_every_steps)
    run_s = {
        arm: part["train_s"] + validations * parts["validate_s"]
        for arm, part in parts["arms"].items()
    }
    evaluate_s = parts["score_s"] + parts["answer_s"]
    repeats = search.confirm_top * search.confirm_seeds
    least, most = (
        [run_s[arm] * (search.trials * share + repeats) for arm in search.space if arm in run_s]
        for share in (KEPT_SHARE[search.pruning], 1.0)
    )
    runs = [evaluate_s + seconds for seconds in run_s.values()] * SEEDS + [evaluate_s]
    return {
        "search_s": [_wall(least, workers), _wall(most, workers)],
        "compare_s": _wall(runs, workers),
    }


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
        f"{pruned}{_long(most)} at most: {found['trials']} trials of {_and(found['searched'])}, "
        f"the best {top} repeated with {seeds} fresh seed{'s' * (seeds > 1)}"
    )
    compare = (
        f"{_long(found['compare_s'])}: {SEEDS} seeds of {_and(arms)}, and the base, each with "
        f"{_long(each)} of scores and answers"
    )
    others = [("not timed", f"{_and(found['not_timed'])}, which continue another arm's runs")]
    return [
        *(others if found["not_timed"] else ()),
        ("timed step", f"{steps}; {found['batch_pairs']} pairs, {_busy(found['workers'])}"),
        ("measured peak", memory),
        *([("study search", search)] if found["searched"] else ()),
        ("study compare", compare),
    ]


def _busy(workers: int) -> str:
    many = f"{workers} workers" if workers > 1 else "one worker"
    return f"{many}, the machine as busy as it was just now"


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


def _long(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
