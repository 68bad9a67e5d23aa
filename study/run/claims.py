"""Train ORPO at the settings that decide claims and that no comparison has.

The runs are made as a comparison's are and share its seeds: a setting then
differs from another in its settings alone, never in the order of pairs or the
adapter's start. Nothing is chosen by these runs, so that no seed need be kept
apart; those of searches are (``study.config.seeds``).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study.config.claims import SETTINGS_OF, load_claims
from study.config.recipe import Recipe
from study.model.jobs import Job
from study.records.plan import register, seeds_of
from study.records.runs import setting_folder
from study.run.make import check_plan, make_missing
from study.run.planned import PlannedRun


def make_claim_runs(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    seeds: int,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Register the claims and make their runs that are missing; return the records.

    Args:
        recipes: whose models the claims are tested on.
        runs: folder of all records.
        seeds: seeds per setting.
        seed: the study's seed; see ``study.config.seeds``.
        run_jobs: runs the jobs, normally in worker processes.
        say: told which runs another process is making.

    Returns:
        Each run's record with the name of its ``setting``.

    Raises:
        RecordError: a folder holds a run of another configuration; nothing was
            trained.
    """
    plan = [
        run
        for recipe in recipes
        for run in plan_claim_runs(recipe, runs=runs, seeds=seeds, seed=seed)
    ]
    check_plan(plan, say)
    for recipe in recipes:
        register(runs, recipe, seeds=seeds_of(runs, recipe.name, seed=seed, n=seeds))
    make_missing(plan, runs=runs, command="claims", run_jobs=run_jobs, say=say)
    return [
        {**record, "setting": run.part}
        for run in plan
        if (record := run.folder.record()) is not None
    ]


def plan_claim_runs(recipe: Recipe, *, runs: Path, seeds: int, seed: int) -> list[PlannedRun]:
    """List the runs of one recipe's claims; claims share settings and their runs.

    Raises:
        ConfigError: no scale of the claims fits the recipe's model.
    """
    _, scale = load_claims().scale_of(recipe)
    return [
        PlannedRun(
            recipe=recipe,
            arm=SETTINGS_OF,
            settings=settings,
            seed=run_seed,
            tuned=False,
            folder=setting_folder(runs, recipe.name, name, run_seed),
        )
        for name, settings in scale.settings.items()
        for run_seed in seeds_of(runs, recipe.name, seed=seed, n=seeds)
    ]
