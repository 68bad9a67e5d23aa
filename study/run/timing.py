"""What a study's parts take on this machine: a step of every arm, scores, answers."""

import dataclasses
import math
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from study.arms import ARMS
from study.config.recipe import Recipe
from study.engine.encoded import Encoded
from study.model.jobs import Job, Report
from study.model.workbench import Workbench
from study.records.files import read_jsonl
from study.records.layout import STEPS
from study.run.answers import continue_prompts
from study.run.budget import budget_of, planned_tokens
from study.run.memory import memory_bytes
from study.run.prompts import distinct_prompts
from study.run.scores import score_pairs
from study.run.train import train_run

TIMED_STEPS = 2
"""The first is the largest of the run and finds the peak of memory; the second is timed, since
the first also pays for what is set up once."""

SCORED_PAIRS = 8
"""Pairs that are scored for the time that scoring takes."""

SEED = 0


def timing_job(recipe: Recipe) -> Job:
    """Return what measures a recipe in a worker, as `measure_parts` has it."""
    kind = "study.run.timing:measure_parts"
    return Job(name=f"{recipe.name}/timing", recipe=recipe, kind=kind, given={})


def measure_parts(workbench: Workbench, report: Report) -> dict[str, Any]:
    """Time the parts that a study is made of, each as it will be run.

    Returns:
        ``arms``: arm -> ``step_s``, ``step_tokens`` and ``step_peak_bytes`` of the measured
        steps, and ``train_s`` of a whole run; ``loaded_bytes``, memory before the first
        step; ``validate_s`` and ``score_s``, of all validation and all test pairs;
        ``answer_s``, of all generated answers.
    """
    recipe = workbench.recipe
    arms = [arm for arm in recipe.arms if ARMS[arm].starts_from is None]
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
        "loaded_bytes": loaded,
        "validate_s": per_token * _tokens(workbench.validation),
        "score_s": per_token * _tokens(workbench.test),
        "answer_s": _answer_s(workbench),
    }


def _time_arm(workbench: Workbench, arm: str) -> dict[str, float]:
    """Train an arm's first steps as the whole run would, and carry them on to its end."""
    recipe = workbench.recipe
    n_steps = min(TIMED_STEPS, recipe.training.max_steps)
    few = dataclasses.replace(
        workbench,
        recipe=recipe.override(
            [
                "training.log_every_steps=1",
                f"training.validate_every_steps={n_steps}",
                "training.checkpoint_every_steps=0",
            ]
        ),
        validation=workbench.validation[:2],
        untrained={},
        references={},
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / ".timing"
        folder.mkdir()
        train_run(
            few,
            arm=arm,
            settings=recipe.arms[arm],
            seed=SEED,
            folder=folder,
            on_validation=lambda step, scores: step >= n_steps,
        )
        steps = [row for row in read_jsonl(folder / STEPS) if row["split"] == "train"]
    last = steps[-1]
    training, _ = budget_of(workbench, arm=arm, seed=SEED)
    tokens = planned_tokens(workbench.train, training, arm=arm, seed=SEED)
    return {
        "step_s": last["seconds"],
        "step_tokens": last["tokens"],
        "step_peak_bytes": max(row["peak_memory_bytes"] for row in steps),
        "train_s": last["seconds"] / last["tokens"] * tokens,
    }


def _score_s_per_token(workbench: Workbench) -> float:
    pairs = workbench.validation[:SCORED_PAIRS]
    began = time.perf_counter()
    score_pairs(workbench, pairs)
    return (time.perf_counter() - began) / _tokens(pairs)


def _answer_s(workbench: Workbench) -> float:
    """Answer one batch of test prompts, and carry it on to all that are answered."""
    evaluation = workbench.recipe.evaluation
    asked = distinct_prompts(workbench.test, workbench.pairs, limit=evaluation.generated_answers)
    if not asked:
        return 0.0
    batch = [prompt.first for prompt in asked[: evaluation.batch_pairs]]
    began = time.perf_counter()
    continue_prompts(workbench, batch)
    n_batches = math.ceil(len(asked) / evaluation.batch_pairs)
    return (time.perf_counter() - began) * n_batches


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
