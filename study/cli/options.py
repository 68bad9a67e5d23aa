"""Options that commands share, and what they do with them before and after their one call."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.config.environment import trackers
from study.config.recipe import Recipe, load_recipe
from study.config.seeds import SEEDS
from study.errors import ConfigError, StoppedError, StudyError, listed
from study.workers.mendable import NOT_TEXT, is_text, mendable

if TYPE_CHECKING:
    from study.workers.places import Place

LARGE, TINY = ("smollm2-1.7b", "llama-3.2-1b"), ("tiny-smollm2", "tiny-llama")


WORDS = "study.words"
"""Where the context keeps the command line as it was given."""


INTERRUPTED = 130


STOPPED = 75
"""Exit status of a command that was told to stop: sysexits.h's EX_TEMPFAIL, try again."""


CPU_FLOP_PER_S = 2e10
"""What one core does in float32, for an estimate of the right order."""


class StudyGroup(click.Group):
    """A group whose errors are one message and whose interruption is status 130."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what no record could hold, before any command reads it."""
        for text in (*args, str(Path.cwd())):
            if not is_text(text):
                raise click.UsageError(f"{text!a} is not UTF-8; {NOT_TEXT}")
        ctx.meta[WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn what a user can mend into a message."""
        from study.records.notice import noticing
        from study.workers.exchange import terminable

        try:
            with terminable(), noticing():
                return super().invoke(ctx)
        except StoppedError as error:
            click.echo(str(error), err=True)
            ctx.exit(STOPPED)
        except StudyError as error:
            raise click.ClickException(str(error)) from error
        except (OSError, RuntimeError, UnicodeEncodeError) as error:
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
        workers_option,
        click.option(
            "--on",
            default="local",
            show_default=True,
            metavar="local|ray[:ADDRESS]|slurm",
            help="Where jobs run: on this machine, on a Ray cluster's nodes, or as batch jobs.",
        ),
        click.option(
            "--fresh",
            is_flag=True,
            help="Set older records of this command aside, as FOLDER.old-TIME, and begin anew.",
        ),
        quiet_option,
        json_option,
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def storage_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a database of searches."""
    options = (
        click.option(
            "--storage",
            metavar="URL",
            help="Database shared by several machines, or grpc://HOST:PORT of `study proxy`; its "
            "password in STUDY_STORAGE_PASSWORD. [default: a journal file in --runs]",
        ),
        click.option(
            "--storage-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File of yours that holds the URL, with or without its password.",
        ),
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
    default=SEEDS,
    show_default=True,
    help="Seeds per arm or setting; the search never uses them.",
)


arms_option = click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="NAME",
    help="Only this arm of each recipe; repeatable. What it continues comes first.",
)


workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Worker processes. [default: one per GPU, or what the cores carry]",
)


quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


def recipe_of_records_option(*, required: bool = False) -> Callable[..., Any]:
    """Return the option of a recipe that has records."""
    return click.option(
        "--recipe", metavar="NAME", required=required, help="Recipe with records in --runs."
    )


recipes_of_records_option = click.option(
    "--recipe", "names", multiple=True, metavar="NAME", help="Only this one; repeatable."
)


trained_arms_option = click.option(
    "--arm", "arms", multiple=True, metavar="ARM", help="Repeatable. [default: all]"
)


seed_of_run_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Seed. [default: best by validation]"
)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def chosen_recipes(
    names: Sequence[str],
    assignments: Sequence[str],
    device: str = "cpu",
    say: Callable[[str], None] = click.echo,
) -> list[Recipe]:
    """Load the recipes asked for, or the default ones, and say which."""
    if not names:
        from study.workers.devices import cuda_devices

        cuda = device != "cpu" and bool(cuda_devices())
        names = LARGE if cuda else TINY
        say(
            f"recipes: {listed(names)}, because "
            f"{'a' if cuda else 'no'} CUDA device is used; choose with --recipe"
        )
    recipes = [load_recipe(name).override(assignments) for name in dict.fromkeys(names)]
    folders = [recipe.name for recipe in recipes]
    doubled = sorted({name for name in folders if folders.count(name) > 1})
    if doubled:
        raise ConfigError(f"two recipes are named {doubled[0]!r}; rename one, or give only one")
    return recipes


def begin_again(
    recipes: Sequence[Recipe],
    runs: Path,
    part: str,
    say: Callable[[str], None],
    arms: Sequence[str] = (),
) -> None:
    """Begin a part of every recipe afresh and say where the old records are.

    Nothing is set aside where one of them is in use; what else a command may refuse is
    for its caller to check first. A search that is begun again beside a comparison is
    noted in that one's plan; a comparison's own plan finds what was set aside by itself.
    With ``arms`` their folders alone are set aside.
    """
    from study.records.folders import begin_afresh, check_idle
    from study.records.plan import note
    from study.records.processes import agree, is_main
    from study.records.sharing import check_alike

    old = [
        (recipe.name, arm, runs / recipe.name / part / (arm or ""))
        for recipe in (recipes if is_main() else ())
        for arm in arms or (None,)
    ]
    for recipe in recipes if is_main() else ():
        check_alike(runs, recipe)
    for _, _, folder in old:
        check_idle(folder)
    for name, arm, folder in old:
        kept = begin_afresh(folder)
        if kept is None:
            continue
        say(f"the old records of {name} are kept in {kept}")
        if part == "search":
            what = "search" if arm is None else f"search of {arm}"
            note(runs, name, f"the {what} was set aside and begun again")
    agree(True)  # processes that train together wait for the first one


@contextmanager
def kept_asked(
    names: Sequence[str],
    assignments: Sequence[str],
    recipes: Sequence[Recipe],
    runs: Path,
    part: str,
) -> Iterator[None]:
    """Keep with the records how their recipes were asked for.

    New records keep it at once. Others do once the block has gone well: before,
    the command may be refused, because its recipe differs from theirs.
    """
    from study.records.asked import keep_asked
    from study.records.processes import is_main

    asked = dict(zip((recipe.name for recipe in recipes), dict.fromkeys(names), strict=False))

    def keep(known: Sequence[str]) -> None:
        for recipe in known if is_main() else ():
            keep_asked(runs, recipe, part, name=asked[recipe], assignments=assignments)

    keep([recipe for recipe in asked if not (runs / recipe / part).exists()])
    yield
    keep(list(asked))


def check_locks(runs: Path, say: Callable[[str], None]) -> None:
    """Try the locks in a folder of records, and say where they do not reach other hosts.

    Raises:
        RecordError: they keep nobody out even here.
    """
    from study.records.mounts import reach_of, try_locks
    from study.records.processes import is_main

    if not is_main():
        return
    try_locks(runs)
    reach = reach_of(runs)
    if reach is not None and reach.known in ("one host", "unclear"):
        say(f"on one host all is well; for several: {reach}")


def job_place(
    recipes: Sequence[Recipe],
    device: str,
    workers: int | None,
    *,
    quiet: bool,
    on: str = "local",
    runs: Path = Path(),
) -> "Place":
    """Return where jobs run; a cluster may run this very command."""
    from study.workers.places import Ask, open_place

    trackers()  # refused here where one is unknown, before a model is loaded
    context = click.get_current_context(silent=True)
    words = [] if context is None else context.find_root().meta.get(WORDS, [])
    ask = Ask(recipes=recipes, device=device, workers=workers, quiet=quiet, runs=runs, words=words)
    return open_place(on, ask)


def say_cost(recipes: Sequence[Recipe], device: str, say: Callable[[str], None]) -> None:
    """Say what full-size recipes cost without a GPU, before anything is loaded."""
    from study.workers.devices import cuda_devices

    hub = [r for r in recipes if ":" not in r.model.name and not Path(r.model.name).exists()]
    if not hub or (device != "cpu" and cuda_devices()):
        return
    from study.cli import doctor

    for recipe in hub:
        needs = doctor.describe(recipe, "cpu")["recipe"]
        tokens = max(run["tokens"] for run in needs["runs"].values())
        n_flop = 4 * needs["parameters"]["base"] * tokens
        hours = n_flop / (CPU_FLOP_PER_S * (os.cpu_count() or 1) * 3600)
        say(
            f"{recipe.name} on the CPU: up to {needs['memory_bytes']['total'] / 2**30:.0f} GiB of "
            f"memory and, at worst, some {hours:,.0f} hours for each run"
        )


def speaker(quiet: bool) -> Callable[[str], None]:
    """Return what says a line to the user, or nothing."""
    from study.records.processes import is_main

    return lambda text: click.echo(text, err=True) if is_main() and not quiet else None


def repeated(names: Sequence[str], assignments: Sequence[str], runs: Path) -> str:
    """Repeat the options that the next command needs, quoted for a shell."""
    import shlex

    options = [("--recipe", name) for name in names] + [("--set", text) for text in assignments]
    if runs != Path("runs/local"):
        options.append(("--runs", str(runs)))
    return "".join(f" {option} {shlex.quote(value)}" for option, value in options)


def show(value: Any, as_json: bool, to_text: Callable[[Any], str]) -> None:
    """Print a value as JSON or as text, once."""
    from study.records.processes import is_main

    text = json.dumps(value, indent=2, ensure_ascii=False) if as_json else to_text(value)
    if is_main():
        click.echo(text)
