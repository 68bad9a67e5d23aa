"""The low-rank adapter: attached once, drawn afresh for every run from its seed alone."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from study.config.recipe import AdapterConfig
from study.engine.lora import fuse_adapters
from study.errors import ModelError, first_line
from study.model.base import Base

ALL_LINEAR = ("all-linear",)
"""What ``adapter.target_modules`` is where every linear layer but the output's is meant."""

MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Model types in which PEFT refuses adapters on `BYPASSED`: their kernels read the weights."""

BYPASSED = ("conv1d", "out_proj")


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


def scaling_of(config: AdapterConfig) -> float:
    """Return what the product of an adapter's matrices is multiplied by (Kalajdzievski 2023)."""
    root = math.sqrt(config.rank) if config.kind == "rslora" else config.rank
    return config.alpha / root


def _attach(base: Base, config: AdapterConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_dora=config.kind == "dora",
        use_rslora=config.kind == "rslora",
        fan_in_fan_out=any(type(layer).__name__ == "Conv1D" for layer in base.model.modules()),
        target_modules=_targets(base.model, config.target_modules),
        trainable_token_indices=_trained_tokens(base) if config.chat_tokens == "trained" else None,
    )
    try:
        model = get_peft_model(base.model, lora)
    except Exception as error:  # any architecture's layers may be met here
        raise ModelError(
            f"cannot attach the adapter to {type(base.model).__name__}: {first_line(error)}"
        ) from error
    fuse_adapters(model)
    _keep_output_bias(model)
    return model


def _targets(model: Any, names: Sequence[str]) -> list[str]:
    """Return what gets an adapter; every name must be one of the model's layers.

    PEFT takes a list of which some are there, and says nothing of the rest (peft#3554).
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if _is_linear(layer) and layer is not model.get_output_embeddings()
    }
    if tuple(names) == ALL_LINEAR:
        bypassed = BYPASSED if model.config.model_type in MAMBA else ()
        return [name for name in layers if name.rpartition(".")[2] not in bypassed]
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    absent = [name for name in names if name.rpartition(".")[2] not in known]
    if absent:
        there = sorted({name.rpartition(".")[2] for name in layers})
        raise ModelError(
            f"adapter.target_modules names {', '.join(absent)}, which {type(model).__name__} does "
            f"not have; its linear layers are {', '.join(there)}; name some of these, or "
            "all of them with --set 'adapter.target_modules=[\"all-linear\"]'"
        )
    return list(names)


def _is_linear(layer: nn.Module) -> bool:
    """Tell PyTorch's, bitsandbytes' and GPT-2's linear layers from routers built on them."""
    kind = type(layer).__name__
    return kind == "Conv1D" or (isinstance(layer, nn.Linear) and "Linear" in kind)


def _keep_output_bias(model: Any) -> None:
    """Add the bias of an output layer whose rows are trained, which PEFT leaves out."""
    adapter = getattr(model.get_output_embeddings(), "token_adapter", None)
    if adapter is not None and getattr(adapter.base_layer, "bias", None) is not None:
        adapter.forward = functools.partial(_with_bias, adapter, adapter.forward)


def _with_bias(adapter: Any, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    out = original(x)
    has_it = adapter.disable_adapters or adapter.merged or not adapter.active_adapters
    return out if has_it else out + adapter.base_layer.bias


def _trained_tokens(base: Base) -> dict[str, list[int]] | None:
    """Name the layers whose rows of the chat tokens are trained: both when untied."""
    if not base.trained_token_ids:
        return None
    ids = list(base.trained_token_ids)
    layers = {base.model.get_input_embeddings(): ids}
    text = base.model.config.get_text_config()
    if not getattr(text, "tie_word_embeddings", False):
        layers[base.model.get_output_embeddings()] = ids
    return {
        name.rpartition(".")[2]: layers[module]
        for name, module in base.model.named_modules()
        if module in layers
    }


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
