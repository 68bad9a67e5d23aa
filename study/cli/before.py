"""Commands that look before a study begins: the machine, recipes, costs and data."""

import json
from pathlib import Path

import click

from study.cli import tables
from study.cli.bench.parts import PARTS as BENCH_PARTS
from study.cli.options import (
    TINY,
    chosen_recipes,
    device_option,
    json_option,
    recipe_options,
    show,
    workers_option,
)
from study.config.files import recipe_names
from study.config.recipe import load_recipe
from study.records.layout import BENCH


@click.command("doctor")
@recipe_options
@device_option
@click.option(
    "--data",
    metavar="FILE",
    help="Pairs to time a step of every arm on, to say how long search and compare take.",
)
@click.option(
    "--devices",
    metavar="N",
    type=click.IntRange(min=1),
    help="Plan the recipe for N cards that share its base, on paper.",
)
@workers_option
@json_option
def doctor_command(
    *,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    data: str | None,
    devices: int | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Say what this machine can do, and what a recipe costs on it.

    With --data it loads the recipe's model, fetching it where that is needed,
    and times real steps, with --workers N in so many workers side by side;
    nothing is kept. With --devices it works out what each of N cards would hold
    (training.sharding = "fsdp"), whether they are here or not.
    """
    from study.cli import doctor

    if data is not None and not names:
        raise click.UsageError("--data times a recipe: name it with --recipe")
    if devices is not None and not names:
        raise click.UsageError("--devices are planned for a recipe: name it with --recipe")
    if workers is not None and data is None:
        raise click.UsageError("--workers are timed on pairs: name them with --data")
    if data is not None:
        assignments = (*assignments, f"data.name={json.dumps(data)}")
    recipes = [load_recipe(name).override(assignments) for name in names]
    reports = [
        doctor.describe(one, device, timed=data is not None, workers=workers, devices=devices)
        for one in recipes or (None,)
    ]
    show(reports, as_json, lambda found: "\n\n".join(doctor.as_text(report) for report in found))


@click.command("recipes")
@json_option
def recipes_command(as_json: bool) -> None:
    """List the shipped recipes."""
    rows = [
        {"recipe": name, "description": load_recipe(name).description} for name in recipe_names()
    ]
    show(rows, as_json, lambda found: tables.table(["recipe", "description"], found))


@click.command("bench")
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


@click.group("data")
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


COMMANDS = (doctor_command, recipes_command, bench_command, data_group)
"""What `study.cli.commands` adds to `study`."""
