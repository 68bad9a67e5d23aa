"""The command line: parse, make one call, print what it returns."""

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study import __version__, tables
from study.bench import PARTS as BENCH_PARTS
from study.config import Recipe, load_recipe, recipe_names
from study.environment import quieten
from study.errors import ConfigError, StudyError
from study.records import BENCH

if TYPE_CHECKING:
    from study.jobs import Job

LARGE, TINY = ("smollm2-1.7b", "llama-3.2-1b"), ("tiny-smollm2", "tiny-llama")
INTERRUPTED = 130
CPU_FLOP_PER_S = 2e10
"""What one core does in float32, for an estimate of the right order."""


class StudyGroup(click.Group):
    """A group whose errors are one message and whose interruption is status 130."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn what a user can mend into a message."""
        from study.jobs import mendable, terminable

        try:
            with terminable():
                return super().invoke(ctx)
        except StudyError as error:
            raise click.ClickException(str(error)) from error
        except (OSError, RuntimeError) as error:
            message = mendable(error)
            if message is None:
                raise
            raise click.ClickException(message) from error
        except KeyboardInterrupt:
            click.echo(
                "\ninterrupted; what was finished is kept, the same command goes on from there",
                err=True,
            )
            ctx.exit(INTERRUPTED)


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command with recipes takes."""
    options = (
        click.option(
            "--recipe",
            "names",
            multiple=True,
            metavar="NAME|FILE.toml",
            help="Shipped recipe or a file of yours; repeatable. "
            "[default: the two full-size ones with a CUDA device, else the two tiny ones]",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.FIELD=VALUE",
            help="Override a field of every recipe, e.g. training.max_steps=50; repeatable.",
        ),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the commands that train."""
    options = (
        recipe_options,
        device_option,
        runs_option,
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Study seed."
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Worker processes. [default: one per GPU, or what the cores carry]",
        ),
        click.option(
            "--fresh",
            is_flag=True,
            help="Set older records of this command aside, as FOLDER.old-TIME, and begin anew.",
        ),
        click.option("--quiet", is_flag=True, help="Show no progress."),
        json_option,
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N", help="Device."
)
runs_option = click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/local"),
    show_default=True,
    help="Folder of the records.",
)
seeds_option = click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Seeds per arm or setting; the search never uses them.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=StudyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="study")
def main() -> None:
    """Compare SFT and ORPO on small models: search settings, train seeds, keep records."""
    quieten()


@main.command("search")
@training_options
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Finished trials per arm, in total over all starts. [default: the recipe's]",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Optuna storage shared by several machines. [default: a journal file in --runs]",
)
def search_command(
    *,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    runs: Path,
    seed: int,
    workers: int | None,
    trials: int | None,
    storage: str | None,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Search each arm's settings, repeat the best with fresh seeds, freeze the winner.

    Started again, it goes on to the total number of trials.
    """
    from study import launch, search

    launch.refuse("search")
    say = _speaker(quiet)
    recipes = _recipes(names, assignments, device, say)
    _say_cost(recipes, device, say)
    if fresh:
        if storage is not None:
            raise click.UsageError("--fresh cannot empty a storage; name another with --storage")
        _set_aside(recipes, runs, "search", say)
    n_arms = sum(len(recipe.search.space) for recipe in recipes)
    found = search.search(
        recipes,
        runs=runs,
        trials=trials,
        seed=seed,
        storage=storage,
        sharing=max(1, math.ceil((workers or 1) / max(1, n_arms))),
        run_jobs=_runner(recipes, device, workers, quiet),
        say=say,
    )
    _print(found, as_json, tables.search_table)
    say(f"next: study compare --seeds 3{_repeated(names, assignments, runs)}")


@main.command("compare")
@training_options
@seeds_option
def compare_command(
    *,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    device: str,
    runs: Path,
    seed: int,
    workers: int | None,
    seeds: int,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train every arm with every seed at its frozen settings and score held-out pairs.

    Finished runs are kept; missing ones are made.
    """
    from study import compare

    say = _speaker(quiet)
    recipes = _recipes(names, assignments, device, say)
    _say_cost(recipes, device, say)
    if fresh:
        _set_aside(recipes, runs, "compare", say)
    records = compare.compare(
        recipes,
        runs=runs,
        seeds=seeds,
        seed=seed,
        run_jobs=_runner(recipes, device, workers, quiet),
        say=say,
    )
    _print(records, as_json, tables.compare_table)
    say(f"next: python -m paper.build --runs {runs}")


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
    seeds: int,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train ORPO at the fixed settings on which claims of the sources rest.

    Finished runs are kept; missing ones are made. The other claims are decided
    by the runs of `study compare`; the report gives all verdicts.
    """
    from study import claim_runs

    say = _speaker(quiet)
    recipes = _recipes(names, assignments, device, say)
    _say_cost(recipes, device, say)
    if fresh:
        _set_aside(recipes, runs, "claims", say)
    records = claim_runs.make_claim_runs(
        recipes,
        runs=runs,
        seeds=seeds,
        seed=seed,
        run_jobs=_runner(recipes, device, workers, quiet),
        say=say,
    )
    _print(records, as_json, tables.claims_table)
    say(f"next: python -m paper.build --runs {runs}")


@main.command("status")
@click.option("--recipe", "names", multiple=True, metavar="NAME", help="Only this one; repeatable.")
@runs_option
@json_option
def status_command(names: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """List what is finished, running, queued, failed, interrupted and missing."""
    from study import status
    from study.records import recipes_in

    known = recipes_in(runs)
    recipes = [name if name in known else load_recipe(name).name for name in names]
    _print(status.status(runs, recipes), as_json, lambda rows: tables.status_table(rows, runs))


@main.command("doctor")
@recipe_options
@device_option
@json_option
def doctor_command(
    *, names: tuple[str, ...], assignments: tuple[str, ...], device: str, as_json: bool
) -> None:
    """Say what this machine can do, and what a recipe costs on it."""
    from study import doctor

    recipes = [load_recipe(name).override(assignments) for name in names]
    reports = [doctor.describe(recipe, device) for recipe in recipes or (None,)]
    _print(reports, as_json, lambda found: "\n\n".join(doctor.as_text(report) for report in found))


@main.command("recipes")
@json_option
def recipes_command(as_json: bool) -> None:
    """List the shipped recipes."""
    rows = [
        {"recipe": name, "description": load_recipe(name).description} for name in recipe_names()
    ]
    _print(rows, as_json, lambda found: tables.table(["recipe", "description"], found))


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

    Nothing else should run meanwhile: some twenty minutes on two quiet cores.
    """
    from study import bench

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
    from study import datacheck

    if len(names) > 1:
        raise click.UsageError("data check takes one --recipe: its tokenizer and its limits")
    (recipe,) = _recipes(names or TINY[:1], (*assignments, f"data.name={json.dumps(source)}"))
    report = datacheck.check(recipe)
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else datacheck.as_text(report))


def _recipes(
    names: Sequence[str],
    assignments: Sequence[str],
    device: str = "cpu",
    say: Callable[[str], None] = click.echo,
) -> list[Recipe]:
    """Load the recipes asked for, or the default ones, and say which."""
    if not names:
        from study.devices import cuda_devices

        cuda = device != "cpu" and bool(cuda_devices())
        names = LARGE if cuda else TINY
        say(
            f"recipes: {' and '.join(names)}, because "
            f"{'a' if cuda else 'no'} CUDA device is used; choose with --recipe"
        )
    recipes = [load_recipe(name).override(assignments) for name in dict.fromkeys(names)]
    folders = [recipe.name for recipe in recipes]
    doubled = sorted({name for name in folders if folders.count(name) > 1})
    if doubled:
        raise ConfigError(f"two recipes are named {doubled[0]!r}; rename one, or give only one")
    return recipes


def _set_aside(
    recipes: Sequence[Recipe], runs: Path, part: str, say: Callable[[str], None]
) -> None:
    """Begin a part of every recipe afresh and say where the old records are."""
    from study.launch import agree, is_main
    from study.records import begin_afresh

    for recipe in recipes if is_main() else ():
        if kept := begin_afresh(runs / recipe.name / part):
            say(f"the old records of {recipe.name} are kept in {kept}")
    agree(True)  # processes that train together wait for the first one


def _runner(
    recipes: Sequence[Recipe], device: str, workers: int | None, quiet: bool
) -> Callable[[Sequence["Job"]], list[Any]]:
    from study import launch
    from study.devices import plan_slots
    from study.jobs import run_jobs

    if launch.n_processes() > 1:
        return functools.partial(launch.run_here, device=device)
    slots = plan_slots(recipes, device=device, workers=workers)
    return functools.partial(run_jobs, slots=slots, quiet=quiet)


def _say_cost(recipes: Sequence[Recipe], device: str, say: Callable[[str], None]) -> None:
    """Say what full-size recipes cost without a GPU, before anything is loaded."""
    from study.devices import cuda_devices

    hub = [r for r in recipes if ":" not in r.model.name and not Path(r.model.name).exists()]
    if not hub or (device != "cpu" and cuda_devices()):
        return
    from study import doctor

    for recipe in hub:
        needs = doctor.describe(recipe, "cpu")["recipe"]
        training, tokens = recipe.training, 2 * recipe.data.max_length_tokens
        n_flop = 4 * needs["parameters"]["base"] * tokens * training.batch_pairs
        hours = n_flop * training.max_steps / (CPU_FLOP_PER_S * (os.cpu_count() or 1) * 3600)
        say(
            f"{recipe.name} on the CPU: up to {needs['memory_bytes']['total'] / 2**30:.0f} GiB of "
            f"memory and, at worst, some {hours:,.0f} hours for each run"
        )


def _speaker(quiet: bool) -> Callable[[str], None]:
    from study.launch import is_main

    return lambda text: click.echo(text, err=True) if is_main() and not quiet else None


def _repeated(names: Sequence[str], assignments: Sequence[str], runs: Path) -> str:
    """Repeat the options that the next command needs, quoted for a shell."""
    import shlex

    options = [("--recipe", name) for name in names] + [("--set", text) for text in assignments]
    if runs != Path("runs/local"):
        options.append(("--runs", str(runs)))
    return "".join(f" {option} {shlex.quote(value)}" for option, value in options)


def _print(value: Any, as_json: bool, to_text: Callable[[Any], str]) -> None:
    from study.launch import is_main

    text = json.dumps(value, indent=2, ensure_ascii=False) if as_json else to_text(value)
    if is_main():
        click.echo(text)


if __name__ == "__main__":
    sys.exit(main())
