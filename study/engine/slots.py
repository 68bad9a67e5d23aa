"""Keys and values of answers in progress: a slot for each, of one size, allocated once.

A forward pass takes the tokens of some slots as one row: whole prompts, packed, or the
next token of every slot in use. Linear layers see no padding, and nothing is copied
where a row gets a token, as it is in a cache that grows. What prompts of a pass have in
common at their beginning, such as a system prompt, is computed once for all of them.

Shapes: T tokens of a pass, K of which keys and values are kept, S slots, n of them in
use, W tokens of a slot, A attention heads, E key heads, D head size.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.engine.layout import Sequences, lay_out, on_device, spans


class Pass(NamedTuple):
    """What one forward pass computes, and where its keys and values go."""

    slots: "Slots"
    ids: Tensor  # (T,)
    positions: Tensor  # (T,)
    kept: Tensor | None  # (K,): the token whose key and value are kept; None for all of them
    slot_of: Tensor  # (K,): in which slot
    place_of: Tensor  # (K,): and where
    last_at: Tensor  # which tokens predict the next
    sequences: Sequences | None
    """Of whole prompts; None where every slot in use has one token."""
    longest: int
    """Tokens of the longest row, the new one included."""
    mask: Tensor | None  # (n, 1, 1, longest): which keys each slot's new token sees


class Slots:
    """The memory of answers in progress; slots in use are the first ones."""

    def __init__(self, n_slots: int, width: int, device: torch.device) -> None:
        """Reserve ``n_slots`` rows of ``width`` tokens, prompt and answer together."""
        self.n_slots, self.width, self.device = n_slots, width, device
        self.pick: Callable[[Tensor], Tensor] | None = None
        """Picks the next tokens; kept as long as the slots, because it lays weights out."""
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def first_pass(
        self, first: int, prompts: Sequence[Sequence[int]], opening: Sequence[int] = ()
    ) -> Pass:
        """Return the pass that brings prompts into the slots from ``first`` on.

        Args:
            first: The first of the slots.
            prompts: Token ids of each; those that begin with the opening come first.
            opening: Tokens that these have in common.
        """
        n_sharing = sum(begins_with(prompt, opening) for prompt in prompts)
        n_sharing, opening = (n_sharing, opening) if n_sharing > 1 else (0, ())
        lengths = np.array([len(prompt) for prompt in prompts])
        shared = np.where(np.arange(len(prompts)) < n_sharing, len(opening), 0)
        own = lengths - shared
        starts = len(opening) + own.cumsum() - own
        row, place = np.repeat(np.arange(len(prompts)), lengths), spans(0 * lengths, lengths)
        behind = place - shared[row]  # an opening, or before its end
        conversations = [(len(opening), own[:n_sharing])] if n_sharing else []
        sequences = lay_out([*conversations, *((int(n), []) for n in own[n_sharing:])])
        every = zip(prompts, shared, strict=True)
        return Pass(
            self,
            ids=self._put([*opening, *(token for prompt, n in every for token in prompt[n:])]),
            positions=self._put(np.concatenate([np.arange(len(opening)), place[behind >= 0]])),
            kept=self._put(np.where(behind < 0, place, starts[row] + behind)),
            slot_of=self._put(first + row),
            place_of=self._put(place),
            last_at=self._put(starts + own - 1),
            sequences=on_device(sequences, self.device),
            longest=sequences.longest_key,
            mask=None,
        )

    def next_pass(self, tokens: Sequence[int], positions: Sequence[int]) -> Pass:
        """Return the pass that gives each slot in use its next token."""
        at, longest = self._put(positions), max(positions) + 1
        seen = torch.arange(longest, device=self.device) <= at[:, None]
        every = torch.arange(len(tokens), device=self.device)
        mask = seen[:, None, None]
        return Pass(self, self._put(tokens), at, None, every, at, every, None, longest, mask)

    def keep(self, layer: nn.Module, given: Pass, key: Tensor, value: Tensor) -> None:
        """Write a layer's keys and values (T, E, D) to where their tokens belong."""
        if id(layer) not in self._kept:
            shape = self.n_slots, key.shape[1], self.width
            self._kept[id(layer)] = (
                key.new_zeros(*shape, key.shape[2]),
                value.new_zeros(*shape, value.shape[2]),
            )
        for kept, new in zip(self._kept[id(layer)], (key, value), strict=True):
            placed = new if given.kept is None else new[given.kept]
            kept[given.slot_of, :, given.place_of] = placed

    def attend(self, layer: nn.Module, given: Pass, query: Tensor, scaling: float | None) -> Tensor:
        """Return the attention (n, A, D) of each slot's new token (n, A, D) to its row."""
        n = len(query)
        key, value = (kept[:n, :, : given.longest] for kept in self._kept[id(layer)])
        grouped = query.view(n, key.shape[1], -1, query.shape[2])  # heads that share keys
        out = F.scaled_dot_product_attention(
            grouped, key, value, attn_mask=given.mask, scale=scaling
        )
        return out.reshape(n, query.shape[1], -1)

    def move(self, source: int, target: int) -> None:
        """Give a slot the row of another one."""
        for pair in self._kept.values():
            for kept in pair:
                kept[target] = kept[source]

    def _put(self, values: Any) -> Tensor:
        return torch.as_tensor(values, device=self.device)


def begins_with(prompt: Sequence[int], opening: Sequence[int]) -> bool:
    """Tell whether a prompt goes on behind an opening."""
    n = len(opening)
    return 0 < n < len(prompt) and list(prompt[:n]) == list(opening)


def opening_of(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens at the beginning of prompts that spare most, if computed once."""
    found: list[int] = []
    spared = 0
    order = sorted(map(list, prompts))
    for one, other in itertools.pairwise(order):
        pairs = zip(one[:-1], other[:-1], strict=False)
        n = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        opening = one[:n]
        if opening != found and n * (len(order) - 1) > spared:
            spares = n * (sum(begins_with(prompt, opening) for prompt in order) - 1)
            found, spared = (opening, spares) if spares > spared else (found, spared)
    return found


def token_bytes(config: Any, value_bytes: int) -> int:
    """Return what keys and values of one token take in all layers of a model."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * value_bytes)
