"""How the cost of a step grows with length, batch and vocabulary, ours beside TRL's."""

from typing import Any

from study.cli.bench.memory import longest_that_fits, step_cost
from study.cli.bench.sides import SHAPE, Side
from study.cli.bench.worker import Say, ask

SMALL = {**SHAPE, "num_hidden_layers": 4}
SIDES = (Side("trl"), Side("ours"))
ROW_TOKENS = 4_096
"""Tokens of the chosen rows of a batch where the length grows: the padded half of TRL's."""

LENGTHS = (128, 256, 512, 1_024, 2_048, 4_096)
BATCHES = (1, 4, 16)
VOCABULARIES = (8_192, 32_768, 128_256)
TYPICAL_LENGTH, TYPICAL_VOCABULARY = 512, 8_192


def measure_growth(*, quick: bool, say: Say) -> dict[str, Any]:
    """Measure points along three axes, each point and side in a process of its own.

    A pair has a prompt and two answers, each of half the sequence length, so
    that TRL's batches hold no padding: what is gained by leaving padding out
    comes on top. TRL is left out where its logits would not fit.
    """
    points = []
    for axis, value, n_pairs, length, vocabulary in _grid(quick):
        half = length // 2
        for arm in SIDES:
            fits = arm.side == "ours" or length <= longest_that_fits(vocabulary, n_pairs)
            cost = fits and ask(
                step_cost,
                arm=arm,
                vocabulary=vocabulary,
                lengths=[[half, half, half]] * n_pairs,
                repeats=1 if quick else 2,
                shape=SMALL,
            )
            points.append(
                {
                    "axis": axis,
                    "value": value,
                    "side": arm.side,
                    "n_pairs": n_pairs,
                    "length_tokens": length,
                    "vocabulary": vocabulary,
                    "pairs_per_s": n_pairs / cost["seconds"] if cost else None,
                    "peak_bytes": cost["peak_bytes"] if cost else None,
                }
            )
            say(_line(points[-1]))
    return {"settings": {"threads": 1, **SMALL}, "points": points}


def _grid(quick: bool) -> list[tuple[str, int, int, int, int]]:
    """List points: axis, value on it, pairs of the batch, sequence length, vocabulary."""
    n, row_tokens = (2, ROW_TOKENS // 8) if quick else (None, ROW_TOKENS)
    lengths = [
        ("length", length, max(1, row_tokens // length), length, TYPICAL_VOCABULARY)
        for length in LENGTHS[:n]
    ]
    batches = [
        ("batch", 3 * TYPICAL_LENGTH // 2 * n_pairs, n_pairs, TYPICAL_LENGTH, TYPICAL_VOCABULARY)
        for n_pairs in BATCHES[:n]
    ]
    vocabularies = [
        ("vocabulary", vocabulary, 2, TYPICAL_LENGTH, vocabulary) for vocabulary in VOCABULARIES[:n]
    ]
    return [*lengths, *batches, *vocabularies]


def _line(point: dict[str, Any]) -> str:
    where = f"{point['axis']:10} {point['value']:9,} {point['side']:5}"
    if point["pairs_per_s"] is None:
        return f"{where} does not fit into memory"
    return f"{where} {point['pairs_per_s']:8.2f} pairs/s {point['peak_bytes'] / 1e6:8.0f} MB"
