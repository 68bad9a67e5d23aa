"""Commands for several machines: batch jobs, a proxy in front of a database, the dashboard."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from study.cli.options import runs_option, speaker, storage_options
from study.config.recipe import load_recipe
from study.errors import ConfigError, nearest, require

ARRAY = re.compile(r"([1-9]\d*)(?:%([1-9]\d*))?")


@click.command("submit")
@click.option("--slurm", "with_slurm", is_flag=True, help="Hand the command to Slurm.")
@click.option(
    "--array",
    default="1",
    show_default=True,
    metavar="N[%M]",
    help="Tasks that share the work, M of them at a time.",
)
@click.option("--partition", metavar="NAME", help="Partition. [default: the cluster's]")
@click.option("--time", metavar="TIME", help="Limit of each task, such as 4:00:00.")
@click.option("--gpus", metavar="[TYPE:]N", help="GPUs of each task.")
@click.option("--cpus", type=click.IntRange(min=1), help="Cores of each task.")
@click.option("--mem", metavar="SIZE", help="Memory of each task, such as 32G.")
@click.option(
    "--notice",
    type=click.IntRange(min=10),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="How long before the limit a task saves checkpoints and is put back into the queue.",
)
@click.option(
    "--sbatch",
    "options",
    multiple=True,
    metavar="OPTION",
    help="Any option of sbatch, such as --sbatch=--account=me; repeatable.",
)
@click.option(
    "--setup",
    multiple=True,
    metavar="LINE",
    help="Line of shell that comes first, such as 'module load cuda'; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Write the batch script, submit nothing.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND ...")
@click.pass_context
def submit_command(
    context: click.Context,
    *,
    with_slurm: bool,
    array: str,
    partition: str | None,
    time: str | None,
    gpus: str | None,
    cpus: int | None,
    mem: str | None,
    notice: int,
    options: tuple[str, ...],
    setup: tuple[str, ...],
    dry_run: bool,
    words: tuple[str, ...],
) -> None:
    """Run COMMAND (search, compare, claims, reproduce, benchmark) as batch jobs on one --runs.

    All tasks run it as it stands and share the work. A task whose time runs out
    saves checkpoints and is put back into the queue; what was finished is kept.
    """
    from study.workers import slurm

    if not with_slurm:
        raise click.UsageError("say where to: study submit --slurm ...")
    number = ARRAY.fullmatch(array)
    if number is None:
        raise click.UsageError(f"--array is {array!r}; it is a number of tasks, such as 8 or 8%4")
    wanted = slurm.Wanted(
        tasks=int(number[1]),
        at_once=None if number[2] is None else int(number[2]),
        partition=partition,
        time=time,
        gpus=gpus,
        cpus=cpus,
        memory=mem,
        notice_s=notice,
        options=options,
        setup=setup,
    )
    given, recipes, runs = _checked(context, words[1:] if words[0] == "study" else words)
    require(
        given[0] != "benchmark" or wanted.tasks == 1,
        "study benchmark runs in one process; leave out --array",
    )
    _check_folder(runs, wanted.tasks)
    path = slurm.write_script(runs, given, wanted, recipes)
    if dry_run:
        click.echo(f"{path.read_text(encoding='utf-8')}\nwritten to {path}; nothing was submitted")
        return
    job = slurm.submit(path)
    n_tasks = "1 task" if wanted.tasks == 1 else f"{wanted.tasks} tasks"
    click.echo(f"submitted job {job} with {n_tasks}; script and logs: {path.parent}")
    click.echo(f"next: study status --runs {shlex.quote(str(runs))}")


def _checked(context: click.Context, words: Sequence[str]) -> tuple[list[str], list[str], Path]:
    """Parse a command as its tasks will; return it, its recipes and its folder of records.

    Raises:
        ConfigError: it cannot be run again and again by several tasks.
    """
    from study.search.database import BETTER, has_password
    from study.workers.slurm import COMMANDS

    name, *rest = words
    group = context.find_root().command
    assert isinstance(group, click.Group)
    require(
        name in COMMANDS,
        f"study submit takes {', '.join(COMMANDS)}, not {name!r}{nearest(name, COMMANDS)}",
    )
    asked = group.commands[name].make_context(name, list(rest), parent=context).params
    named = [asked["recipe"]] if "recipe" in asked else list(asked["names"])
    require(
        bool(named),
        "name the recipes with --recipe: which ones are the default depends on the GPUs of the "
        "machine that asks, and a task may see others than this one",
    )
    require(
        not asked.get("fresh"),
        "every task would set the records of the others aside: give --fresh to a command of "
        f"your own first, `study {name} --fresh ...`, or name a new --runs",
    )
    require(
        not asked.get("storage") or not has_password(asked["storage"]),
        f"the batch script would hold the password that is in --storage: {BETTER}",
    )
    if name != "benchmark":
        for one in named:
            load_recipe(one).override(asked["assignments"])
    waits = ["--wait"] if name == "search" and not asked["wait"] else []
    return [name, *rest, *waits], named, asked["runs"]


def _check_folder(runs: Path, n_tasks: int) -> None:
    """Refuse a folder whose locks are known to end at each host, doubt others aloud.

    Raises:
        ConfigError: several tasks would share it.
    """
    from study.records.mounts import reach_of, try_locks

    try_locks(runs)
    reach = reach_of(runs)
    if reach is None or reach.known == "all hosts":
        return
    if reach.known == "one host" and n_tasks > 1:
        raise ConfigError(str(reach))
    click.echo(f"if tasks run on other hosts than this: {reach}", err=True)


@click.command("proxy")
@storage_options
@click.option("--host", default="localhost", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=13000,
    show_default=True,
    help="Port to listen on.",
)
def proxy_command(*, storage: str | None, storage_file: Path | None, host: str, port: int) -> None:
    """Run Optuna's gRPC proxy in front of a database, until Ctrl-C.

    Machines search with --storage grpc://HOST:PORT; the database has one client. The
    proxy asks for no password: let only machines that you trust reach it.
    """
    from study.search.database import chosen_storage
    from study.search.proxy import serve

    given = chosen_storage(storage, storage_file, say=speaker(quiet=False))
    if given is None:
        raise click.UsageError("say in front of which database: --storage or --storage-file")
    serve(given, host=host, port=port, say=click.echo)


@click.command("dashboard")
@runs_option
@storage_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on.",
)
@click.option("--open", "show_page", is_flag=True, help="Show the page in a browser.")
def dashboard_command(
    *,
    runs: Path,
    storage: str | None,
    storage_file: Path | None,
    host: str,
    port: int,
    show_page: bool,
) -> None:
    """Show all searches live in optuna-dashboard, until Ctrl-C; changes nothing.

    Searches are those of --runs and, with --storage, of a database.
    """
    from study.search.dashboard import serving
    from study.search.database import chosen_storage

    given = chosen_storage(storage, storage_file, say=speaker(quiet=False))
    storages = [] if given is None else [given]
    with serving(runs, storages, host=host, port=port) as (address, wait):
        click.echo(f"the searches of {runs} are shown at {address} until Ctrl-C")
        if show_page:
            click.launch(address)
        try:
            wait()
        except KeyboardInterrupt:
            click.echo("\nthe dashboard is closed", err=True)


COMMANDS = (submit_command, proxy_command, dashboard_command)
"""What `study.cli.commands` adds to `study`."""
