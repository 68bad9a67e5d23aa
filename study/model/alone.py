"""A base model as it is by itself: its own forward pass, an adapter of noise, made-up pairs."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
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
        layer.base_layer.weight[layer.token_indices[name]] = layer.trainable_tokens_delta[name]
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


def made_up_pairs(base: Base) -> list[Encoded]:
    """Return pairs of ordinary tokens, drawn at random, with the trained ones among them."""
    n_tokens = min(len(base.tokenizer), base.causal.get_input_embeddings().weight.shape[0])
    special = set(base.tokenizer.all_special_ids)
    ordinary = [token for token in range(n_tokens) if token not in special]
    generator = torch.Generator().manual_seed(SEED)

    def draw(n: int, trained: Sequence[int]) -> tuple[int, ...]:
        places = torch.randint(len(ordinary), (n,), generator=generator).tolist()
        ids = [ordinary[place] for place in places]
        ids[1 : 1 + len(trained)] = trained
        return tuple(ids[:n])

    trained = base.trained_token_ids
    return [
        Encoded(str(number), "", "", *(draw(n, trained) for n in lengths))
        for number, lengths in enumerate(LENGTHS)
    ]


def _trained(base: Base) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in base.model.named_parameters() if p.requires_grad]
