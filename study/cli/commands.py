"""The command line: parse, make one call, print what it returns."""

import shlex
import subprocess
import sys
from pathlib import Path

import click

from study import __version__
from study.cli import before, cluster, judging, release, reproduce, tables
from study.cli.options import (
    StudyGroup,
    arms_option,
    begin_again,
    check_locks,
    chosen_recipes,
    job_place,
    json_option,
    kept_asked,
    recipes_of_records_option,
    repeated,
    runs_option,
    say_cost,
    seeds_option,
    show,
    speaker,
    storage_options,
    training_options,
)
from study.config.environment import quieten
from study.config.recipe import load_recipe
from study.config.seeds import SEEDS
from study.errors import RecordError, listed


@click.group(cls=StudyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="study")
def main() -> None:
    """Compare post-training methods on small models: search, train seeds, keep records."""
    quieten()


@main.command("search")
@training_options
@arms_option
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Finished trials per arm, in total over all starts. [default: the recipe's]",
)
@storage_options
@click.option(
    "--wait", is_flag=True, help="Wait for the last trials of other processes, then go on."
)
def search_command(
    *,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    runs: Path,
    seed: int,
    workers: int | None,
    on: str,
    arms: tuple[str, ...],
    trials: int | None,
    storage: str | None,
    storage_file: Path | None,
    wait: bool,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Search each arm's settings, repeat the best with fresh seeds, freeze the winner.

    Started again, it goes on to the total number of trials.
    """
    from study.search import search
    from study.search.database import chosen_storage
    from study.workers import launch

    launch.refuse("search")
    say = speaker(quiet)
    storage = chosen_storage(storage, storage_file, say)
    recipes = chosen_recipes(names, assignments, device, say)
    say_cost(recipes, device, say)
    place = job_place(recipes, device, workers, quiet=quiet, on=on, runs=runs)
    if fresh:
        if storage is not None:
            raise click.UsageError("--fresh cannot empty a storage; name another with --storage")
        search.check_searches(recipes, runs=runs, trials=trials, seed=seed, arms=arms, fresh=True)
        begin_again(recipes, runs, "search", say, arms)
    check_locks(runs, say)
    with kept_asked(names, assignments, recipes, runs, "search"):
        found = search.search(
            recipes,
            runs=runs,
            trials=trials,
            seed=seed,
            storage=storage,
            workers=place.sharing,
            arms=arms,
            wait=wait,
            run_jobs=place.run_jobs,
            say=say,
        )
    show(found, as_json, tables.search_table)
    say(f"next: study compare --seeds {SEEDS}{repeated(names, assignments, runs)}")


@main.command("compare")
@training_options
@arms_option
@seeds_option
def compare_command(
    *,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    runs: Path,
    seed: int,
    workers: int | None,
    on: str,
    arms: tuple[str, ...],
    seeds: int,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train every arm with every seed at its frozen settings and score held-out pairs.

    Finished runs are kept; missing ones are made.
    """
    from study import compare

    say = speaker(quiet)
    recipes = chosen_recipes(names, assignments, device, say)
    say_cost(recipes, device, say)
    place = job_place(recipes, device, workers, quiet=quiet, on=on, runs=runs)
    if fresh:
        if arms:
            raise click.UsageError("--fresh sets all arms of a comparison aside; leave out --arm")
        for recipe in recipes:
            compare.plan_runs(recipe, runs=runs, seeds=seeds, seed=seed)  # or it is refused here
        begin_again(recipes, runs, "compare", say)
    check_locks(runs, say)
    with kept_asked(names, assignments, recipes, runs, "compare"):
        records = compare.compare(
            recipes,
            runs=runs,
            seeds=seeds,
            seed=seed,
            arms=arms,
            run_jobs=place.run_jobs,
            say=say,
        )
    show(records, as_json, tables.compare_table)
    say(f"next: study report --runs {shlex.quote(str(runs))}")


@main.command("claims")
@training_options
@seeds_option
def claims_command(
    *,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    runs: Path,
    seed: int,
    workers: int | None,
    on: str,
    seeds: int,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train ORPO at the fixed settings on which claims of the sources rest.

    Finished runs are kept; missing ones are made. The other claims are decided
    by the runs of `study compare`; the report gives all verdicts.
    """
    from study.run import claims as claim_runs

    say = speaker(quiet)
    recipes = chosen_recipes(names, assignments, device, say)
    say_cost(recipes, device, say)
    place = job_place(recipes, device, workers, quiet=quiet, on=on, runs=runs)
    if fresh:
        for recipe in recipes:
            claim_runs.plan_claim_runs(recipe, runs=runs, seeds=seeds, seed=seed)
        begin_again(recipes, runs, "claims", say)
    check_locks(runs, say)
    with kept_asked(names, assignments, recipes, runs, "claims"):
        records = claim_runs.make_claim_runs(
            recipes,
            runs=runs,
            seeds=seeds,
            seed=seed,
            run_jobs=place.run_jobs,
            say=say,
        )
    show(records, as_json, tables.claims_table)
    say(f"next: study report --runs {shlex.quote(str(runs))}")


@main.command("note")
@click.argument("what")
@recipes_of_records_option
@runs_option
def note_command(*, what: str, names: tuple[str, ...], runs: Path) -> None:
    """Keep beside the plan WHAT was decided after results had been seen; the report shows it.

    The commands keep by themselves what they change: seeds, settings, metrics, --fresh.
    """
    from study.records.layout import recipes_in
    from study.records.plan import note

    noted = [name for name in names or recipes_in(runs) if note(runs, name, what.rstrip("."))]
    if not noted:
        raise RecordError(f"{runs} holds no plan of a comparison to note this in; give its --runs")
    click.echo(f"noted in the plan of {listed(noted)}")


@main.command("status")
@recipes_of_records_option
@runs_option
@json_option
def status_command(names: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """List what is finished, running, queued, failed, interrupted and missing."""
    from study.cli import status
    from study.records.layout import recipes_in

    known = recipes_in(runs)
    recipes = [name if name in known else load_recipe(name).name for name in names]
    show(status.status(runs, recipes), as_json, lambda rows: tables.status_table(rows, runs))


@main.command("report")
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the records.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("paper/build"),
    show_default=True,
    help="Folder that the report is written to.",
)
@click.option(
    "--data",
    metavar="FILE",
    help="Pairs whose texts were not published with the records; the report then shows them.",
)
@click.option("--open", "show_page", is_flag=True, help="Show the page in a browser.")
@click.option("--watch", is_flag=True, help="Write it anew whenever records change, until Ctrl-C.")
def report_command(
    *, runs: Path | None, folder: Path, data: str | None, show_page: bool, watch: bool
) -> None:
    """Write report.html and, with TeX, report.pdf from records; never trains.

    Without --runs it takes runs/local once a comparison is finished there, else
    runs/published. Runs may be going on: the report says so, and with --watch
    its page renews itself.
    """
    from study.cli.texts import remember_texts

    found = (Path("runs/local"), Path("runs/published")) if runs is None else (runs,)
    remember_texts(found, data, say=speaker(quiet=False))
    arguments = [
        *(() if runs is None else ("--runs", str(runs))),
        *("--out", str(folder)),
        *(("--open",) if show_page else ()),
        *(("--watch",) if watch else ()),
    ]
    # A process of its own: the paper reads records alone, and study knows nothing of it.
    done = subprocess.run([sys.executable, "-m", "paper.build", *arguments], check=False)  # noqa: S603
    sys.exit(done.returncode)


for command in (
    *before.COMMANDS,
    reproduce.reproduce_command,
    *release.COMMANDS,
    *judging.COMMANDS,
    *cluster.COMMANDS,
):
    main.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
