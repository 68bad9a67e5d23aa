"""Answers, greedy or drawn: in slots, in batches, or alone where batches would be wrong.

Shapes: R rows of a batch, L tokens of the longest prompt.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from study.engine.slots import Pass, Slots, begins_with, opening_of, token_bytes

Generation = Literal["in slots", "batched", "one at a time", "without a cache"]
"""How prompts are answered: each in a slot that the next prompt takes over as soon as its answer
ends; left-padded together with a shared cache; each by transformers' own loop; or each by a whole
forward pass per token."""

CACHE_BYTES, CACHE_BYTES_ON_CPU = 2**32, 2**29
"""Keys and values of all answers in progress take no more, unless one alone does."""

SLOTS, SLOTS_ON_CPU = 256, 64
"""Answers in progress at most. With more of them a CPU takes longer for a token in proportion."""

JOINING_SHARE = 8
"""Prompts join when one in so many slots is free, or all that wait have room: together they
share what they have in common, and a larger product costs less per token."""

PREFILL_TOKENS = 2048
"""Tokens of prompts in one forward pass, unless one alone has more."""

Pick = Callable[[Tensor], Tensor]
"""Logits ``(R, V)`` of R rows over V tokens -> the next token of each, ``(R, 1)``."""


def answer_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    limit: int,
    end: int,
    pad: int,
    way: Generation = "batched",
    batch: int | None = None,
) -> list[list[int]]:
    """Return each prompt's answer, up to its end of turn or ``limit`` tokens.

    Args:
        model: The causal language model, wrapped by PEFT or not, in eval mode.
        prompts: Token ids of each.
        limit: Tokens of an answer at most.
        end: The token that ends an answer, which is kept.
        pad: The token that fills shorter prompts.
        way: How; see `Generation`. A model must be prepared by `install` for slots;
            rows too long for its packed attention are batched.
        batch: Prompts that are batched together; None for all of them.
    """
    if not prompts:
        return []
    if way == "in slots" and _takes_slots(model, prompts, limit):
        return _in_slots(model, prompts, limit=limit, end=end)
    if way in {"in slots", "batched"}:
        return _in_batches(model, prompts, limit=limit, end=end, pad=pad, batch=batch)
    alone = _by_transformers if way == "one at a time" else _without_cache
    return [alone(model, prompt, limit=limit, end=end, pad=pad) for prompt in prompts]


def draw_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    limit: int,
    end: int,
    pad: int,
    pick: Pick,
    way: Generation = "batched",
    batch: int | None = None,
) -> list[list[int]]:
    """Return each prompt's answer, its tokens picked by a rule; see `answer_greedily`.

    ``pick`` chooses each token from its logits. A model that batches are wrong for
    answers by a whole forward pass per token.
    """
    if way in {"in slots", "batched"}:
        return _in_batches(model, prompts, limit=limit, end=end, pad=pad, batch=batch, pick=pick)
    return [
        _without_cache(model, prompt, limit=limit, end=end, pad=pad, pick=pick)
        for prompt in prompts
    ]


def by_chance(*, seed: int, temperature: float, top_p: float) -> Pick:
    """Return a rule that draws tokens from the likeliest ones (Holtzman et al. 2020).

    Args:
        seed: of the draws; logits that differ in rounding may still part ways.
        temperature: logits are divided by it.
        top_p: share of the probability that the likeliest tokens have, of which the
            fewest that reach it are kept.
    """
    generator = torch.Generator().manual_seed(seed)

    def pick(logits: Tensor) -> Tensor:
        shares, tokens = (logits.float().cpu() / temperature).softmax(-1).sort(descending=True)
        shares[shares.cumsum(-1) - shares >= top_p] = 0.0
        return tokens.gather(-1, torch.multinomial(shares, 1, generator=generator)).to(
            logits.device
        )

    return pick


def likeliest(logits: Tensor) -> Tensor:
    """Pick the token that is the most likely."""
    return logits.argmax(-1, keepdim=True)


def n_slots(token_bytes: int, *, width: int, device: str) -> int:
    """Return how many answers are made at a time.

    Args:
        token_bytes: What keys and values of one token take in all layers.
        width: Tokens of the longest prompt with its answer.
        device: Kind of device.
    """
    budget, most = cache_bound(device)
    return max(1, min(most, budget // (width * token_bytes)))


def cache_bound(device: str) -> tuple[int, int]:
    """Return bytes of keys and values, and answers in progress, at most on a kind of device."""
    return (CACHE_BYTES_ON_CPU, SLOTS_ON_CPU) if device == "cpu" else (CACHE_BYTES, SLOTS)


def _takes_slots(model: Any, prompts: Sequence[Sequence[int]], limit: int) -> bool:
    longest: float = _causal(model).longest_packed_row
    return max(map(len, prompts)) + limit <= longest


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _agreed(model: Any, tokens: Tensor) -> Tensor:
    """Return what several processes that compute together pick, see `install`."""
    agree = getattr(_causal(model), "agreed", None)
    return tokens if agree is None else agree(tokens)


def _in_slots(
    model: Any, prompts: Sequence[Sequence[int]], *, limit: int, end: int
) -> list[list[int]]:
    """Answer the longest prompts first; where answers end, the next prompts begin."""
    width = max(map(len, prompts)) + limit
    config = _causal(model).config.get_text_config()
    device = model.device
    most = n_slots(token_bytes(config, model.dtype.itemsize), width=width, device=device.type)
    slots = Slots(min(most, len(prompts)), width, device)
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # taken from its end
    answers: list[list[int]] = [[] for _ in prompts]
    rows: list[int] = []  # prompt of each slot in use
    opening = opening_of(prompts)

    def go_on(first: int, given: Pass) -> None:
        """Run a pass for the slots from ``first`` on; those that end are taken by the last ones."""
        for row, token in zip(rows[first:], model(given=given).tolist(), strict=True):
            answers[row].append(token)
        for slot in reversed(range(first, len(rows))):
            answer = answers[rows[slot]]
            if answer[-1] == end or len(answer) == limit:
                last = rows.pop()
                if slot < len(rows):
                    rows[slot] = last
                    slots.move(len(rows), slot)

    while waiting or rows:
        while waiting and slots.n_slots - len(rows) >= min(
            len(waiting), max(1, slots.n_slots // JOINING_SHARE)
        ):
            first, free = len(rows), slots.n_slots - len(rows)
            joining = _next_prompts(waiting, prompts, free)
            joining.sort(key=lambda row: not begins_with(prompts[row], opening))
            rows += joining
            go_on(first, slots.first_pass(first, [prompts[row] for row in joining], opening))
        if rows:
            positions = [len(prompts[row]) + len(answers[row]) - 1 for row in rows]
            go_on(0, slots.next_pass([answers[row][-1] for row in rows], positions))
    return answers


def _next_prompts(waiting: list[int], prompts: Sequence[Sequence[int]], free: int) -> list[int]:
    """Take prompts for free slots that fit into one pass."""
    taken = [waiting.pop()]
    n_tokens = len(prompts[taken[0]])
    while waiting and len(taken) < free:
        n_tokens += len(prompts[waiting[-1]])
        if n_tokens > PREFILL_TOKENS:
            break
        taken.append(waiting.pop())
    return taken


def _in_batches(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    limit: int,
    end: int,
    pad: int,
    batch: int | None,
    pick: Pick = likeliest,
) -> list[list[int]]:
    """Answer prompts of similar length together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = batch or len(prompts)
    answers: list[list[int]] = [[]] * len(prompts)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        mine = [prompts[row] for row in rows]
        for row, ids in zip(
            rows, _together(model, mine, limit=limit, end=end, pad=pad, pick=pick), strict=True
        ):
            answers[row] = ids
    return answers


def _together(
    model: Any, prompts: Sequence[Sequence[int]], *, limit: int, end: int, pad: int, pick: Pick
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
        ids = _agreed(model, pick(logits[:, -1]))
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
        synced_gpus=getattr(_causal(model), "is_shared", False),
    )
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


def _without_cache(
    model: Any,
    prompt: Sequence[int],
    *,
    limit: int,
    end: int,
    pad: int,
    pick: Pick = likeliest,
) -> list[int]:
    """Answer one prompt by a whole forward pass for each token."""
    del pad  # one row needs none
    ids, n_prompt = list(prompt), len(prompt)
    while len(ids) < n_prompt + limit and (len(ids) == n_prompt or ids[-1] != end):
        row = torch.tensor([ids], device=model.device)
        logits = model(input_ids=row, use_cache=False).logits
        ids.append(int(_agreed(model, pick(logits[:, -1]))))
    return ids[n_prompt:]
