"""Scoring and answering held-out pairs: packed and batched here, padded and one by one there."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from study.arms import BASELINE, UNTRAINED
from study.cli.bench.pairs import (
    BATCH_PAIRS,
    SOURCES,
    VOCABULARY,
    chunks,
    draw_sample,
    padded_batch,
)
from study.cli.bench.sides import build_sides
from study.cli.bench.trl_losses import trl_trainer
from study.cli.bench.worker import Say
from study.engine.encoded import Encoded
from study.engine.forward import pair_logps
from study.engine.packing import pack
from study.errors import DataError
from study.model.workbench import Workbench

T = TypeVar("T")

RECIPE = "tiny-llama"
TOLERANCE = 1e-4
"""How far log-probabilities per token may lie apart, in nats."""

Logps = list[tuple[float, float]]
"""Log-probability per token of the chosen and of the rejected answer, by pair."""


def measure_evaluation(data: Path, *, quick: bool, say: Say, seed: int = 0) -> dict[str, Any]:
    """Time log-probabilities of pairs of every source, and greedy generation."""
    torch.set_num_threads(1)
    return {
        "log_probabilities": _log_probabilities(data, quick=quick, say=say, seed=seed),
        "generation": _generation(quick=quick, say=say, seed=seed),
    }


def trl_logps(model: Any, pairs: Sequence[Encoded]) -> Logps:
    """Score pairs as TRL's evaluation loop does: padded batches of eight as they come."""
    rows: Logps = []
    for batch in chunks(pairs, BATCH_PAIRS):
        chosen, rejected = trl_trainer().concatenated_forward(model, padded_batch(batch))[:2]
        rows += zip(chosen.tolist(), rejected.tolist(), strict=True)
    return rows


def our_logps(model: Any, pairs: Sequence[Encoded]) -> Logps:
    """Score pairs as `study.run.evaluate` does: packed, in batches of similar length."""
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].n_tokens, reverse=True)
    rows: Logps = [(math.nan, math.nan)] * len(pairs)
    for start in range(0, len(order), BATCH_PAIRS):
        indices = order[start : start + BATCH_PAIRS]
        batch = pack([pairs[i] for i in indices], rejected=True, prompt_nll=False)
        logps = pair_logps(model, batch)
        assert logps.rejected is not None
        values = zip(logps.chosen.tolist(), logps.rejected.tolist(), strict=True)
        for i, row in zip(indices, values, strict=True):
            rows[i] = row
    return rows


def one_at_a_time(workbench: Workbench, pairs: Sequence[Encoded]) -> list[list[int]]:
    """Answer prompts as article A's script does: one call of ``generate`` for each."""
    model, answers = workbench.base.model.eval(), []
    for pair in pairs:
        prompt = torch.tensor([pair.prompt_ids])
        with torch.inference_mode():
            out = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=workbench.recipe.evaluation.max_new_tokens,
                do_sample=False,
            )
        answers.append(out[0, prompt.shape[1] :].tolist())
    return answers


def _log_probabilities(data: Path, *, quick: bool, say: Say, seed: int) -> dict[str, Any]:
    sides = build_sides(VOCABULARY, seed=seed)
    found = {}
    for source in SOURCES:
        sample = draw_sample(source, data, 1 if quick else 3, seed=seed, quick=quick)
        with torch.inference_mode():
            trl, ours = (sides[name].eval() for name in ("trl", "ours"))
            trl_s, our_s, expected, scored = alternate(
                lambda: trl_logps(trl, sample.pairs),  # noqa: B023 - called at once
                lambda: our_logps(ours, sample.pairs),  # noqa: B023
                repeats=1 if quick else 2,
            )
        gap = max(
            abs(a - b)
            for pair in zip(expected, scored, strict=True)
            for a, b in zip(*pair, strict=True)
        )
        if not gap < TOLERANCE:
            raise DataError(f"{source}: log-probabilities lie up to {gap} nats per token apart")
        found[source] = {
            "origin": sample.origin,
            "n_pairs": len(sample.pairs),
            "padding_share": sample.padding_share,
            "trl_s": trl_s,
            "ours_s": our_s,
            "ratio": trl_s / our_s,
            "largest_difference": gap,
        }
        say(f"log-probabilities, {source}: {trl_s / our_s:.2f}× TRL's padded batches")
    return found


def _generation(*, quick: bool, say: Say, seed: int) -> dict[str, Any]:
    """Time answers of the embedded study's base, which ramble, and of its SFT model."""
    from study.config.recipe import load_recipe
    from study.model.workbench import open_workbench
    from study.run.train import train_run

    recipe = load_recipe(RECIPE)
    if quick:
        recipe = recipe.override(["training.max_steps=30", "training.warmup_steps=3"])
    workbench = open_workbench(recipe, device="cpu")
    pairs = workbench.test[: 48 if quick else recipe.evaluation.generated_answers]
    found = {UNTRAINED: _answers(workbench, pairs, repeats=1 if quick else 3)}
    train_run(workbench, arm=BASELINE, settings=recipe.arms[BASELINE], seed=seed, folder=None)
    found[BASELINE] = _answers(workbench, pairs, repeats=1 if quick else 3)
    for model, row in found.items():
        say(
            f"generation, {model}: {row['ratio']:.2f}× one at a time, {row['mean_tokens']:.1f} "
            f"tokens an answer, {row['differing_share']:.1%} of answers differ"
        )
    return {"recipe": RECIPE, "batch_prompts": recipe.evaluation.batch_pairs, "models": found}


def _answers(workbench: Workbench, pairs: Sequence[Encoded], *, repeats: int) -> dict[str, Any]:
    from study.run.answers import continue_prompts

    continue_prompts(workbench, pairs[:4])
    one_by_one_s, batched_s, expected, answers = alternate(
        lambda: one_at_a_time(workbench, pairs),
        lambda: continue_prompts(workbench, pairs),
        repeats=repeats,
    )
    differing = sum(a != b for a, b in zip(expected, answers, strict=True))
    return {
        "n_prompts": len(pairs),
        "mean_tokens": sum(map(len, answers)) / len(answers),
        "one_at_a_time_s": one_by_one_s,
        "ours_s": batched_s,
        "ratio": one_by_one_s / batched_s,
        "differing_share": differing / len(answers),
    }


def alternate(
    theirs: Callable[[], T], ours: Callable[[], T], *, repeats: int
) -> tuple[float, float, T, T]:
    """Call two functions in turn, ``repeats`` >= 1 times.

    Returns:
        Median seconds of theirs and of ours, then the last result of each.
    """
    rounds = [(_timed(theirs), _timed(ours)) for _ in range(repeats)]
    their_s = statistics.median(seconds for (seconds, _), _ in rounds)
    our_s = statistics.median(seconds for _, (seconds, _) in rounds)
    (_, expected), (_, found) = rounds[-1]
    return their_s, our_s, expected, found


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result
