"""Compare the arms: every arm and seed under the same budget, on unseen pairs.

The experiment is ``make_run``: the arms share model, data, batches, optimiser,
schedule and number of updates, and differ in the loss and its settings alone.
An arm that continues another spends a part of these updates on that one, its
start. An arm matched in tokens differs in its number of updates alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study.arms import ARMS, UNTRAINED, arms_of
from study.config.recipe import Recipe
from study.model.jobs import Job
from study.records.plan import register, seeds_of, write_plan
from study.records.runs import run_folder
from study.records.schema import Record
from study.records.searches import arm_settings
from study.run.make import check_plan, make_missing
from study.run.planned import PlannedRun, planned_start


def compare(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    seeds: int,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    arms: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Make the runs of a comparison that are missing; return all their records.

    Args:
        recipes: the studies to compare arms in.
        runs: folder of all records.
        seeds: seeds per arm; ``base`` has no random part and is run once.
        seed: the study's seed; see ``study.config.seeds``.
        run_jobs: runs the jobs, normally in worker processes.
        arms: make the runs of these alone, and of the base; none means all. The plan
            names all arms in any case.
        say: told what a reader must know, such as untuned settings.

    Raises:
        RecordError: a folder holds a run of another configuration, or another
            process uses it with one; nothing was trained.
    """
    whole = [
        run for recipe in recipes for run in plan_runs(recipe, runs=runs, seeds=seeds, seed=seed)
    ]
    wanted = {
        recipe.name: arms_of([UNTRAINED, *recipe.arms], arms, recipe.name) for recipe in recipes
    }
    plan = [run for run in whole if run.arm in {UNTRAINED, *wanted[run.recipe.name]}]
    check_plan(plan, say)
    for line in _untuned(plan):
        say(line)
    for recipe in recipes:
        mine = [run for run in whole if run.recipe is recipe]
        write_plan(
            runs,
            recipe,
            seeds=seeds_of(runs, recipe.name, seed=seed, n=seeds),
            arms={run.arm: run.settings for run in mine},
        )
        register(runs, recipe)
    make_missing(plan, runs=runs, command="compare", run_jobs=run_jobs, say=say)
    records = [record for run in plan if (record := run.folder.record()) is not None]
    for line in dict.fromkeys(filter(None, map(_left_out, records))):
        say(line)
    return records


def plan_runs(recipe: Recipe, *, runs: Path, seeds: int, seed: int) -> list[PlannedRun]:
    """List the runs of one recipe's comparison at its frozen settings.

    Raises:
        RecordError: the settings were tuned under another configuration.
    """
    plan = []
    own = seeds_of(runs, recipe.name, seed=seed, n=seeds)
    for arm in [arm for arm in ARMS if arm == UNTRAINED or arm in recipe.arms]:
        settings, tuned = arm_settings(recipe, arm, runs=runs)
        start = planned_start(recipe, arm, runs=runs)
        for run_seed in [0] if arm == UNTRAINED else own:
            folder = run_folder(runs, recipe.name, arm, run_seed)
            plan.append(
                PlannedRun(
                    recipe=recipe,
                    arm=arm,
                    settings=settings,
                    seed=run_seed,
                    tuned=tuned,
                    folder=folder,
                    start=start,
                )
            )
    return plan


def _left_out(record: Record) -> str:
    """Say which rows of the data a run could not use, or nothing."""
    dropped = record["data"].get("dropped", {})
    listed = ", ".join(f"{reason} {n}" for reason, n in dropped.items() if n)
    return (
        f"{record['recipe']}: rows left out of the data: {listed}; `study data check` names them"
        if listed
        else ""
    )


def _untuned(plan: Sequence[PlannedRun]) -> list[str]:
    """Say which arms no search has tuned, one line each."""
    pairs = dict.fromkeys(
        (run.recipe.name, run.arm) for run in plan if not run.tuned and run.arm != UNTRAINED
    )
    return [
        f"{recipe}/{arm} is untuned: no search has frozen its settings, so the recipe's own "
        "are used and recorded as untuned; run `study search` first, with the same --runs, to "
        "tune it"
        for recipe, arm in pairs
    ]
