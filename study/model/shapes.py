"""Shapes of models without their weights: dimensions, layers and counts."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from study.config.recipe import AdapterConfig, ModelConfig
from study.errors import ModelError
from study.model.locate import locate
from study.model.wheels import find_wheel

if TYPE_CHECKING:
    from transformers import PretrainedConfig
else:
    PretrainedConfig = Any

PUBLISHED_DIMENSIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "HuggingFaceTB/SmolLM2-1.7B": {
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 8192,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
        "meta-llama/Llama-3.2-1B": {
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 8192,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": True,
        },
        "meta-llama/Meta-Llama-3-8B": {
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
        },
        "meta-llama/Meta-Llama-3-70B": {
            "hidden_size": 8192,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "intermediate_size": 28672,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
        },
        "mistralai/Mistral-7B-v0.1": {
            "model_type": "mistral",
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "vocab_size": 32000,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
        },
    }
)
"""Architectures of the shipped recipes and of a larger one to plan for, Llama's but where they
say so, so that no network is needed."""


SILU = ("silu", "swish")
"""What configurations call the activation whose gates `study.engine.gates` takes."""

CHATML_IDS = (0, 1)
"""Any two rows stand for the chat tokens whose embeddings are trained."""


class Shape(NamedTuple):
    """What the formulas read from a model with its adapter."""

    n_layers: int
    hidden: int
    heads: int
    intermediate: int
    query: int
    """Attention heads times head size."""
    key_value: int
    vocabulary: int
    linear_weights: int
    """Weights that NF4 quantises: all linear layers but the output projection."""
    other_weights: int
    trainable: int
    adapted_inputs: int
    """Input features of all adapted projections together."""
    adapter_ranks: int
    """Ranks of all adapted projections together."""
    n_adapted: int
    dora_outputs: int
    """Output features of all adapted projections together; 0 without DoRA."""
    head_norms: int = 0
    """Query and key widths where a norm of its own takes each head, else 0."""
    silu_gates: bool = True
    """Whether feed-forward layers are down(silu(gate) up)."""


def meta_model(model: ModelConfig, adapter: AdapterConfig) -> Any:
    """Build a model with its adapter on the meta device, without weights.

    Raises:
        ModelError: the configuration cannot be read, or has no such modules.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from study.model.adapter import fresh_adapter
    from study.model.base import Base

    architecture = model_config(model)
    meta = torch.device("meta")
    with meta:
        causal = AutoModelForCausalLM.from_config(
            architecture, trust_remote_code=model.trust_remote_code
        )
        base = Base(causal, None, meta, CHATML_IDS)
        return fresh_adapter(base, adapter, seed=0)


def model_config(model: ModelConfig) -> PretrainedConfig:
    """Return a model's architecture: published, a package's, the toy's, a folder's, the Hub's.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoConfig, LlamaConfig

    if model.name in PUBLISHED_DIMENSIONS:
        known = {"model_type": "llama", **PUBLISHED_DIMENSIONS[model.name]}
        return AutoConfig.for_model(**known)
    if model.name.startswith("toy:"):
        from study.model.toy import base_config

        return base_config(model.name.removeprefix("toy:"))
    if model.name.startswith("pypi:"):
        return LlamaConfig(**find_wheel(model.name.removeprefix("pypi:")).architecture)
    path = locate(model.name).path if model.name.lower().endswith(".gguf") else model.name
    try:
        return AutoConfig.from_pretrained(  # type: ignore[no-any-return]
            path, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"cannot read the configuration of {model.name}: {reason}; name a model on the Hub "
            "(HF_TOKEN must be set for gated ones) or a folder with its config.json"
        ) from error


def shape_of(peft_model: Any) -> Shape:
    """Read from a model with an adapter what the memory formulas need."""
    from torch import nn

    config = peft_model.config.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    query = heads * head_size
    key_value = (getattr(config, "num_key_value_heads", None) or heads) * head_size
    modules = list(peft_model.modules())
    adapted = [module for module in modules if hasattr(module, "lora_A")]
    output = set(peft_model.get_output_embeddings().modules())
    linear = sum(
        module.weight.numel()
        for name, module in peft_model.named_modules()
        if isinstance(module, nn.Linear) and module not in output and "lora_" not in name
    )
    dora = peft_model.peft_config["default"].use_dora
    trainable, everything = peft_model.get_nb_trainable_parameters()
    return Shape(
        n_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        intermediate=config.intermediate_size,
        query=query,
        key_value=key_value,
        vocabulary=config.vocab_size,
        linear_weights=linear,
        other_weights=everything - trainable - linear,
        trainable=trainable,
        adapted_inputs=sum(module.in_features for module in adapted),
        adapter_ranks=sum(module.r["default"] for module in adapted),
        n_adapted=len(adapted),
        dora_outputs=sum(module.out_features for module in adapted) if dora else 0,
        head_norms=query + key_value if any(hasattr(module, "q_norm") for module in modules) else 0,
        silu_gates=getattr(config, "hidden_act", "") in SILU
        and any(hasattr(module, "gate_proj") for module in modules),
    )
