"""The low-rank adapter: attached once, drawn afresh for every run from its seed alone."""

import math
from typing import Any

import torch
from torch import nn

from study.config.recipe import AdapterConfig
from study.engine.lora import fuse_adapters
from study.errors import ModelError, first_line
from study.model.base import Base


def fresh_adapter(base: Base, config: AdapterConfig, *, seed: int) -> nn.Module:
    """Attach an adapter, or return the attached one to its initial state.

    The first matrix of each LoRA pair is drawn from a generator of its own, on
    the CPU, so that a run's start depends on its seed and on nothing else.

    Raises:
        ModelError: a target module is not in the model.
    """
    if base.initial is None:
        base.model = _attach(base, config)
        base.initial = {
            name: parameter.detach().clone() for name, parameter in _trainable(base.model)
        }
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in _trainable(base.model):
            parameter.grad = None
            if "lora_A" in name:
                draw = torch.empty(parameter.shape, dtype=torch.float32)
                nn.init.kaiming_uniform_(draw, a=math.sqrt(5), generator=generator)
                parameter.copy_(draw)
            else:
                parameter.copy_(base.initial[name])
    return base.model  # type: ignore[no-any-return]


def _attach(base: Base, config: AdapterConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_dora=config.kind == "dora",
        use_rslora=config.kind == "rslora",
        target_modules=list(config.target_modules),
        trainable_token_indices=_trained_tokens(base),
    )
    try:
        model = get_peft_model(base.model, lora)
    except ValueError as error:
        raise ModelError(f"cannot attach the adapter: {first_line(error)}") from error
    fuse_adapters(model)
    return model


def _trained_tokens(base: Base) -> dict[str, list[int]] | None:
    """Name the layers whose rows of the chat tokens are trained: both when untied."""
    if not base.trained_token_ids:
        return None
    ids = list(base.trained_token_ids)
    layers = {base.model.get_input_embeddings(): ids}
    if not base.model.config.get_text_config().tie_word_embeddings:
        layers[base.model.get_output_embeddings()] = ids
    return {
        name.rpartition(".")[2]: layers[module]
        for name, module in base.model.named_modules()
        if module in layers
    }


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
