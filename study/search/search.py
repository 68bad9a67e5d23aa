"""Search each arm's hyperparameters, then repeat the best and freeze the winner.

Optuna suggests; every trial trains with the same seed, so trials differ in
their settings alone. What is counted is the total of finished trials, over all
starts of the command and all workers that share the storage. An arm that continues
another is searched after that one, from what was found for it. A trial's
suggestion depends on the seed, its place in the search and the trials before
it: a search that was stopped goes on to what it would have found undisturbed.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study.arms import ARMS, arms_of
from study.config.recipe import Recipe
from study.config.seeds import search_seed
from study.model.jobs import Job
from study.records.digests import search_config
from study.records.folders import check_folder
from study.records.layout import BEST, search_folder
from study.records.locks import leases
from study.records.notice import heed
from study.records.schema import Best, read_as
from study.records.searches import search_faults, start_settings
from study.records.sharing import WORKER, present

WAIT_S = 2.0
"""How often a process that waits for others looks whether they are done."""


def search(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    storage: str | None = None,
    workers: int = 1,
    arms: Sequence[str] = (),
    wait: bool = False,
    say: Callable[[str], None] = print,
) -> list[Best]:
    """Search all arms of the recipes and return what each ``best.json`` holds.

    Args:
        recipes: each is searched in the arms that its search space names.
        runs: folder of all records.
        trials: finished trials per arm in total; None takes the recipe's.
        seed: the study's seed; see ``study.config.seeds``.
        run_jobs: runs the searches, normally in worker processes.
        storage: Optuna storage URL; None is a journal file beside the records.
        workers: where there are more than arms, some share an arm's search; then the
            suggestions depend on which worker is faster.
        arms: search these alone, and what they continue; none means all.
        wait: for trials that other processes have, so that this one helps with what
            comes after them.
        say: told which searches are not at their total yet.

    Raises:
        RecordError: a folder belongs to another configuration, or another
            process uses it with one.
    """
    searches = _searches(recipes, arms)
    goal = functools.partial(_is_complete, runs=runs, trials=trials)
    ask = functools.partial(_jobs, runs=runs, trials=trials, seed=seed, storage=storage)
    check = functools.partial(_check_folder, runs=runs, seed=seed)
    check_searches(recipes, runs=runs, trials=trials, seed=seed, arms=arms)
    for continues in (False, True):
        stage = [one for one in searches if (ARMS[one[1]].starts_from is not None) is continues]
        if not stage:
            continue
        ready = [(recipe, arm) for recipe, arm in stage if _can_begin(recipe, arm, goal)]
        for recipe, arm in ready:
            check(recipe, arm)  # what the start's search found may be new
        missing = [(recipe, arm) for recipe, arm in ready if not goal(recipe, arm)]
        with present(runs, "search", [(recipe, arm, None) for recipe, arm in missing]):
            left, sharing = missing, math.ceil(workers / len(stage))
            while left:
                run_jobs(ask(left, sharing=sharing))
                left = _left_by_others(left, goal, runs) if wait else []
        for recipe, arm in stage:
            if not goal(recipe, arm):
                say(_why_unfinished(recipe, arm, goal))
    found = [
        read_as(search_folder(runs, recipe.name, arm) / BEST, Best) for recipe, arm in searches
    ]
    return [best for best in found if best is not None]


def check_searches(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    arms: Sequence[str] = (),
    fresh: bool = False,
) -> None:
    """Refuse what `search` would refuse before it trains; write nothing.

    Args:
        recipes: see `search`, as for the others.
        runs: folder of all records.
        trials: finished trials per arm in total.
        seed: the study's seed.
        arms: search these alone.
        fresh: their folders are to be set aside, so that it does not matter what is there.

    Raises:
        ConfigError: an arm has no search space, or the seed is out of range.
        RecordError: a folder belongs to another configuration.
    """
    search_seed(seed)
    goal = functools.partial(_is_complete, runs=runs, trials=trials)
    for recipe, arm in _searches(recipes, arms):
        is_old = not (fresh and (arm in arms or not arms))
        if is_old and _can_begin(recipe, arm, goal):
            _check_folder(recipe, arm, runs=runs, seed=seed)


def _searches(recipes: Sequence[Recipe], arms: Sequence[str]) -> list[tuple[Recipe, str]]:
    """List what is searched, what takes longest first."""
    searches = [
        (recipe, arm)
        for recipe in recipes
        for arm in _with_starts(
            recipe, arms_of(recipe.search.space, arms, f"search.space of {recipe.name}")
        )
    ]
    return sorted(searches, key=lambda item: list(ARMS).index(item[1]), reverse=True)


def _left_by_others(
    searches: Sequence[tuple[Recipe, str]], is_complete: Callable[[Recipe, str], bool], runs: Path
) -> list[tuple[Recipe, str]]:
    """Wait while living processes have trials; return the searches that none of them finished."""
    while left := [(recipe, arm) for recipe, arm in searches if not is_complete(recipe, arm)]:
        heed()
        time.sleep(WAIT_S)
        folders = [search_folder(runs, recipe.name, arm) for recipe, arm in left]
        if not any(one.held for folder in folders for one in leases(folder, WORKER)):
            break
    return left


def _with_starts(recipe: Recipe, arms: Sequence[str]) -> list[str]:
    """Add the arms that arms continue: their search comes first."""
    starts = {ARMS[arm].starts_from for arm in arms}
    return [arm for arm in recipe.search.space if arm in arms or arm in starts]


def _check_folder(recipe: Recipe, arm: str, *, runs: Path, seed: int) -> None:
    """Refuse a folder that belongs to another configuration, that of its start among it."""
    start = start_settings(recipe, arm, runs=runs)
    config = search_config(recipe, arm=arm, seed=seed, start=start)
    check_folder(search_folder(runs, recipe.name, arm), config)


def _can_begin(recipe: Recipe, arm: str, is_complete: Callable[[Recipe, str], bool]) -> bool:
    start = ARMS[arm].starts_from
    return start is None or is_complete(recipe, start)


def _why_unfinished(recipe: Recipe, arm: str, is_complete: Callable[[Recipe, str], bool]) -> str:
    others = "other workers have the last trials; the same command goes on when they are done"
    if not _can_begin(recipe, arm, is_complete):
        others = (
            f"it continues {ARMS[arm].starts_from}, whose search is not finished; the same command "
            "begins it when that one is"
        )
    return f"{recipe.name}/{arm} is not finished here: {others}"


def _jobs(
    missing: Sequence[tuple[Recipe, str]],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    storage: str | None,
    sharing: int,
) -> list[Job]:
    """List a job for each arm and each worker that shares its search."""
    return [
        Job(
            name=f"{recipe.name}/{arm}",
            recipe=recipe,
            kind="study.search.arm:search_arm",
            given={
                "arm": arm,
                "runs": runs,
                "trials": trials or recipe.search.trials,
                "seed": seed,
                "storage": storage,
            },
        )
        for recipe, arm in missing
        for _ in range(sharing)
    ]


def _is_complete(recipe: Recipe, arm: str, *, runs: Path, trials: int | None) -> bool:
    folder = search_folder(runs, recipe.name, arm)
    best = None if search_faults(folder) else read_as(folder / BEST, Best)
    return best is not None and best["n_trials"] >= (trials or recipe.search.trials)
