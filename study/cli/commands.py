"""The command line: parse, make one call, print what it returns."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click

from study import __version__
from study.cli import cluster, judging, release, reproduce, tables
from study.cli.bench.parts import PARTS as BENCH_PARTS
from study.cli.options import (
    TINY,
    StudyGroup,
    arms_option,
    begin_again,
    check_locks,
    chosen_recipes,
    device_option,
    job_place,
    json_option,
    kept_asked,
    recipe_options,
    recipes_of_records_option,
    repeated,
    runs_option,
    say_cost,
    seeds_option,
    show,
    speaker,
    storage_options,
    training_options,
    workers_option,
)
from study.config.environment import quieten
from study.config.files import recipe_names
from study.config.recipe import load_recipe
from study.config.seeds import SEEDS
from study.errors import RecordError, listed
from study.records.layout import BENCH


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
    if fresh:
        if storage is not None:
            raise click.UsageError("--fresh cannot empty a storage; name another with --storage")
        search.check_searches(recipes, runs=runs, trials=trials, seed=seed, arms=arms, fresh=True)
        begin_again(recipes, runs, "search", say, arms)
    place = job_place(recipes, device, workers, quiet=quiet, on=on, runs=runs)
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
    if fresh:
        if arms:
            raise click.UsageError("--fresh sets all arms of a comparison aside; leave out --arm")
        for recipe in recipes:
            compare.plan_runs(recipe, runs=runs, seeds=seeds, seed=seed)  # or it is refused here
        begin_again(recipes, runs, "compare", say)
    place = job_place(recipes, device, workers, quiet=quiet, on=on, runs=runs)
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
    if fresh:
        for recipe in recipes:
            claim_runs.plan_claim_runs(recipe, runs=runs, seeds=seeds, seed=seed)
        begin_again(recipes, runs, "claims", say)
    place = job_place(recipes, device, workers, quiet=quiet, on=on, runs=runs)
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


@main.command("doctor")
@recipe_options
@device_option
@click.option(
    "--data",
    metavar="FILE",
    help="Pairs to time a step of every arm on, to say how long search and compare take.",
)
@workers_option
@json_option
def doctor_command(
    *,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    data: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Say what this machine can do, and what a recipe costs on it.

    With --data it loads the recipe's model, fetching it where that is needed,
    and times real steps, with --workers N in so many workers side by side;
    nothing is kept.
    """
    from study.cli import doctor

    if data is not None and not names:
        raise click.UsageError("--data times a recipe: name it with --recipe")
    if workers is not None and data is None:
        raise click.UsageError("--workers are timed on pairs: name them with --data")
    if data is not None:
        assignments = (*assignments, f"data.name={json.dumps(data)}")
    recipes = [load_recipe(name).override(assignments) for name in names]
    reports = [
        doctor.describe(one, device, timed=data is not None, workers=workers)
        for one in recipes or (None,)
    ]
    show(reports, as_json, lambda found: "\n\n".join(doctor.as_text(report) for report in found))


@main.command("recipes")
@json_option
def recipes_command(as_json: bool) -> None:
    """List the shipped recipes."""
    rows = [
        {"recipe": name, "description": load_recipe(name).description} for name in recipe_names()
    ]
    show(rows, as_json, lambda found: tables.table(["recipe", "description"], found))


@main.command("bench")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("../shared/data"),
    show_default=True,
    metavar="FOLDER",
    help="Folder of real pairs; without its files, generated pairs of the same lengths are used.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("runs/local") / BENCH,
    show_default=True,
    metavar="FILE.json",
    help="Where figures go; parts that stand there and are not measured are kept.",
)
@click.option(
    "--only",
    "parts",
    type=click.Choice(BENCH_PARTS),
    multiple=True,
    help="Measure this part alone; repeatable. [default: all]",
)
@click.option("--quick", is_flag=True, help="Show that everything runs, on short batches.")
def bench_command(*, data: Path, out: Path, parts: tuple[str, ...], quick: bool) -> None:
    """Time training, evaluation and search beside TRL's, and measure memory.

    Nothing else should run meanwhile: some twenty minutes on two quiet cores, and
    longer for `--only scale`, what the study itself costs with many trials, runs
    and pairs.
    """
    from study.cli.bench import parts as bench

    bench.bench(data=data, out=out, parts=parts or BENCH_PARTS, quick=quick, say=click.echo)
    click.echo(f"the report shows {out} where it lies beside its records")


@main.group("data")
def data_group() -> None:
    """Look at preference data before training on them."""


@data_group.command("check")
@click.argument("source")
@recipe_options
@json_option
def data_check_command(
    *,
    source: str,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Read SOURCE (Hub id, file, folder or `toy`); show its form, counts and one example."""
    from study.cli import datacheck

    if len(names) > 1:
        raise click.UsageError("data check takes one --recipe: its tokenizer and its limits")
    (recipe,) = chosen_recipes(names or TINY[:1], (*assignments, f"data.name={json.dumps(source)}"))
    report = datacheck.check(recipe)
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else datacheck.as_text(report))


for command in (
    reproduce.reproduce_command,
    *release.COMMANDS,
    *judging.COMMANDS,
    *cluster.COMMANDS,
):
    main.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
