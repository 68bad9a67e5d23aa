"""The model card of an export: verdict, scores, how it was made, and how to load it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.arms import ARMS
from study.records.released import Release
from study.release.chosen import ChosenRun

CARD = "README.md"

HARM = (
    "It was trained on preference pairs and tested on pairs like them; nothing here says how safe "
    "or truthful its answers are."
)

FALLBACK = "No comparison with other arms is finished beside this run, so there is no verdict."


def facts_of(run: ChosenRun) -> dict[str, Any]:
    """Ask the analysis, in a process of its own, what it says of a run.

    Where it cannot judge the records, the card says why.
    """
    where = ("--runs", str(run.runs), "--recipe", run.recipe.name)
    which = ("--arm", run.arm, "--seed", str(run.seed))
    command = [sys.executable, "-m", "analysis.card", *where, *which]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    why = (done.stderr.strip().splitlines() or ["no reason given"])[-1].partition("Error: ")[2]
    return {"verdict": None, "scores": [], "limits": [why], "commands": [], "signature": ""}


def write_card(
    run: ChosenRun, record: Release, folder: Path, facts: dict[str, Any], *, name: str
) -> None:
    """Write ``README.md`` with its metadata; ``name`` is what its readers load."""
    from huggingface_hub import ModelCard, ModelCardData

    model, data = run.recipe.model.name, run.recipe.data.name
    tags = ["orpo-study", run.arm, *(["lora"] if record["form"] == "adapter" else [])]
    of_hub = _is_hub_id(model)
    about = ModelCardData(
        base_model=model if of_hub else None,
        base_model_relation=("adapter" if record["form"] == "adapter" else "finetune")
        if of_hub
        else None,
        datasets=[data] if _is_hub_id(data) else None,
        library_name="peft" if record["form"] == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=tags,
    )
    text = "\n\n".join(_sections(run, record, facts, name))
    for private in (str(run.runs), model, data):  # folders of this machine are nobody's business
        if "/" in private and not _is_hub_id(private):
            text = text.replace(private, Path(private).name)
    ModelCard(f"---\n{about.to_yaml()}\n---\n\n{text}\n").save(folder / CARD)


def _sections(run: ChosenRun, record: Release, facts: dict[str, Any], name: str) -> list[str]:
    label = ARMS[run.arm].label if run.arm in ARMS else run.arm
    model = _public(run.recipe.model.name)
    verdict = facts["verdict"]
    said = [f"**{verdict['headline']}**", verdict["answer"]] if verdict else [FALLBACK]
    return [
        f"# {model}, trained with {label}",
        "## Verdict of the comparison",
        *said,
        "## Scores of this run",
        _scores(run, facts),
        "## What was released, against what was trained",
        _differences(record),
        "## How to load it",
        _loading(run, record, name),
        "## How it was made",
        _bullets(_making(run, record, facts)),
        "## Limits",
        _bullets(
            [
                *facts["limits"],
                "One run is one draw: other seeds of the same settings score otherwise.",
                HARM,
            ]
        ),
        *_commands(facts),
    ]


def _scores(run: ChosenRun, facts: dict[str, Any]) -> str:
    if not facts["scores"]:
        names = run.record["scores"].items()
        return _table(["score", "value"], [[k, _number(v)] for k, v in names if v is not None])
    rows = [
        [
            ", ".join(filter(None, (row["label"], row["unit"]))),
            row["value"],
            "–" if row["low"] is None else f"{row['low']} to {row['high']}",
            str(row["n"]),
        ]
        for row in facts["scores"]
    ]
    note = (
        "On held-out pairs that neither training nor the search saw. The interval is over prompts "
        "like these, for this one run; n counts pairs, or prompts where answers were generated."
    )
    return f"{_table(['score', 'value', '95 % interval', 'n'], rows)}\n\n{note}"


def _differences(record: Release) -> str:
    rows = [
        [
            name.replace("_", " "),
            _number(row["trained"]),
            _number(row["released"]),
            _number(row["difference"], "+.4f"),
            "–" if row["margin"] is None else f"{row['margin']:g}",
        ]
        for name, row in record["scores"].items()
    ]
    head = ["score", "adapter on its base", "this folder", "difference", "smallest that matters"]
    checks = [
        f"{'passed' if one['passed'] else 'FAILED'}: {one['name']} ({one['detail']})"
        for one in record["checks"]
    ]
    counts = f"{record['n_pairs']} pairs and {record['n_answers']} greedy answers were scored."
    forced = [f"exported with --force in spite of: {fault}" for fault in record["forced"]]
    return f"{_table(head, rows)}\n\n{counts}\n\n{_bullets([*checks, *forced])}"


def _number(value: float, form: str = ".4f") -> str:
    return f"{value:{form}}".replace("-", "−")


def _loading(run: ChosenRun, record: Release, name: str) -> str:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{name}")')
    if record["form"] == "merged":
        lines.append(f'model = AutoModelForCausalLM.from_pretrained("{name}")')
    else:
        lines[0] = f"from peft import PeftModel\n{lines[0]}"
        rows = next(c["detail"] for c in record["checks"] if c["name"] == "vocabulary")
        n_rows = rows.partition(", ")[2].split()[0]
        lines += [
            f'base = AutoModelForCausalLM.from_pretrained("{_public(run.recipe.model.name)}")'
            + ("  # in NF4, as in training" if run.recipe.model.quantization == "nf4" else ""),
            f"base.resize_token_embeddings({n_rows}, mean_resizing=False)",
            f'model = PeftModel.from_pretrained(base, "{name}")',
        ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _making(run: ChosenRun, record: Release, facts: dict[str, Any]) -> list[str]:
    record_of_run, cost = run.record, run.record["cost"]
    training, adapter = run.recipe.training, run.recipe.adapter
    n_train = record_of_run["data"].get("train", {}).get("pairs", "?")
    settings = ", ".join(f"{name} {value:.3g}" for name, value in record_of_run["settings"].items())
    n_steps, n_tokens = cost.get("steps", training.max_steps), cost.get("train_tokens", 0)
    memory = cost.get("peak_memory_bytes", 0) / 2**30
    versions = ", ".join(f"{k} {v}" for k, v in sorted(record_of_run["versions"].items()))
    tuned = "found by a search on validation pairs" if record_of_run["tuned"] else "not tuned"
    return [
        f"base: {_public(record['base'])}",
        f"data: {_public(run.recipe.data.name)}, {n_train} training pairs",
        f"settings: {facts.get('settings') or settings} ({tuned})",
        f"adapter: {adapter.kind}, rank {adapter.rank}, alpha {adapter.alpha}",
        f"budget: {n_steps} updates of {training.batch_pairs} pairs, {n_tokens:,} tokens",
        f"cost: {cost.get('train_s', 0.0):,.0f} s of training, {memory:.1f} GiB at its peak",
        f"device: {record_of_run['device']}",
        f"seed: {run.seed} ({run.why}); seeds of this arm: {facts.get('n_seeds', '?')}",
        f"weights: {record['form']}, {record['dtype']}",
        f"digest of the configuration: `{record_of_run['digest']}`",
        f"code: `{record_of_run['git']}`, {versions}",
    ]


def _commands(facts: dict[str, Any]) -> list[str]:
    if not facts["commands"]:
        return []
    lines = "\n".join(facts["commands"])
    return ["## Commands that make it again", f"```sh\n{lines}\n```", f"`{facts['signature']}`"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _is_hub_id(name: str) -> bool:
    return (
        name.count("/") == 1
        and ":" not in name
        and name[0] not in "./~"
        and not Path(name).exists()
    )


def _public(name: str) -> str:
    """Return a name without the folders of this machine."""
    place, at, rest = name.partition(" at ")
    shown = place if _is_hub_id(place) or ":" in place or "/" not in place else Path(place).name
    return f"{shown}{at}{rest}"
