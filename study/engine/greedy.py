"""Greedy answers: in batches, or one prompt at a time where batches would be wrong.

Shapes: R rows of a batch, L tokens of the longest prompt.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

Generation = Literal["batched", "one at a time", "without a cache"]
"""How prompts are answered: left-padded together with a shared cache; each by transformers'
own loop; or each by a whole forward pass per token."""


def answer_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    limit: int,
    end: int,
    pad: int,
    way: Generation = "batched",
) -> list[list[int]]:
    """Return each prompt's answer, up to its end of turn or ``limit`` tokens.

    Args:
        model: The causal language model, wrapped by PEFT or not, in eval mode.
        prompts: Token ids, R prompts of at most L.
        limit: Tokens of an answer at most.
        end: The token that ends an answer, which is kept.
        pad: The token that fills shorter prompts.
        way: How; see `Generation`.
    """
    if way == "batched":
        return _together(model, prompts, limit=limit, end=end, pad=pad)
    alone = _by_transformers if way == "one at a time" else _without_cache
    return [alone(model, prompt, limit=limit, end=end, pad=pad) for prompt in prompts]


def _together(
    model: Any, prompts: Sequence[Sequence[int]], *, limit: int, end: int, pad: int
) -> list[list[int]]:
    """Extend a batch of prompts; rows that have ended leave the batch."""
    from transformers import DynamicCache

    device = model.device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    starts = torch.tensor([width - len(p) for p in prompts], device=device)
    positions = torch.arange(width, device=device) - starts[:, None]
    mask = (positions >= 0).long()
    cache = DynamicCache(config=model.config)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for _ in range(limit):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
        going = []
        for place, (row, token) in enumerate(zip(rows, ids[:, 0].tolist(), strict=True)):
            answers[row].append(token)
            if token != end:
                going.append(place)
        if not going:
            break
        positions = positions[:, -1:] + 1
        if len(going) < len(rows):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            ids, mask, positions = ids[kept], mask[kept], positions[kept]
            rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return answers


def _by_transformers(
    model: Any, prompt: Sequence[int], *, limit: int, end: int, pad: int
) -> list[int]:
    """Answer one prompt with `generate`, whose caches fit every architecture it knows."""
    ids = torch.tensor([list(prompt)], device=model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        eos_token_id=end,
        pad_token_id=pad,
    )
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


def _without_cache(
    model: Any, prompt: Sequence[int], *, limit: int, end: int, pad: int
) -> list[int]:
    """Answer one prompt by a whole forward pass for each token."""
    del pad  # one row needs none
    ids, n_prompt = list(prompt), len(prompt)
    while len(ids) < n_prompt + limit and (len(ids) == n_prompt or ids[-1] != end):
        row = torch.tensor([ids], device=model.device)
        ids.append(int(model(input_ids=row, use_cache=False).logits[0, -1].argmax()))
    return ids[n_prompt:]
