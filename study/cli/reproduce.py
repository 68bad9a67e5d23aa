"""The command that reproduces an article on any model and data."""

import shlex
from pathlib import Path

import click

from study.cli import tables
from study.cli.options import (
    begin_again,
    check_locks,
    chosen_recipes,
    job_place,
    kept_asked,
    repeated,
    say_cost,
    seeds_option,
    show,
    speaker,
    training_options,
)
from study.config.ladder import LADDERS
from study.records.layout import REPRODUCE


@click.command("reproduce")
@click.argument("article", type=click.Choice(tuple(LADDERS)))
@training_options
@seeds_option
def reproduce_command(
    *,
    article: str,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    runs: Path,
    seed: int,
    workers: int | None,
    seeds: int,
    fresh: bool,
    on: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train an ARTICLE's arms as published, then mend one difference after the other.

    The last rung leaves the arms apart in their loss alone; the report shows how the
    published gap moves. Finished runs are kept; missing ones are made.
    """
    from study.run import ladder

    say = speaker(quiet)
    recipes = chosen_recipes(names, assignments, device, say)
    say_cost(recipes, device, say)
    place = job_place(recipes, device, workers, quiet=quiet, on=on, runs=runs)
    if fresh:
        ladder.plan(article, recipes, runs=runs, seeds=seeds, seed=seed)  # or it is refused here
        begin_again(recipes, runs, REPRODUCE, say)
    check_locks(runs, say)
    with kept_asked(names, assignments, recipes, runs, REPRODUCE):
        records = ladder.reproduce(
            article,
            recipes,
            runs=runs,
            seeds=seeds,
            seed=seed,
            run_jobs=place.run_jobs,
            say=say,
        )
    show(records, as_json, tables.reproduce_table)
    say(
        f"next: study report --runs {shlex.quote(str(runs))}, which also needs the runs of "
        f"`study compare{repeated(names, assignments, runs)}`"
    )
