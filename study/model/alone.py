"""A base model as it is by itself: its own forward pass, an adapter of noise, made-up pairs."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from study.config.recipe import AdapterConfig
from study.engine.encoded import Encoded
from study.engine.forward import Layout, use_layout
from study.model.adapter import fresh_adapter
from study.model.base import Base

LENGTHS = ((5, 7, 4), (9, 3, 8), (3, 6, 2))
"""Tokens of prompt, chosen and rejected answer of the made-up pairs."""

LONGEST = max(prompt + max(answers) for prompt, *answers in LENGTHS)

LONG_ANSWER = 7
"""Tokens of the answer that ends the longest row."""

LOGITS = 2**28
"""Elements of the longest row's logits at most: 1 GiB in float32."""

NOISE = 0.02
"""Standard deviation of what is added to a fresh adapter."""

SEED = 7


@contextlib.contextmanager
def own_ways(base: Base) -> Iterator[None]:
    """Give the model back what the engine put in its place for a while.

    Its attention, its norms, PEFT's layers; trained rows stand in the embedding
    itself, because PEFT's layer for them leaves out the output layer's bias.
    """
    causal = base.causal
    ours = {
        module: vars(module).pop("forward")
        for module in causal.modules()
        if isinstance(forward := vars(module).get("forward"), functools.partial)
        and forward.func.__module__.startswith("study.")
    }
    rows = [module for module in causal.modules() if hasattr(module, "trainable_tokens_delta")]
    attention = causal.config._attn_implementation  # noqa: SLF001
    for layer in rows:
        (name,) = layer.active_adapters
        weight, rows_of = layer.base_layer.weight, layer.trainable_tokens_delta[name]
        weight[layer.token_indices[name]] = rows_of.to(weight.dtype)
        layer.merged_adapters.append(name)
    causal.set_attn_implementation(causal.own_attention)
    try:
        yield
    finally:
        causal.set_attn_implementation(attention)
        for layer in rows:
            layer.unmerge()
        for module, forward in ours.items():
            module.forward = forward


@contextlib.contextmanager
def noisy_adapter(base: Base, adapter: AdapterConfig) -> Iterator[None]:
    """Attach or borrow the adapter and add noise to it; leave everything as it was."""
    attached, training = base.initial is not None, base.model.training
    before = {name: p.detach().clone() for name, p in _trained(base)} if attached else {}
    devices = [base.device] if base.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            fresh_adapter(base, adapter, seed=SEED).eval()
            generator = torch.Generator().manual_seed(SEED)
            with torch.no_grad():
                for _, parameter in _trained(base):
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(NOISE * noise.to(parameter))
            yield
    finally:
        if attached:
            with torch.no_grad():
                for name, parameter in _trained(base):
                    parameter.copy_(before[name])
        elif base.initial is not None:
            base.model, base.initial = base.model.unload(), None
        base.model.train(training)


@contextlib.contextmanager
def kept_to(causal: Any, layout: Layout) -> Iterator[None]:
    """Keep an installed model to a layout for a while."""
    before = causal.longest_packed_row, causal.keeps_own_forward
    attention = causal.config._attn_implementation  # noqa: SLF001 - there is no public word
    use_layout(causal, layout)
    try:
        yield
    finally:
        causal.longest_packed_row, causal.keeps_own_forward = before
        causal.set_attn_implementation(attention)


def made_up_batches(base: Base, longest_row: int) -> list[list[Encoded]]:
    """Return batches of ordinary tokens, drawn at random, with the trained ones among them.

    The first is short. Where a study's rows are longer, a second one holds a row as
    long beside a short one: there windows close, states are cut into chunks, rotary
    embeddings change, and attention takes its other form.
    """
    n_rows = base.causal.get_input_embeddings().weight.shape[0]
    special = set(base.tokenizer.all_special_ids)
    ordinary = [token for token in range(min(len(base.tokenizer), n_rows)) if token not in special]
    generator = torch.Generator().manual_seed(SEED)

    def draw(n: int) -> tuple[int, ...]:
        places = torch.randint(len(ordinary), (n,), generator=generator).tolist()
        ids = [ordinary[place] for place in places]
        ids[1 : 1 + len(base.trained_token_ids)] = base.trained_token_ids
        return tuple(ids[:n])

    batches: list[tuple[tuple[int, int, int], ...]] = [LENGTHS]
    if (longest := longest_made_up(base, longest_row)) > LONGEST:
        batches.append(((longest - LONG_ANSWER, LONG_ANSWER, 4), LENGTHS[-1]))
    return [
        [Encoded.of(str(place), *map(draw, lengths)) for place, lengths in enumerate(batch)]
        for batch in batches
    ]


def longest_made_up(base: Base, longest_row: int) -> int:
    """Return the tokens of the longest row that is tried.

    All its logits are held, so it is shorter than a study's where they would fill
    the memory, but long enough for the padded layout where packing ends before.
    """
    n_rows: int = base.causal.get_input_embeddings().weight.shape[0]
    packed: float = base.causal.longest_packed_row
    at_least = packed + 1 if LONGEST <= packed < longest_row else LONGEST
    return max(LONGEST, min(longest_row, max(LOGITS // n_rows, int(at_least))))


def _trained(base: Base) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in base.model.named_parameters() if p.requires_grad]
