"""One training step here and in TRL: same pairs, same weights, in turn.

A step is: lay out a batch, forward pass, backward pass; without the optimiser,
which is the same for both. TRL's side is its own `ORPOTrainer`. Losses are
compared on short pairs before anything is timed, and on every timed batch. Each
side has a process, as a training has: neither meets the memory that the other left.
"""

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from study.cli.bench.pairs import (
    BATCH_PAIRS,
    SOURCES,
    VOCABULARY,
    cut_pair,
    draw_sample,
    padded_tokens,
)
from study.cli.bench.sides import SHAPE, Side, build_sides, step
from study.cli.bench.worker import Say, process
from study.engine.encoded import Encoded
from study.errors import DataError

BASELINE = Side("trl")
ARMS = (
    BASELINE,
    Side("trl", grouped=True),
    Side("ours"),
    Side("ours", grouped=True),
    Side("trl", checkpointing=True),
    Side("ours", grouped=True, checkpointing=True),
    Side("trl", bf16=True),
    Side("trl", checkpointing=True, bf16=True),
    Side("ours", grouped=True, bf16=True),
)
"""``trl checkpointing bf16`` is what TRL does by default."""

OTHER_LOSSES = ("sft", "dpo")
"""Losses that are timed beside ORPO's, each against TRL's own trainer for it."""

TOLERANCE = {False: 1e-5, True: 2e-2}
"""How far losses may lie apart, relatively: without and with bfloat16 autocast."""

Batches = Sequence[Sequence[Encoded]]

TakeStep = Callable[[Side, Sequence[Encoded]], tuple[float, float]]
"""``take(arm, pairs)``: run one step of an arm; return its loss and its seconds."""


def measure_steps(data: Path, *, quick: bool, say: Say, seed: int = 0) -> dict[str, Any]:
    """Time a step of every arm on pairs of every source.

    Args:
        data: Folder of the real pairs.
        quick: One short batch per source, timed once.
        say: Told of each arm.
        seed: Decides which pairs are drawn.
    """
    n_batches, repeats = (1, 1) if quick else (2, 3)
    sources = {}
    for source in SOURCES:
        sample = draw_sample(source, data, n_batches, seed=seed, quick=quick)
        say(
            f"{source}: {len(sample.pairs)} pairs ({sample.origin}), "
            f"{sample.padding_share:.0%} padding in TRL's batches "
            f"({sample.padding_share_of_all:.0%} over many)"
        )
        batches = {False: sample.batches, True: sample.grouped()}
        rows: dict[str, Any] = {}
        for arms in (ARMS, *map(arms_of, OTHER_LOSSES)):
            with side_processes(seed=seed) as take:  # anew, so that no loss's memory stays
                rows |= time_arms(take, batches, repeats=repeats, say=say, arms=arms)
        sources[source] = {
            "origin": sample.origin,
            "n_pairs": len(sample.pairs),
            "padding_share": sample.padding_share,
            "padding_share_of_all": sample.padding_share_of_all,
            "padding_share_grouped": 1
            - sum(p.n_tokens + p.n_prompt for p in sample.pairs) / padded_tokens(sample.grouped()),
            "arms": rows,
        }
    settings = {
        "batch_pairs": BATCH_PAIRS,
        "repeats": repeats,
        "seed": seed,
        "threads": 1,
        "vocabulary": VOCABULARY,
        "adapter": "LoRA r 16 on all linear layers",
        **SHAPE,
    }
    return {"settings": settings, "sources": sources}


def arms_of(loss: str) -> tuple[Side, ...]:
    """Return the ways to take a step of another loss than ORPO's, TRL's first."""
    return (Side("trl", loss=loss), Side("ours", loss=loss), Side("ours", grouped=True, loss=loss))


@contextlib.contextmanager
def side_processes(*, seed: int, shape: Mapping[str, Any] = SHAPE) -> Iterator[TakeStep]:
    """Give each side a process with its model, and return what takes a step there."""
    with process() as ask_trl, process() as ask_ours:

        def take(arm: Side, pairs: Sequence[Encoded]) -> tuple[float, float]:
            ask = ask_ours if arm.side == "ours" else ask_trl
            sent = [(p.example_id, p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs]
            answer = ask(timed_step, arm=arm, pairs=sent, seed=seed, shape=dict(shape))
            return answer["loss"], answer["seconds"]

        yield take


def timed_step(
    *, arm: Sequence[Any], pairs: Sequence[Any], seed: int, shape: Mapping[str, Any]
) -> dict[str, float]:
    """Take one step on one thread; the model stays for the process's next step.

    Args:
        arm: Fields of an `Side`.
        pairs: Of each pair, its id and those of the prompt and both answers.
        seed: Of the weights.
        shape: Of the random model.
    """
    measured, batch = Side(*arm), [Encoded.of(*pair) for pair in pairs]
    sides = _side(measured.side, measured.loss, seed, tuple(shape.items()))
    started = time.perf_counter()
    loss = step(sides, measured, batch)
    return {"loss": loss, "seconds": time.perf_counter() - started}


@functools.cache
def _side(side: str, loss: str, seed: int, shape: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return build_sides(VOCABULARY, seed=seed, sides=[side], shape=dict(shape), loss=loss)


def time_arms(
    take: TakeStep,
    batches: Mapping[bool, Batches],
    *,
    repeats: int,
    say: Say,
    arms: Sequence[Side] = ARMS,
) -> dict[str, dict[str, float]]:
    """Time each arm on the same pairs, in turn within each batch.

    Args:
        take: Takes one step.
        batches: The pairs in random batches, and under True grouped by length.
        repeats: Times that each batch is timed for each arm; medians are taken.
        say: Told of each arm.
        arms: All of one loss; the first is what the others are compared with.

    Returns:
        By arm: pairs per second; distinct tokens per second (useful) and tokens
        through the linear layers per second (processed); the ratio of pairs per
        second to the first arm; mean loss.

    Raises:
        DataError: arms compute different losses.
    """
    short = [cut_pair(pair, 12, 24) for pair in batches[False][0]]
    check_losses({arm: take(arm, short)[0] for arm in arms})  # warms every arm up, too
    seconds: dict[Side, list[list[float]]] = {arm: [[] for _ in batches[False]] for arm in arms}
    losses: dict[Side, list[float]] = {arm: [] for arm in arms}
    for turn in range(repeats):
        for number in range(len(batches[False])):
            for arm in arms:
                loss, taken = take(arm, batches[arm.grouped][number])
                losses[arm].append(loss)
                seconds[arm][number].append(taken)
            check_losses({arm: values[-1] for arm, values in losses.items()})
            say(f"round {turn + 1} of {repeats}: batch {number + 1} of {len(batches[False])} done")
    total = {arm: sum(map(statistics.median, times)) for arm, times in seconds.items()}
    pairs = [pair for batch in batches[False] for pair in batch]
    rejected = arms[0].loss != "sft"
    useful = sum(pair.n_tokens - (0 if rejected else pair.n_rejected) for pair in pairs)
    found = {}
    for arm in arms:
        padded = padded_tokens(batches[arm.grouped], rejected=rejected)
        processed = useful if arm.side == "ours" else padded
        found[arm.name] = {
            "pairs_per_s": len(pairs) / total[arm],
            "useful_tokens_per_s": useful / total[arm],
            "processed_tokens_per_s": processed / total[arm],
            "ratio": total[arms[0]] / total[arm],
            "loss": math.fsum(losses[arm]) / len(losses[arm]),
        }
        say(
            f"{arm.name:30} {len(pairs) / total[arm]:7.2f} pairs/s {found[arm.name]['ratio']:6.2f}×"
        )
    return found


def check_losses(losses: Mapping[Side, float]) -> None:
    """Refuse to time arms that do not compute the same loss on one batch.

    Raises:
        DataError: an arm's loss differs from TRL's in float32.
    """
    reference = {
        arm.grouped: loss
        for arm, loss in losses.items()
        if arm._replace(grouped=False, loss=BASELINE.loss) == BASELINE
    }
    for arm, loss in losses.items():
        expected = reference.get(arm.grouped)
        if expected is not None and not math.isclose(loss, expected, rel_tol=TOLERANCE[arm.bf16]):
            raise DataError(
                f"{arm.name} gives a loss of {loss}, TRL {expected}; "
                "arms that compute different things are not timed"
            )
