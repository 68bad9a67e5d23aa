"""What the engine adds to a step and to an answer: packing, dropout, the way of answering.

Nothing here is TRL's. Each figure is a ratio to a simpler way of this engine, which
takes turns with it, in seconds of the process: other programs do not count.
"""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from study.cli.bench.memory import step_cost
from study.cli.bench.pairs import pairs_of
from study.cli.bench.sides import Side, build_sides, step
from study.cli.bench.worker import Say, ask
from study.engine.greedy import Generation, answer_greedily
from study.engine.lora import merged_adapters
from study.engine.packing import pack

SMOLLM2_135M: Mapping[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": False,
}
"""Its shape; random answers wander only where the output layer is not the embedding."""

VOCABULARY, DROPOUT = 49_152, 0.05
LENGTHS = [[80, 120, 100]] * 8
"""Prompt, chosen and rejected answer of pairs in 2,400 tokens."""

BATCH_PROMPTS = 8
"""Prompts in a batch of fixed size, with which slots are compared."""


class EveryNth:
    """An end of turn that one token in so many is, so that answers differ in length."""

    def __init__(self, n: int) -> None:
        """Take the mean length of answers."""
        self.n = n

    def __eq__(self, token: object) -> bool:
        """Tell whether a token ends its answer."""
        return isinstance(token, int) and token % self.n == 0

    def __hash__(self) -> int:
        """Hash by the mean length: a class that defines equality has no hash of its own."""
        return hash(self.n)


def measure_engine(*, quick: bool, say: Say, seed: int = 0) -> dict[str, Any]:
    """Time packing, a step with dropout and answers in slots."""
    torch.set_num_threads(1)
    shape = {**SMOLLM2_135M, **({"num_hidden_layers": 2} if quick else {})}
    return {
        "packing": _packing(say=say, seed=seed),
        "dropout": _dropout(shape, quick=quick, say=say, seed=seed),
        "generation": _generation(shape, quick=quick, say=say, seed=seed),
    }


def _packing(*, say: Say, seed: int) -> dict[str, Any]:
    pairs = pairs_of([[400, 350, 350]] * 8, vocabulary=VOCABULARY, seed=seed)
    seconds = [_timed(lambda: pack(pairs, rejected=True, prompt_nll=True))[0] for _ in range(9)]
    found = {"n_tokens": sum(p.n_tokens for p in pairs), "seconds": statistics.median(seconds)}
    say(f"packing: {1e3 * found['seconds']:.2f} ms for {found['n_tokens']:,} tokens")
    return found


def _dropout(shape: Mapping[str, Any], *, quick: bool, say: Say, seed: int) -> dict[str, Any]:
    pairs, ours = pairs_of(LENGTHS, vocabulary=VOCABULARY, seed=seed), Side("ours")
    models = {
        share: build_sides(VOCABULARY, seed=seed, sides=["ours"], shape=shape, dropout=share)
        for share in (0.0, DROPOUT)
    }
    ratios = []
    for turn in range(2 if quick else 5):
        plain, dropped = (
            _timed(functools.partial(step, sides, ours, pairs))[0] for sides in models.values()
        )
        ratios += [dropped / plain] if turn else []  # the first turn warms up
    models.clear()
    order = {"arm": ours, "vocabulary": VOCABULARY, "lengths": LENGTHS, "repeats": 1}
    plain, dropped = (
        ask(step_cost, **order, shape=dict(shape), dropout=share)["peak_bytes"]
        for share in (0.0, DROPOUT)
    )
    found = {
        "share": DROPOUT,
        "time_ratio": statistics.median(ratios),
        "memory_ratio": dropped / plain,
    }
    say(
        f"dropout {DROPOUT}: {found['time_ratio']:.2f}× the time of a step without, "
        f"{found['memory_ratio']:.2f}× the memory"
    )
    return found


def _generation(shape: Mapping[str, Any], *, quick: bool, say: Say, seed: int) -> dict[str, Any]:
    n_prompts, limit = (12, 16) if quick else (96, 128)
    model = build_sides(VOCABULARY, seed=seed, sides=["ours"], shape=shape)["ours"].eval()
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(20, 61, (n_prompts,), generator=generator).tolist()
    pairs = pairs_of([[n, 1, 1] for n in lengths], vocabulary=VOCABULARY, seed=seed)
    end: Any = EveryNth(limit * 3 // 4)

    def answer(way: Generation, *, merge: bool) -> list[list[int]]:
        merging = merged_adapters(model) if merge else contextlib.nullcontext()
        with torch.inference_mode(), merging:
            prompts = [pair.prompt_ids for pair in pairs]
            return answer_greedily(
                model, prompts, limit=limit, end=end, pad=0, way=way, batch=BATCH_PROMPTS
            )

    batched_s, expected = _timed(lambda: answer("batched", merge=False))
    slots_s, answers = _timed(lambda: answer("in slots", merge=True))
    found = {
        "n_prompts": n_prompts,
        "mean_tokens": sum(map(len, answers)) / n_prompts,
        "batch_prompts": BATCH_PROMPTS,
        "ratio": batched_s / slots_s,
        "differing_share": sum(map(list.__ne__, expected, answers)) / n_prompts,
    }
    say(
        f"answers in slots: {found['ratio']:.2f}× batches of {BATCH_PROMPTS}, "
        f"{found['mean_tokens']:.1f} tokens an answer, {found['differing_share']:.1%} differ"
    )
    return found


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result
