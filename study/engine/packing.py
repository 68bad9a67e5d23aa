"""Pairs packed into one row of tokens: every distinct token once."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from study.engine.encoded import Encoded
from study.engine.layout import lay_out

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
    ids: list[int] = []
    positions: list[int] = []
    conversations: list[tuple[int, list[int]]] = []
    label_at: list[int] = []
    labels: list[int] = []
    label_of: list[int] = []
    for number, pair in enumerate(pairs):
        prompt = _place(ids, positions, pair.prompt_ids, 0)
        if prompt_nll:
            label_at += prompt[:-1]
            labels += pair.prompt_ids[1:]
            label_of += [number] * (len(prompt) - 1)
        answers = [pair.chosen_ids, pair.rejected_ids][: 1 + rejected]
        conversations.append((len(prompt), [len(answer_ids) for answer_ids in answers]))
        for side, answer_ids in enumerate(answers, start=1):
            answer = _place(ids, positions, answer_ids, len(prompt))
            label_at += [prompt[-1], *answer[:-1]]
            labels += answer_ids
            label_of += [side * len(pairs) + number] * len(answer)
    label_of_tensor = torch.tensor(label_of)
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "label_at": torch.tensor(label_at),
        "labels": torch.tensor(labels),
        "label_of": label_of_tensor,
        "counts": torch.bincount(label_of_tensor, minlength=3 * len(pairs)).view(3, -1),
        **lay_out(conversations)._asdict(),
        "has_rejected": rejected,
        "n_tokens": len(ids),
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


def _place(ids: list[int], positions: list[int], new: Sequence[int], start: int) -> list[int]:
    """Append tokens to the packed row and return where they went."""
    first = len(ids)
    ids += new
    positions += range(start, start + len(new))
    return list(range(first, len(ids)))


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors of a packed batch."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return [move(item) for item in value] if isinstance(value, list) else value

    return {name: move(value) for name, value in batch.items()}
