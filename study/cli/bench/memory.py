"""Peak memory of a step at a large vocabulary, each arm in a process of its own."""

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.cli.bench.pairs import BATCH_PAIRS, MAX_LENGTH_TOKENS, cut_pair, draw_sample, lengths_of
from study.cli.bench.sides import SHAPE, Side
from study.cli.bench.worker import Say, ask

LARGE_VOCABULARY = 128_256
ARMS = (
    Side("trl"),
    Side("trl", checkpointing=True),
    Side("ours"),
    Side("ours", checkpointing=True),
    Side("trl", loss="sft"),
    Side("ours", loss="sft"),
    Side("trl", loss="dpo"),
    Side("ours", loss="dpo"),
)
LOGIT_COPIES = 6
"""Float32 copies of its logits that TRL holds at its peak."""


def measure_memory(data: Path, *, quick: bool, say: Say, seed: int = 0) -> dict[str, Any]:
    """Return the peak memory of a step over the loaded model, by arm.

    All arms take the same eight pairs of HH-RLHF, cut so that TRL's logits fit
    into this machine's memory.
    """
    fitting = longest_that_fits(LARGE_VOCABULARY, BATCH_PAIRS)
    longest = max(32, min(fitting, 64 if quick else MAX_LENGTH_TOKENS))
    sample = draw_sample("hh", data, 1, seed=seed)
    lengths = lengths_of([cut_pair(pair, longest // 2, longest) for pair in sample.pairs])
    peaks = {}
    for arm in ARMS:
        cost = ask(step_cost, arm=arm, vocabulary=LARGE_VOCABULARY, lengths=lengths, repeats=1)
        peaks[arm.name] = cost["peak_bytes"]
        say(f"{arm.name:30} {peaks[arm.name] / 1e6:8.0f} MB, rows of {longest} tokens at most")
    return {
        "vocabulary": LARGE_VOCABULARY,
        "longest_row_tokens": longest,
        "n_pairs": len(sample.pairs),
        "origin": sample.origin,
        "peak_bytes": peaks,
    }


def step_cost(
    *,
    arm: Sequence[Any],
    vocabulary: int,
    lengths: Sequence[Sequence[int]],
    repeats: int,
    shape: Mapping[str, Any] = SHAPE,
    dropout: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Return seconds of one step, and by how many bytes it raises resident memory.

    For a process of its own: memory that an earlier step left is not counted.

    Args:
        arm: Fields of an `Side`.
        vocabulary: Of the random model.
        lengths: Tokens of each pair's prompt, chosen and rejected answer.
        repeats: Times that the step is taken; the median counts.
        shape: Of the random model.
        dropout: Of its adapter.
        seed: Of weights and tokens.
    """
    import torch

    from study.cli.bench.pairs import pairs_of
    from study.cli.bench.sides import build_sides, step

    torch.set_num_threads(1)
    measured, pairs = Side(*arm), pairs_of(lengths, vocabulary=vocabulary, seed=seed)
    sides = build_sides(
        vocabulary,
        seed=seed,
        sides=[measured.side],
        shape=shape,
        dropout=dropout,
        loss=measured.loss,
    )
    step(sides, measured, [cut_pair(pairs[0], 4, 8)])  # libraries' own buffers
    gc.collect()
    _return_free_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts here
    before, seconds = _status_bytes("VmRSS"), []
    for _ in range(repeats):
        started = time.perf_counter()
        step(sides, measured, pairs)
        seconds.append(time.perf_counter() - started)
    peak = _status_bytes("VmHWM") - before
    return {"seconds": statistics.median(seconds), "peak_bytes": peak}


def longest_that_fits(vocabulary: int, n_pairs: int) -> int:
    """Return how long TRL's rows may be, by its copies of the logits alone."""
    row_bytes = LOGIT_COPIES * 2 * n_pairs * vocabulary * 4
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(0.5 * available) // row_bytes


def _return_free_memory() -> None:
    """Give freed memory back to the system, lest the step take it and seem to need less."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(field)
