"""Pairs packed into one row of tokens: every distinct token once."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from study.engine.encoded import Encoded
from study.engine.layout import lay_out, spans

PASS_BYTES_ON_CPU = 2**13
"""Tokens of one forward pass on a CPU unless a recipe says, times the bytes of a value: so
caches hold their activations. 2,048 tokens in float32."""


def pack(pairs: Sequence[Encoded], *, rejected: bool, prompt_nll: bool) -> dict[str, Any]:
    """Lay out pairs as one row of distinct tokens, with labels and attention rows.

    Args:
        pairs: Encoded pairs, B of them.
        rejected: Include the rejected answers, sharing each prompt.
        prompt_nll: Put labels on the prompt's tokens too.

    Returns:
        Tensors by name, ready for `pair_logps`: ``input_ids`` and
        ``position_ids`` (1, T); ``label_at``, ``labels`` and ``label_of`` (N,);
        ``counts`` (3, B), the labels of prompt, chosen and rejected; the
        fields of `Sequences`; ``has_rejected`` and ``n_tokens`` as plain values.
    """
    lengths = np.array([(p.n_prompt, p.n_chosen, p.n_rejected)[: 2 + rejected] for p in pairs])
    n_tokens = int(lengths.sum())
    rows = zip(pairs, lengths.sum(1), strict=True)
    ids = np.concatenate([np.asarray(p.ids[:n], np.int64) for p, n in rows])
    number, side = np.indices(lengths.shape).reshape(2, -1).repeat(lengths.ravel(), axis=1)  # (T,)
    firsts = np.where(np.indices(lengths.shape)[1] > 0, lengths[:, :1], 0)
    positions = spans(firsts.ravel(), lengths.ravel())
    n_prompt = lengths[number, 0]
    before = np.arange(n_tokens) - 1
    before -= np.where((side == 2) & (positions == n_prompt), lengths[number, 1], 0)
    labelled = (side > 0) | ((positions > 0) & prompt_nll)
    label_of = torch.from_numpy((side * len(pairs) + number)[labelled])
    conversations = [(row[0], row[1:]) for row in lengths.tolist()]
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "label_at": torch.from_numpy(before[labelled]),
        "labels": torch.from_numpy(ids[labelled]),
        "label_of": label_of,
        "counts": torch.bincount(label_of, minlength=3 * len(pairs)).view(3, -1),
        **lay_out(conversations)._asdict(),
        "has_rejected": rejected,
        "n_tokens": n_tokens,
    }


def split(pairs: Sequence[Encoded], n_tokens: float) -> list[list[Encoded]]:
    """Cut pairs, in order, into parts of at most so many distinct tokens.

    A pair that has more stands alone. Gradients of parts add up to the whole's.
    """
    parts: list[list[Encoded]] = []
    room = 0.0
    for pair in pairs:
        if not parts or pair.n_tokens > room:
            parts.append([])
            room = n_tokens
        parts[-1].append(pair)
        room -= pair.n_tokens
    return parts


def tokens_per_pass(chosen: int, *, device: str, value_bytes: int) -> float:
    """Return ``training.microbatch_tokens``, or a device's own where it is 0."""
    return chosen or (PASS_BYTES_ON_CPU // value_bytes if device == "cpu" else math.inf)


def pin(batch: dict[str, Any], *, device: str) -> dict[str, Any]:
    """Lay a batch into memory from which a CUDA device copies while Python goes on."""
    return _each_tensor(batch, torch.Tensor.pin_memory) if device == "cuda" else batch


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors of a packed batch; nothing waits for those that are pinned."""
    return _each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _each_tensor(
    batch: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, Any]:
    def changed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        return [changed(item) for item in value] if isinstance(value, list) else value

    return {name: changed(value) for name, value in batch.items()}
