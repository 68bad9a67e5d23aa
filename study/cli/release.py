"""Commands that use finished runs: models, answers and benchmark scores."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from study.cli import tables
from study.cli.options import (
    device_option,
    json_option,
    quiet_option,
    recipe_of_records_option,
    runs_option,
    seed_of_run_option,
    show,
    speaker,
    trained_arms_option,
)


def _one_run(command: Any) -> Any:
    """Add what names one run."""
    for option in (
        seed_of_run_option,
        click.option("--arm", metavar="ARM", help="Arm, e.g. orpo."),
        recipe_of_records_option(),
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
@quiet_option
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


@click.command("generate")
@click.argument("run", required=False, type=click.Path(file_okay=False, path_type=Path))
@recipe_of_records_option()
@trained_arms_option
@seed_of_run_option
@click.option(
    "--prompts",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File: a prompt a line, or JSON Lines with `prompt` or `messages`. [default: a chat]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --prompts: JSON Lines to write. [default: the terminal]",
)
@click.option("--tokens", type=click.IntRange(min=1), help="New tokens. [default: the recipe's]")
@runs_option
@device_option
@json_option
def generate_command(
    *,
    run: Path | None,
    recipe: str | None,
    arms: tuple[str, ...],
    seed: int | None,
    prompts: Path | None,
    out: Path | None,
    tokens: int | None,
    runs: Path,
    device: str,
    as_json: bool,
) -> None:
    """Chat with trained models, or answer a file of prompts; several arms side by side.

    Answers are greedy. In a chat /new begins again and /quit ends.
    """
    from study.model.base import pick_device
    from study.records.files import write_jsonl
    from study.release.answers import Answerer, chat, read_prompts
    from study.release.chosen import choose_arms, choose_run

    if out is not None and prompts is None:
        raise click.UsageError("--out keeps the answers to a file; add --prompts FILE")
    asked = None if prompts is None else read_prompts(prompts)
    if run is not None:
        chosen = [choose_run(run, runs=runs)]
    elif recipe is not None:
        chosen = choose_arms(arms, runs=runs, recipe=recipe, seed=seed)
    else:
        raise click.UsageError("name a run's folder, or --recipe")
    answerer = Answerer(chosen, device=pick_device(device), limit=tokens)
    if asked is None:
        for one in chosen:
            click.echo(f"{one.name}, {one.why}", err=True)
        chat(answerer, sys.stdin, click.echo)
        return
    rows = answerer.side_by_side(asked)
    if out is None:
        show(rows, as_json, tables.answers_text)
    else:
        write_jsonl(out, rows)
        click.echo(f"{len(rows)} prompts answered by {', '.join(answerer.runs)} in {out}", err=True)


@click.command("benchmark")
@recipe_of_records_option(required=True)
@trained_arms_option
@click.option("--group", metavar="NAME", help="embedded, quick or article-c. [default: by model]")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="A task instead; repeatable.")
@click.option(
    "--include",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Folder with task files of yours.",
)
@click.option("--chat/--no-chat", default=False, help="With --task: use the chat template.")
@click.option(
    "--form",
    "forms",
    type=click.Choice(["adapter", "merged"]),
    multiple=True,
    default=("adapter",),
    show_default=True,
    help="The adapter on its base, or the merged export; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Items per task at most. [default: all]")
@runs_option
@device_option
@quiet_option
@json_option
def benchmark_command(
    *,
    recipe: str,
    arms: tuple[str, ...],
    group: str | None,
    tasks: tuple[str, ...],
    include: Path | None,
    chat: bool,
    forms: Any,
    limit: int | None,
    runs: Path,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Score every finished run of a comparison on public or own tasks, item by item.

    Tasks that are scored already are kept; the report compares the arms.
    """
    from study.model.base import pick_device
    from study.release.benchmark import How, benchmark
    from study.release.chosen import all_runs
    from study.release.tasks import group_of

    chosen = all_runs(arms, runs=runs, recipe=recipe)
    wanted = group_of(group, tasks=tasks, model=chosen[0].recipe.model.name, chat=chat)
    how = How(group=wanted, limit=limit, include=include, device=pick_device(device))
    say = speaker(quiet)
    if wanted.about:
        say(f"{wanted.name}: {wanted.about}")
    show(benchmark(chosen, how, forms=forms, say=say), as_json, tables.benchmark_table)
    say(f"next: study report --runs {shlex.quote(str(runs))}")


COMMANDS = (export_command, generate_command, benchmark_command)
"""What `study.cli.commands` adds to `study`."""
