"""A model is checked against itself before its first use in a study.

A short batch of made-up pairs goes through the engine, and through the model's own
forward pass, one whole sequence at a time, as transformers and PEFT have it. The
adapter is one of noise, with its trained token rows. Greedy answers in a batch are
held against what the model itself prefers. The fastest way that is right serves; a
model that no way gets right is refused, with the figures and the likely cause.

Shapes: L tokens of a sequence, N labels, V vocabulary.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import study
from study.config.canonical import digest
from study.config.environment import cache_folder, device_name, versions
from study.config.recipe import AdapterConfig
from study.engine.encoded import Encoded
from study.engine.forward import Layout, use_layout
from study.engine.greedy import Generation, answer_greedily
from study.engine.packing import pack, to_device
from study.errors import ModelError, RecordError, first_line
from study.model.alone import (
    LONGEST,
    kept_to,
    longest_made_up,
    made_up_batches,
    noisy_adapter,
    own_ways,
)
from study.model.base import Base, SelfCheck
from study.model.causes import likely_cause, refuse_long_rows
from study.records.files import checksum, read_json, write_sealed
from study.records.processes import agree, n_processes

T = TypeVar("T")

Batches = Sequence[Sequence[Encoded]]

log = logging.getLogger(__name__)

NEW_TOKENS = 6
"""Tokens of each greedy answer at most."""

TOLERANCE, MOST = 1e-4, 1e-3
"""Nats by which any token's log-probability may be off in float32; the second where a model's
own results differ that much between rows of other lengths, as of many wide layers they do."""

COARSE_TOLERANCE, COARSE_MOST = 0.25, 0.5
"""The same for 16-bit numbers, as a root mean square over tokens: logits between 8 and 16 are
multiples of 1/16 in bfloat16, and single ones are off by several of them."""

NOISE_RATIO = 8
"""How far from a model's own results the engine's may be, in units of their own noise."""

ROWS = 64
"""Rows of logits in float32 at a time."""

WAYS: tuple[Generation, ...] = ("in slots", "batched", "one at a time", "without a cache")


def check_base(base: Base, adapter: AdapterConfig, *, longest_row: int) -> SelfCheck:
    """Return what serves a base, measured or remembered, and keep the base to it.

    Args:
        base: A loaded base; its adapter and all random state stay as they are.
        adapter: The adapter that it is to be trained with.
        longest_row: Tokens of the longest row that will be computed.

    Raises:
        ModelError: nothing gives the model's own results, or it takes no row so long.
    """
    refuse_long_rows(base.causal, longest_row)
    path = cache_folder() / "selfchecks" / f"{_key(base, adapter, longest_row)}.json"
    found = _agreed(base, _remembered(path))
    if found is None:
        found = measure(base, adapter, longest_row=longest_row)
        with contextlib.suppress(OSError):  # then it is measured again, no more
            write_sealed(path, asdict(found))
    use_layout(base.causal, found.layout)
    if found.layout == "plain" or found.generation not in WAYS[:2]:
        log.warning("%s", _slower(base, found))
    return found


def measure(base: Base, adapter: AdapterConfig, *, longest_row: int = 0) -> SelfCheck:
    """Compare layouts and ways of answering with the model's own, the fastest first.

    Raises:
        ModelError: none of them is right.
    """
    batches = made_up_batches(base, longest_row)
    with noisy_adapter(base, adapter), torch.no_grad(), base.precision():
        with own_ways(base):
            own = _attempt(lambda: [[_own_logps(base, p) for p in pairs] for pairs in batches])
        if isinstance(own, Exception):
            raise ModelError(_refusal(base, "its own forward pass fails", own)) from own
        tolerance = _agreed(base, _tolerance(base, batches, own))
        layout, off = _pick_layout(base, batches, own, tolerance)
        with kept_to(base.causal, layout):
            generation, regrets = _pick_generation(
                base, batches, tolerance, ways=WAYS[layout != "packed" :]
            )
    return SelfCheck(
        layout=layout,
        generation=generation,
        tolerance_nats=tolerance,
        layout_off_nats=off,
        generation_off_nats=regrets,
    )


def _agreed(base: Base, figure: T) -> T:
    """Return the first process's figure where several share the base.

    Figures of two GPUs differ in rounding. Processes that took two ways would wait for each other.
    """
    return agree(figure) if base.is_shared else figure


def _own_logps(base: Base, pair: Encoded) -> list[Tensor]:
    """Return log-probabilities of each token but the first, for both answers' sequences."""
    found = []
    for answer in (pair.chosen_ids, pair.rejected_ids):
        ids = [*pair.prompt_ids, *answer]
        found.append(_label_logps(_own_logits(base, ids)[:-1], ids[1:]))
    return found


def _own_logits(base: Base, ids: Sequence[int]) -> Tensor:
    """Return one sequence's logits (L, V) from the model's own forward pass."""
    row = torch.tensor([list(ids)], device=base.device)
    given = {"input_ids": row, "attention_mask": torch.ones_like(row), "use_cache": False}
    logits: Tensor = base.model(**given).logits[0]
    return logits


def _label_logps(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """Return log-probabilities (L,) of labels, a few rows of logits (L, V) at a time."""
    parts = zip(logits.split(ROWS), torch.tensor(labels).split(ROWS), strict=True)
    return torch.cat([_at(_wide(rows).log_softmax(-1), some.tolist()) for rows, some in parts])


def _tolerance(base: Base, batches: Batches, own: Sequence[Sequence[Sequence[Tensor]]]) -> float:
    """Return what rounding explains, told by a prompt before answers of other lengths.

    Raises:
        ModelError: its log-probabilities depend on the answer behind it.
    """
    least, most = (TOLERANCE, MOST) if _is_fine(base) else (COARSE_TOLERANCE, COARSE_MOST)
    off = 0.0
    for pair, (chosen, rejected) in zip(chain(*batches), chain(*own), strict=True):
        start = pair.n_prompt - 1
        off = max(off, _size(base, chosen[:start] - rejected[:start]))
    if not all(part.isfinite().all() for pair in chain(*own) for part in pair):
        raise ModelError(
            f"{_name(base)} has log-probabilities that are not finite: weights or settings in its "
            "config.json are damaged; download the model again, or choose another base model"
        )
    if off > most:
        raise ModelError(
            f"{_name(base)} sees ahead: the log-probabilities of a prompt change by {off:.2g} nats "
            "with the answer behind it, so it is no causal language model as it is configured (an "
            "encoder needs is_decoder=true in its config.json); choose another base model"
        )
    return min(max(least, NOISE_RATIO * off), most)


def _pick_layout(
    base: Base, batches: Batches, own: Sequence[Sequence[Sequence[Tensor]]], tolerance: float
) -> tuple[Layout, dict[str, float | None]]:
    """Return the fastest layout whose log-probabilities are the model's own, and the figures.

    Where the long row is too long to be packed, ``packed`` takes the padded layout for
    it, as training does.
    """
    can_pack = base.causal.longest_packed_row >= LONGEST
    layouts: tuple[Layout, ...] = ("packed", "padded", "plain")
    off: dict[str, float | None] = {}
    errors: list[Exception] = []
    for layout in layouts[not can_pack :]:
        with kept_to(base.causal, layout):
            found = _attempt(lambda: [_engine_logps(base, pairs) for pairs in batches])
        difference = _note(errors, found, lambda logps: _difference(base, logps, batches, own))
        off[layout] = _agreed(base, difference)
        if _is_within(off[layout], tolerance):
            return layout, off
    raise ModelError(_refusal(base, _figures("log-probabilities", off, tolerance), *errors))


def _engine_logps(base: Base, pairs: Sequence[Encoded]) -> Tensor:
    """Return the labels' log-probabilities (N,) as training and scoring take them."""
    logps: Tensor = base.model(
        packed=to_device(pack(pairs, rejected=True, prompt_nll=True), base.device)
    )
    return logps


def _difference(
    base: Base,
    logps: Sequence[Tensor],
    batches: Batches,
    own: Sequence[Sequence[Sequence[Tensor]]],
) -> float:
    """Return how far the labels' log-probabilities are off, in the order of `pack`."""
    expected = [
        part
        for pair, (chosen, rejected) in zip(chain(*batches), chain(*own), strict=True)
        for part in (chosen, rejected[pair.n_prompt - 1 :])
    ]
    return _size(base, torch.cat(list(logps)) - torch.cat(expected))


def _pick_generation(
    base: Base, batches: Batches, tolerance: float, *, ways: Sequence[Generation]
) -> tuple[Generation, dict[str, float | None]]:
    """Return the fastest way of answering whose tokens the model itself prefers."""
    prompts = [[pair.prompt_ids for pair in pairs] for pairs in batches]
    off: dict[str, float | None] = {}
    errors: list[Exception] = []
    for way in ways:
        answers = _attempt(functools.partial(_answers, base, prompts, way))
        with own_ways(base):
            regret = _note(errors, answers, lambda found: _regret(base, prompts, found))
        off[way] = _agreed(base, regret)
        if _is_within(off[way], tolerance):
            return way, off
    raise ModelError(_refusal(base, _figures("greedy answers", off, tolerance), *errors))


def _answers(
    base: Base, prompts: Sequence[Sequence[Sequence[int]]], way: Generation
) -> list[list[list[int]]]:
    """Answer without an end; the short batch also with one that an answer meets early."""
    answer = functools.partial(
        answer_greedily,
        base.model,
        limit=NEW_TOKENS,
        pad=base.tokenizer.pad_token_id,
        way=way,
    )
    never = base.causal.get_input_embeddings().weight.shape[0]
    short, *long = [answer(batch, end=never) for batch in prompts]
    ended = answer(prompts[0], end=short[0][NEW_TOKENS // 2])
    agree = all(some == every[: len(some)] for some, every in zip(ended, short, strict=True))
    return [short if agree else ended, *long]


def _regret(
    base: Base,
    prompts: Sequence[Sequence[Sequence[int]]],
    answers: Sequence[Sequence[Sequence[int]]],
) -> float:
    """Return how far answers' tokens are below those that the model prefers."""
    regrets = []
    for prompt, answer in zip(chain(*prompts), chain(*answers), strict=True):
        logits = _wide(_own_logits(base, [*prompt, *answer])[len(prompt) - 1 : -1])
        regrets.append(logits.amax(-1) - _at(logits, answer))
    return _size(base, torch.cat(regrets))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _at(values: Tensor, ids: Sequence[int]) -> Tensor:
    """Return the entry of each row (L, V) that a token names, (L,)."""
    return values.gather(1, torch.tensor(list(ids), device=values.device)[:, None])[:, 0]


def _is_fine(base: Base) -> bool:
    return base.dtype.itemsize >= 4


def _size(base: Base, differences: Tensor) -> float:
    """Return the largest difference in float32, their root mean square in 16 bits.

    What is not a number differs without bound.
    """
    sizes = differences.float().abs().nan_to_num(nan=math.inf)
    return (sizes.amax() if _is_fine(base) else sizes.square().mean().sqrt()).item()


def _is_within(off: float | None, tolerance: float) -> bool:
    return off is not None and off <= tolerance


def _attempt(work: Callable[[], T]) -> T | Exception:
    """Return what an architecture makes of some work: a result, or whatever it raises."""
    try:
        return work()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - any architecture's code may run here
        return error


def _note(
    errors: list[Exception], found: T | Exception, measure_it: Callable[[T], float]
) -> float | None:
    """Measure a result, or keep the error that stands in its place."""
    if isinstance(found, Exception):
        errors.append(found)
        return None
    return measure_it(found)


def _refusal(base: Base, what: str, *errors: Exception) -> str:
    cause = f", likely because of {why}" if (why := likely_cause(base.causal)) else ""
    raised = f" ({type(errors[-1]).__name__}: {first_line(errors[-1])[:120]})" if errors else ""
    return (
        f"{_name(base)} fails the check of a model against itself: {what}{raised}{cause}; "
        "choose another base model or other adapter.target_modules"
    )


def _slower(base: Base, found: SelfCheck) -> str:
    parts = []
    if found.layout == "plain":
        parts.append("its own forward pass, one row per answer with all logits")
    if found.generation not in WAYS[:2]:
        parts.append(f"answers {found.generation}")
    cause = f" (likely because of {why})" if (why := likely_cause(base.causal)) else ""
    return f"{_name(base)} is served by {' and '.join(parts)}{cause}: exact but slower"


def _figures(what: str, off: dict[str, float | None], tolerance: float) -> str:
    listed = ", ".join(
        f"{name} {'failed' if value is None else f'{value:.2g}'}" for name, value in off.items()
    )
    return f"{what} are off by at most {tolerance:g} nats in no way ({listed})"


def _name(base: Base) -> str:
    config = base.causal.config
    return f"model {config.name_or_path or config.model_type!r} ({type(base.causal).__name__})"


def _key(base: Base, adapter: AdapterConfig, longest_row: int) -> str:
    """Name everything that a check's result depends on."""
    return digest(
        {
            "model": [base.causal.config.name_or_path, type(base.causal).__name__, base.resolved],
            "attention": base.causal.config._attn_implementation,  # noqa: SLF001
            "adapter": asdict(adapter),
            "trained": list(base.trained_token_ids),
            "longest": longest_made_up(base, longest_row),
            "packed": str(base.causal.longest_packed_row),
            "device": device_name(str(base.device)),
            "versions": versions(),
            "code": _code(),
            **({"processes": n_processes()} if base.is_shared else {}),
        }
    )[:32]


@functools.cache
def _code() -> str:
    """Return a checksum of this package's source, which the engine is a part of."""
    folder = Path(study.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return digest([[path.relative_to(folder).as_posix(), checksum(path)] for path in files])


def _remembered(path: Path) -> SelfCheck | None:
    try:
        content = read_json(path)
    except RecordError:  # damaged: it is measured again
        return None
    return None if content is None else SelfCheck(**content)
