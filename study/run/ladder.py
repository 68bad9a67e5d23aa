"""Train an article's two arms as they were published and on every rung that mends them.

The runs are made as a comparison's are and share its seeds. A set-up that several
rungs share is trained once, and the faults of scoring are rungs of the same runs. Runs
that continue others are made after all the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from study.config.ladder import Ladder, SetUp, Stage, climb, load_ladder, set_ups
from study.config.recipe import Recipe
from study.model.jobs import Job
from study.records.layout import ladder_path
from study.records.plan import register, seeds_of, write_amended
from study.records.runs import reproduce_folders, set_up_folder
from study.run.make import check_plan, make_missing
from study.run.planned import AsPublished, PlannedRun


def reproduce(
    article: str,
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    seeds: int,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Register the ladder and its claim, make its runs that are missing; return the records.

    Args:
        article: which one, see ``study.config.ladder``.
        recipes: whose models and data the article's comparison is made on.
        runs: folder of all records.
        seeds: seeds per set-up.
        seed: the study's seed; see ``study.config.seeds``.
        run_jobs: runs the jobs, normally in worker processes.
        say: told which runs another process is making.

    Returns:
        Each run's record with the name of its ``set_up``.

    Raises:
        ConfigError: a recipe does not train both arms.
        RecordError: a folder holds a run of another configuration; nothing was
            trained.
    """
    ladder = load_ladder(article)
    stages = {recipe.name: climb(ladder, recipe) for recipe in recipes}
    planned = plan(article, recipes, runs=runs, seeds=seeds, seed=seed)
    check_plan(planned, say)
    for recipe in recipes:
        own = seeds_of(runs, recipe.name, seed=seed, n=seeds)
        register(runs, recipe)
        _write_ladder(ladder, recipe, stages[recipe.name], runs=runs, seeds=own)
    for continues in (False, True):
        make_missing(
            [run for run in planned if _continues(run) == continues],
            runs=runs,
            command="reproduce",
            run_jobs=run_jobs,
            say=say,
        )
    return [
        {**record, "set_up": run.part}
        for run in planned
        if (record := run.folder.record()) is not None
    ]


def plan(
    article: str, recipes: Sequence[Recipe], *, runs: Path, seeds: int, seed: int
) -> list[PlannedRun]:
    """List the runs that `reproduce` makes; write nothing.

    Raises:
        ConfigError: a recipe does not train both arms, or the seed is out of range.
    """
    ladder = load_ladder(article)
    return [
        run
        for recipe in recipes
        for run in plan_ladder(ladder, recipe, climb(ladder, recipe), runs=runs, n=seeds, seed=seed)
    ]


def plan_ladder(
    ladder: Ladder, recipe: Recipe, stages: tuple[Stage, ...], *, runs: Path, n: int, seed: int
) -> list[PlannedRun]:
    """List the runs of one recipe's ladder, those that others continue first."""
    found: dict[tuple[str, int], PlannedRun] = {}
    seeds = seeds_of(runs, recipe.name, seed=seed, n=n)
    for name, one in set_ups(stages).items():
        answers = _answers(ladder, one, stages)
        for run_seed in seeds:
            found[name, run_seed] = PlannedRun(
                recipe=one.recipe,
                arm=one.arm,
                settings=one.recipe.arms[one.arm],
                seed=run_seed,
                tuned=False,
                folder=set_up_folder(runs, recipe.name, name, run_seed),
                published=AsPublished(
                    study=recipe,
                    after=found[one.start, run_seed] if one.start else None,
                    answers=answers,
                ),
            )
    return list(found.values())


def _continues(run: PlannedRun) -> bool:
    return run.published is not None and run.published.after is not None


def _answers(ladder: Ladder, one: SetUp, stages: tuple[Stage, ...]) -> dict[str, dict[str, Any]]:
    """Return the ways in which a set-up's prompts are answered beside the study's own."""
    return {
        stage.answers: {**asdict(ladder.answers), "flaws": list(stage.flaws_of_answers)}
        for stage in stages
        if stage.answers and one in (stage.baseline, stage.treatment)
    }


def _write_ladder(
    ladder: Ladder, recipe: Recipe, stages: tuple[Stage, ...], *, runs: Path, seeds: Sequence[int]
) -> None:
    rungs = {rung.id: rung for rung in ladder.rungs}
    written = {
        "article": ladder.recipe,
        "chosen": ladder.scale_of(recipe).chosen,
        "steps": [
            {
                "rung": stage.rung,
                "touches": rungs[stage.rung].touches if stage.rung in rungs else "",
                "published": rungs[stage.rung].published if stage.rung in rungs else "",
                "mended": rungs[stage.rung].mended if stage.rung in rungs else "",
                "flaws": list(stage.flaws),
                "answers": stage.answers,
                "baseline": stage.baseline.name,
                "treatment": stage.treatment.name,
            }
            for stage in stages
        ],
        "set_ups": {
            name: {"settings": dict(one.recipe.arms[one.arm]), "start": one.start}
            for name, one in set_ups(stages).items()
        },
    }
    write_amended(
        ladder_path(runs, recipe.name),
        written,
        seeds=seeds,
        runs=reproduce_folders(runs, recipe.name),
    )
