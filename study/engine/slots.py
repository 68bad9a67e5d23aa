"""Keys and values of answers in progress: a slot for each, of one size, allocated once.

A forward pass takes the tokens of some slots as one row: whole prompts, packed, or the
next token of every slot in use. Linear layers see no padding, and nothing is copied
where a row gets a token, as it is in a cache that grows.

Shapes: T tokens of a pass, S slots, n of them in use, W tokens of a slot, A attention
heads, E key heads, D head size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.engine.layout import Sequences, lay_out, on_device


class Pass(NamedTuple):
    """What one forward pass computes, and where its keys and values go."""

    slots: "Slots"
    ids: Tensor  # (T,)
    slot_of: Tensor  # (T,)
    positions: Tensor  # (T,)
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
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def first_pass(self, first: int, prompts: Sequence[Sequence[int]]) -> Pass:
        """Return the pass that brings prompts into the slots from ``first`` on."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        sequences = lay_out([(len(prompt), []) for prompt in prompts])
        return Pass(
            self,
            ids=self._put([token for prompt in prompts for token in prompt]),
            slot_of=(first + torch.arange(len(prompts)).repeat_interleave(lengths)).to(self.device),
            positions=torch.cat([torch.arange(n) for n in lengths]).to(self.device),
            last_at=(lengths.cumsum(0) - 1).to(self.device),
            sequences=on_device(sequences, self.device),
            longest=sequences.longest_key,
            mask=None,
        )

    def next_pass(self, tokens: Sequence[int], positions: Sequence[int]) -> Pass:
        """Return the pass that gives each slot in use its next token."""
        at, longest = self._put(positions), max(positions) + 1
        seen = torch.arange(longest, device=self.device) <= at[:, None]
        every = torch.arange(len(tokens), device=self.device)
        return Pass(self, self._put(tokens), every, at, every, None, longest, seen[:, None, None])

    def keep(self, layer: nn.Module, given: Pass, key: Tensor, value: Tensor) -> None:
        """Write a layer's keys and values (T, E, D) to where their tokens belong."""
        if id(layer) not in self._kept:
            shape = self.n_slots, key.shape[1], self.width
            self._kept[id(layer)] = (
                key.new_zeros(*shape, key.shape[2]),
                value.new_zeros(*shape, value.shape[2]),
            )
        for kept, new in zip(self._kept[id(layer)], (key, value), strict=True):
            kept[given.slot_of, :, given.positions] = new

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

    def _put(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.device)


def token_bytes(config: Any, value_bytes: int) -> int:
    """Return what keys and values of one token take in all layers of a model."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * value_bytes)
