"""`study judge`: win rates of every arm's answers against the chosen ones."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.cli import tables
from study.cli.options import (
    device_option,
    json_option,
    quiet_option,
    recipe_of_records_option,
    runs_option,
    show,
    speaker,
    trained_arms_option,
)
from study.config.environment import judge_key
from study.errors import ConfigError

if TYPE_CHECKING:
    from study.release.judge.questions import Ahead


@click.command("judge")
@recipe_of_records_option(required=True)
@trained_arms_option
@click.option("--reward", metavar="FOLDER|ID", help="Reward model: any sequence classifier.")
@click.option("--revision", default="", metavar="COMMIT", help="Of --reward on the Hub.")
@click.option("--label", default="", metavar="LABEL", help="Of two labels the one that is better.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of --reward; `auto` is float32 on a CPU and its own elsewhere.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Answers at once."
)
@click.option("--train", is_flag=True, help="First train --reward on the training pairs alone.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of --train. [default: by base]")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Of --train. [default: by base]"
)
@click.option("--endpoint", metavar="URL", help="OpenAI-compatible, e.g. http://localhost:8000/v1.")
@click.option("--model", metavar="NAME", help="With --endpoint: the model that judges.")
@click.option(
    "--answer-tokens",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="A verdict's at most; models that reason first need hundreds.",
)
@click.option("--body", default="{}", metavar="JSON", help="Fields to add to requests; null drops.")
@click.option("--price-in", type=click.FloatRange(min=0), help="Per million tokens of prompts.")
@click.option("--price-out", type=click.FloatRange(min=0), help="Per million tokens of verdicts.")
@click.option("--max-calls", type=click.IntRange(min=1), help="Stop there; retries count.")
@click.option("--max-cost", type=click.FloatRange(min=0), help="Stop there; needs the prices.")
@click.option(
    "--parallel", type=click.IntRange(min=1), default=4, show_default=True, help="Calls at once."
)
@click.option(
    "--tries", type=click.IntRange(min=1), default=6, show_default=True, help="Of every call."
)
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=60, show_default=True, help="Seconds."
)
@click.option("--yes", is_flag=True, help="Send without asking first.")
@click.option("--limit", type=click.IntRange(min=1), help="Answers per run at most. [default: all]")
@click.option(
    "--pairs",
    type=click.IntRange(min=2),
    default=128,
    show_default=True,
    help="Held-out pairs that show how often the judge is right.",
)
@runs_option
@device_option
@quiet_option
@json_option
def judge_command(
    *,
    recipe: str,
    arms: tuple[str, ...],
    reward: str | None,
    endpoint: str | None,
    model: str | None,
    yes: bool,
    limit: int | None,
    pairs: int,
    runs: Path,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a judge compare every run's answers with the chosen ones: win rates.

    The judge is a reward model or a model behind an endpoint, whose key stands in
    the environment alone, ORPO_STUDY_JUDGE_KEY. What is judged already is kept;
    the report compares the arms, raw and at equal length.
    """
    from study.release.chosen import all_runs
    from study.release.judge.judging import judge_runs

    if (reward is None) == (endpoint is None):
        raise click.UsageError("name one judge: --reward FOLDER|ID, or --endpoint URL --model NAME")
    if (endpoint is None) != (model is None):
        raise click.UsageError("--endpoint and --model belong together")
    if options["train"] and reward is None:
        raise click.UsageError("--train makes a reward model; name its folder with --reward")
    say = speaker(quiet)
    chosen = all_runs(arms, runs=runs, recipe=recipe)
    judge = (
        _endpoint(endpoint, model or "", options)
        if endpoint is not None
        else _reward(reward or "", chosen[0].recipe, options, say)
    )

    def confirm(ahead: "Ahead") -> None:
        _confirm(ahead, options, where=judge.identity, yes=yes)

    found = judge_runs(chosen, judge, limit=limit, n_pairs=pairs, confirm=confirm, say=say)
    show({"judge": found.judge, "runs": found.runs}, as_json, tables.judge_table)
    say(f"next: study report --runs {shlex.quote(str(runs))}")


def _reward(name: str, recipe: Any, options: dict[str, Any], say: Any) -> Any:
    """Load a reward model, trained first where that was asked for."""
    from study.model.base import pick_device
    from study.release.judge.reward import Wanted, load_reward
    from study.release.judge.training import Training, train_judge

    device = pick_device(options["device"])
    if options["train"]:
        training = Training(epochs=options["epochs"], rate=options["rate"], device=device)
        train_judge(recipe, Path(name), training, say=say)
    wanted = {key: options[key] for key in ("revision", "label", "dtype", "batch")}
    return load_reward(Wanted(name=name, device=device, **wanted))


def _endpoint(url: str, model: str, options: dict[str, Any]) -> Any:
    from study.release.judge.client import Endpoint, read_body
    from study.release.judge.endpoint import open_endpoint

    taken = ("answer_tokens", "price_in", "price_out", "max_calls", "max_cost", "parallel", "tries")
    return open_endpoint(
        Endpoint(
            url=url,
            model=model,
            key=judge_key(),
            body=read_body(options["body"]),
            timeout_s=options["timeout"],
            **{name: options[name] for name in taken},
        )
    )


def _confirm(ahead: "Ahead", options: dict[str, Any], *, where: str, yes: bool) -> None:
    """Tell what asking takes, and go on only if that is wanted."""
    cost = "no prices were given" if ahead.cost is None else f"at most {ahead.cost:.4g}"
    limits = [
        f"{name} {value:g}"
        for name, value in (
            ("--max-calls", options["max_calls"]),
            ("--max-cost", options["max_cost"]),
        )
        if value is not None
    ]
    click.echo(
        f"{ahead.calls:,} calls to {where} ({ahead.kept:,} verdicts are kept already): some "
        f"{ahead.prompt_tokens:,} tokens of prompts, at most {ahead.answer_tokens:,} of verdicts; "
        f"cost: {cost}. Failed calls are tried again; "
        f"{' and '.join(limits) or 'no limit'} {'ends' if len(limits) < 2 else 'end'} it",
        err=True,
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nothing was sent: there is no terminal to ask on; add --yes")
    click.confirm("Send them?", abort=True, err=True)


COMMANDS = (judge_command,)
"""What `study.cli.commands` adds to `study`."""
