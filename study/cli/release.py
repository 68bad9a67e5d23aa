"""Commands that use finished runs: models, answers and benchmark scores."""

from pathlib import Path
from typing import Any

import click

from study.cli import tables
from study.cli.options import device_option, json_option, runs_option, show, speaker


def _one_run(command: Any) -> Any:
    """Add what names one run."""
    for option in (
        click.option(
            "--seed", type=click.IntRange(min=0), help="Seed. [default: best by validation]"
        ),
        click.option("--arm", metavar="ARM", help="Arm, e.g. orpo."),
        click.option("--recipe", metavar="NAME", help="Recipe with records in --runs."),
        click.argument("run", required=False, type=click.Path(file_okay=False, path_type=Path)),
    ):
        command = option(command)
    return command


@click.command("export")
@_one_run
@click.option("--merged", is_flag=True, help="Merge the adapter into its base.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "base"]),
    default="bfloat16",
    show_default=True,
    help="Of merged weights; `base` keeps each weight's own.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write. [default: below the recipe's records]",
)
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Held-out pairs that are scored before and after.",
)
@click.option(
    "--answers",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Prompts that are answered before and after.",
)
@click.option("--force", is_flag=True, help="Export even what is not the model that was trained.")
@click.option("--push", metavar="OWNER/NAME", help="Push to the Hub, private unless --public.")
@click.option("--public", is_flag=True, help="With --push: for all to see.")
@click.option("--gguf", is_flag=True, help="With --merged: also a GGUF file for llama.cpp.")
@runs_option
@device_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
def export_command(
    *,
    run: Path | None,
    recipe: str | None,
    arm: str | None,
    seed: int | None,
    merged: bool,
    dtype: Any,
    out: Path | None,
    pairs: int,
    answers: int,
    force: bool,
    push: str | None,
    public: bool,
    gguf: bool,
    runs: Path,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the model of RUN, a run's folder, so that others can load it.

    It is read back from disk and scored against the adapter on its base; one that
    differs by what matters is not exported. A model card is written beside it.
    """
    from study.model.base import pick_device
    from study.release.chosen import choose_run
    from study.release.export import Wanted, export

    if gguf and not merged:
        raise click.UsageError("--gguf converts a merged model; add --merged")
    if public and push is None:
        raise click.UsageError("--public says how to --push; add --push OWNER/NAME")
    chosen = choose_run(run, runs=runs, recipe=recipe, arm=arm, seed=seed)
    wanted = Wanted(
        form="merged" if merged else "adapter",
        out=out,
        dtype=dtype,
        n_pairs=pairs,
        n_answers=answers,
        force=force,
        push=push,
        public=public,
        gguf=gguf,
        device=pick_device(device),
    )
    record = export(chosen, wanted, say=speaker(quiet))
    show(record, as_json, tables.release_table)


COMMANDS = (export_command,)
"""What `study.cli.commands` adds to `study`."""
