"""Train ORPO at the settings that decide claims and that no comparison has.

The runs are made as a comparison's are and share its seeds: a setting then
differs from another in its settings alone, never in the order of pairs or the
adapter's start. Nothing is chosen by these runs, so that no seed need be kept
apart; those of searches are (``study.seeds``).
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study.claims import load_claims, register
from study.compare import PlannedRun, make_run
from study.config import Recipe
from study.jobs import Job
from study.records import check_folder, setting_folder
from study.seeds import compare_seeds


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
        seed: the study's seed; see ``study.seeds``.
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
    for run in plan:
        check_folder(run.folder.path, run.config)
    for recipe in recipes:
        register(runs, recipe, seeds=compare_seeds(seed, seeds))
    run_jobs([_job(run) for run in plan if run.folder.record() is None])
    records = []
    for run in plan:
        record = run.folder.record()
        if record is None:
            say(f"{_name(run)} is being made by another process and is not in this table")
        else:
            records.append({**record, "setting": _setting(run)})
    return records


def plan_claim_runs(recipe: Recipe, *, runs: Path, seeds: int, seed: int) -> list[PlannedRun]:
    """List the runs of one recipe's claims; claims share settings and their runs.

    Raises:
        ConfigError: no scale of the claims fits the recipe's model.
    """
    _, scale = load_claims().scale_of(recipe)
    return [
        PlannedRun(
            recipe=recipe,
            arm="orpo",
            settings=settings,
            seed=run_seed,
            tuned=False,
            folder=setting_folder(runs, recipe.name, name, run_seed),
        )
        for name, settings in scale.settings.items()
        for run_seed in compare_seeds(seed, seeds)
    ]


def _setting(run: PlannedRun) -> str:
    return run.folder.path.parent.name


def _name(run: PlannedRun) -> str:
    return f"{run.recipe.name}/{_setting(run)}/seed-{run.seed}"


def _job(run: PlannedRun) -> Job:
    return Job(name=_name(run), recipe=run.recipe, work=functools.partial(make_run, run=run))
