"""What a study's parts take on this machine: a step of every arm, scores, answers."""

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from study.arms import ARMS
from study.config.recipe import Recipe
from study.config.training import TrainingConfig, own_training
from study.engine.encoded import Encoded
from study.engine.greedy import SLOTS, SLOTS_ON_CPU
from study.model.adapter import fresh_adapter
from study.model.jobs import Job, Report
from study.model.workbench import Workbench
from study.records.files import read_jsonl
from study.records.layout import ADAPTER, STEPS
from study.records.runs import RunFolder
from study.records.schema import Record
from study.run.answers import continue_prompts
from study.run.batches import PlannedBatches
from study.run.budget import budget_of, planned_tokens, token_parts
from study.run.checkpoints import save_adapter
from study.run.memory import memory_bytes
from study.run.planned import Start
from study.run.prompts import distinct_prompts
from study.run.scores import score_pairs
from study.run.train import train_run

TIMED_STEPS = 2
"""The first is the largest of the run and finds the peak of memory; the second is timed, since
the first also pays for what is set up once."""

SCORED_PAIRS = 8
"""Pairs that are scored for the time that scoring takes."""

TIMED_TOKENS = 9
"""Tokens of each answer that is timed; the first costs the pass over the prompt."""

SEED = 0


def timing_job(recipe: Recipe) -> Job:
    """Return what measures a recipe in a worker, as `measure_parts` has it."""
    kind = "study.run.timing:measure_parts"
    return Job(name=f"{recipe.name}/timing", recipe=recipe, kind=kind, given={})


def measure_parts(workbench: Workbench, report: Report) -> dict[str, Any]:
    """Time the parts that a study is made of, each as it will be run.

    An arm that continues another one's run is timed from a fresh adapter: a step takes
    as long from there.

    Returns:
        ``arms``: arm -> ``step_s``, ``step_tokens`` and ``step_peak_bytes`` of the measured
        steps, ``train_s`` of all its own updates, which are ``steps``, and ``reference_s`` of
        the pass for its reference; ``starts``: arm -> ``train_s`` of it as a start;
        ``loaded_bytes``, memory before the first step; ``validate_s`` and ``score_s``, of all
        validation and all test pairs; ``answer_s``, of all generated answers, if none ends
        before the limit.
    """
    recipe = workbench.recipe
    arms = list(recipe.arms)
    total = len(arms) + 2
    loaded = memory_bytes(workbench.device)
    measured = {}
    for number, arm in enumerate(arms):
        report(number, total, f"timing a step of {arm}")
        measured[arm] = _time_arm(workbench, arm)
    report(len(arms), total, "timing scores")
    per_token = _score_s_per_token(workbench)
    report(len(arms) + 1, total, "timing answers")
    return {
        "arms": measured,
        "starts": {name: _start_s(workbench, name, measured[name]) for name in _starts(arms)},
        "loaded_bytes": loaded,
        "validate_s": per_token * _tokens(workbench.validation),
        "score_s": per_token * _tokens(workbench.test),
        "answer_s": _answer_s(workbench),
    }


def _starts(arms: Iterable[str]) -> list[str]:
    """List the arms that others continue."""
    return [name for name in dict.fromkeys(ARMS[arm].starts_from for arm in arms) if name]


def _time_arm(workbench: Workbench, arm: str) -> dict[str, float]:
    """Train an arm on its first two updates, and carry them on to its end."""
    recipe = workbench.recipe
    training, _ = budget_of(workbench, arm=arm, seed=SEED)
    with tempfile.TemporaryDirectory() as place:
        folder, few = Path(place) / ".timing", _few(workbench, training, arm)
        folder.mkdir()
        start = None if ARMS[arm].starts_from is None else _fresh_start(few, Path(place) / "start")
        outcome = train_run(
            few,
            arm=arm,
            settings=recipe.arms[arm],
            seed=SEED,
            folder=folder,
            on_validation=lambda step, scores: step >= TIMED_STEPS,
            start=start,
        )
        steps = [row for row in read_jsonl(folder / STEPS) if row["split"] == "train"]
    last = steps[-1]
    tokens = token_parts(workbench.train, training, arm=arm, seed=SEED)
    referred = outcome.cost.get("reference_tokens", 0)
    return {
        "step_s": last["seconds"],
        "step_tokens": last["tokens"],
        "step_peak_bytes": max(row["peak_memory_bytes"] for row in steps),
        "steps": own_training(training, arm).max_steps,
        "train_s": last["seconds"] / last["tokens"] * tokens.own,
        "reference_s": outcome.cost["reference_s"] / referred * tokens.reference
        if referred
        else 0.0,
    }


def _few(workbench: Workbench, training: TrainingConfig, arm: str) -> Workbench:
    """Narrow a workbench to the pairs of an arm's first updates, in two passes over them.

    An arm that continues another trains on the second pass, as its start would have on
    the first.
    """
    plan = PlannedBatches(
        workbench.train, training, arm=arm, seed=SEED, device="cpu", value_bytes=4
    )
    n_updates = min(TIMED_STEPS, len(plan.updates))
    first = [pair for number in range(n_updates) for pair in plan.update(number)]
    return dataclasses.replace(
        workbench,
        recipe=workbench.recipe.override(
            [
                f"training.max_steps={2 * TIMED_STEPS}",
                "training.start_share=0.5",
                "training.warmup_steps=0",
                "training.log_every_steps=1",
                f"training.validate_every_steps={TIMED_STEPS}",
                "training.checkpoint_every_steps=0",
            ]
        ),
        train=first,
        validation=workbench.validation[:2],
        untrained={},
        references={},
    )


def _fresh_start(workbench: Workbench, place: Path) -> Start:
    """Leave a fresh adapter where a start's would be: it has cost nothing."""
    save_adapter(
        fresh_adapter(workbench.base, workbench.recipe.adapter, seed=SEED), place / ADAPTER
    )
    facts: dict[str, Any] = {"status": "ok", "scores": {}, "files": {}, "cost": {}}
    named = {"arm": "", "digest": "", "settings": {}}
    return Start(folder=RunFolder(place), record=cast(Record, {**facts, **named}))


def _start_s(workbench: Workbench, arm: str, measured: Mapping[str, float]) -> dict[str, float]:
    """Carry an arm's step on to a run that others continue."""
    training = workbench.recipe.training.first_stage()
    tokens = planned_tokens(workbench.train, training, arm=arm, seed=SEED)
    return {"train_s": measured["step_s"] / measured["step_tokens"] * tokens}


def _score_s_per_token(workbench: Workbench) -> float:
    pairs = workbench.validation[:SCORED_PAIRS]
    began = time.perf_counter()
    score_pairs(workbench, pairs)
    return (time.perf_counter() - began) / _tokens(pairs)


def _answer_s(workbench: Workbench) -> float:
    """Answer some test prompts briefly, and carry that on to all answers at full length."""
    evaluation = workbench.recipe.evaluation
    asked = distinct_prompts(workbench.test, workbench.pairs, limit=evaluation.generated_answers)
    if not asked:
        return 0.0
    at_once = SLOTS_ON_CPU if workbench.device.type == "cpu" else SLOTS
    some = [prompt.first for prompt in asked[:at_once]]
    limit = evaluation.max_new_tokens
    tokens = min(TIMED_TOKENS, limit)
    _brief_s(workbench, some, 1)  # pays for what is set up once
    first_s, all_s = (_brief_s(workbench, some, n) for n in (1, tokens))
    each_s = max(0.0, all_s - first_s) / max(1, tokens - 1)
    return (first_s + each_s * (limit - 1)) * len(asked) / len(some)


def _brief_s(workbench: Workbench, pairs: list[Encoded], tokens: int) -> float:
    """Time answers of so many tokens at most."""
    recipe = workbench.recipe.override([f"evaluation.max_new_tokens={tokens}"])
    began = time.perf_counter()
    continue_prompts(dataclasses.replace(workbench, recipe=recipe), pairs)
    return time.perf_counter() - began


def _tokens(pairs: list[Encoded]) -> int:
    return sum(pair.n_tokens for pair in pairs)


def mean_of(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of what several workers measured side by side."""
    return {
        name: mean_of([part[name] for part in parts])
        if isinstance(value, dict)
        else fmean(part[name] for part in parts)
        for name, value in parts[0].items()
    }
