"""Say what this machine can do and what a recipe will ask of it.

A recipe's model is built on PyTorch's meta device, which allocates nothing:
parameter counts are exact without a single weight. The memory of a training
step is estimated from its shapes, with the formulas in the docstrings below.
"""

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from study.config import AdapterConfig, ModelConfig, Recipe
from study.environment import cache_folder, versions
from study.errors import ModelError

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
    }
)
"""Llama architectures of the shipped recipes, so that no network is needed."""

TEX_ENGINES = ("latexmk", "tectonic", "pdflatex")
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, an 8-bit scale per 64, a float32 scale per 256 of those."""
OPTIMIZER_BYTES: Mapping[str, int] = MappingProxyType(
    {"adamw_torch": 8, "adamw_torch_fused": 8, "paged_adamw_8bit": 2}
)
"""Two moments per trained parameter."""
CHATML_IDS = (0, 1)
"""Any two rows stand for the chat tokens whose embeddings are trained."""
USABLE_SHARE = 0.9
"""Share of a device's memory that an estimate may fill: the rest is context and gaps."""


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


class Memory(NamedTuple):
    """Bytes of a training step at its worst batch, by use."""

    weights: int
    adapter_and_optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Bytes altogether."""
        return sum(self)


def describe(recipe: Recipe | None, device: str) -> dict[str, Any]:
    """Describe this machine and, where one is given, what a recipe needs on it.

    Args:
        recipe: Recipe to examine, or None for the machine alone.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ModelError: there is no such device, the model's configuration cannot
            be read, or the adapter does not fit it.
    """
    from study.model import pick_device

    device = pick_device(device)
    return {
        "machine": _machine(),
        "device": device,
        "recipe": None if recipe is None else _needs(recipe, device),
    }


def as_text(description: Mapping[str, Any]) -> str:
    """Lay a description out for reading."""
    machine, needs = description["machine"], description["recipe"]
    lines = [("This machine", "")]
    lines += [(_label(name), _shown(name, machine[name])) for name in machine]
    lines += [("device in use", description["device"])]
    if needs is not None:
        parameters, memory = needs["parameters"], needs["memory_bytes"]
        lines += [
            ("", ""),
            (f"Recipe {needs['name']}", needs["model"]),
            ("parameters", f"{parameters['base']:,} in the base"),
            ("trained", f"{parameters['trainable']:,} in {needs['adapted_projections']} adapters"),
            ("memory of a step", f"{_size(memory['total'])} at worst, of which"),
            *((f"  {_label(name)}", _size(memory[name])) for name in Memory._fields),
            *(("warning", warning) for warning in needs["warnings"]),
        ]
    return "\n".join(f"{name:24}{value}".rstrip() for name, value in lines)


def meta_model(model: ModelConfig, adapter: AdapterConfig) -> Any:
    """Build a model with its adapter on the meta device, without weights.

    Raises:
        ModelError: the configuration cannot be read, or has no such modules.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from study.model import Base, fresh_adapter

    architecture = model_config(model)
    meta = torch.device("meta")
    with meta:
        causal = AutoModelForCausalLM.from_config(
            architecture, trust_remote_code=model.trust_remote_code
        )
        base = Base(causal, None, meta, CHATML_IDS)
        return fresh_adapter(base, adapter, seed=0)


def model_config(model: ModelConfig) -> PretrainedConfig:
    """Return a model's architecture: published, the toy's, a folder's or the Hub's.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoConfig, LlamaConfig

    if model.name in PUBLISHED_DIMENSIONS:
        return LlamaConfig(**PUBLISHED_DIMENSIONS[model.name])
    if model.name.startswith("toy:"):
        from study.toy import base_config

        return base_config(model.name.removeprefix("toy:"))
    try:
        return AutoConfig.from_pretrained(  # type: ignore[no-any-return]
            model.name, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
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
    adapted = [module for module in peft_model.modules() if hasattr(module, "lora_A")]
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
        query=heads * head_size,
        key_value=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
        vocabulary=config.vocab_size,
        linear_weights=linear,
        other_weights=everything - trainable - linear,
        trainable=trainable,
        adapted_inputs=sum(module.in_features for module in adapted),
        adapter_ranks=sum(module.r["default"] for module in adapted),
        n_adapted=len(adapted),
        dora_outputs=sum(module.out_features for module in adapted) if dora else 0,
    )


def step_memory(recipe: Recipe, shape: Shape, *, device: str, value_bytes: int) -> Memory:
    """Estimate the memory of one ORPO step whose pairs all have full length.

    T, the tokens of a micro-batch, is at most batch_pairs x 2 x
    max_length_tokens, a chosen and a rejected answer behind a prompt too short
    to matter, or the recipe's token budget where that is less; one pair always
    fits. SFT needs about half. Not counted: the CUDA context, gaps of the allocator and
    workspaces of kernels, for which a tenth of the device is left free.

    Args:
        recipe: Recipe whose step it is.
        shape: What `shape_of` read.
        device: Resolved device.
        value_bytes: Bytes of a value in the model's dtype.
    """
    training, tokens = recipe.training, _pass_tokens(recipe, device, value_bytes)
    return Memory(
        weights=_weight_bytes(shape, recipe.model.quantization, value_bytes),
        adapter_and_optimizer=shape.trainable * (4 + 4 + OPTIMIZER_BYTES[training.optimizer]),
        activations=tokens
        * activation_bytes(
            shape,
            value_bytes=value_bytes,
            mask_bytes=_mask_bytes(recipe.adapter.dropout, device),
            kept_keys=_kept_keys(recipe, device),
            checkpointing=training.gradient_checkpointing,
        ),
        logits=_logit_bytes(shape, tokens, value_bytes, device),
    )


def _pass_tokens(recipe: Recipe, device: str, value_bytes: int) -> int:
    from study.engine import tokens_per_pass

    training, pair = recipe.training, 2 * recipe.data.max_length_tokens
    budget = tokens_per_pass(
        training.microbatch_tokens, device=device.partition(":")[0], value_bytes=value_bytes
    )
    return int(min(training.batch_pairs * pair, max(pair, budget)))


def _kept_keys(recipe: Recipe, device: str) -> int:
    """Return how many weights a query's attention keeps on a CPU, on average.

    Half a row, as causal attention has it, and half a strip of float32, because
    what its last query sees is kept for all of it.
    """
    from study.strips import KEPT_KEYS, STRIP_BYTES

    longest, ours = recipe.data.max_length_tokens, recipe.model.attention == "auto"
    if device.partition(":")[0] != "cpu" or not ours or longest > KEPT_KEYS:
        return 0
    return longest // 2 + STRIP_BYTES // 8


def activation_bytes(
    shape: Shape, *, value_bytes: int, mask_bytes: int, kept_keys: int, checkpointing: bool
) -> int:
    """Return what the layers keep per token for the backward pass.

    With b bytes a value, hidden size H, intermediate size I, query width Q and
    key-value width K, one layer keeps:

    - the float32 inputs of its two norms, 4 · 2H;
    - each adapted projection's input and rank-r state in float32, in which
      adapters compute, 4 · (Σ inputs + Σ r), and a dropout mask of each input;
      without dropout and in float32 some inputs are shared, and this is a bound;
    - with DoRA, the outputs of base and adapter that it scales, 4 · 2 · Σ outputs;
    - queries, keys, values and output of the attention, b · (2Q + 2K), and on a
      CPU its weights, b · heads · kept keys;
    - the gate, its activation and the up-projection, b · 3I.

    With checkpointing: each layer's input, b · H, and one layer in full.
    """
    adapters = (
        4 * (shape.adapted_inputs + shape.adapter_ranks + 2 * shape.dora_outputs)
        + mask_bytes * shape.adapted_inputs
    )
    layer = (
        4 * 2 * shape.hidden
        + adapters // shape.n_layers
        + value_bytes * (2 * shape.query + 2 * shape.key_value + 3 * shape.intermediate)
        + value_bytes * shape.heads * kept_keys
    )
    if checkpointing:
        return shape.n_layers * value_bytes * shape.hidden + layer
    return shape.n_layers * layer


def _weight_bytes(shape: Shape, quantization: str, value_bytes: int) -> int:
    """NF4: 0.516 bytes per linear weight; all others in the model's dtype."""
    per_linear = NF4_BYTES if quantization == "nf4" else value_bytes
    return round(shape.linear_weights * per_linear) + shape.other_weights * value_bytes


def _logit_bytes(shape: Shape, tokens: int, value_bytes: int, device: str) -> int:
    """Two float32 and two b-byte copies of a chunk; 2b · H per label throughout."""
    from study.engine import logits_per_chunk

    chunk = min(
        max(logits_per_chunk(device.partition(":")[0]), shape.vocabulary), tokens * shape.vocabulary
    )
    return chunk * (2 * 4 + 2 * value_bytes) + tokens * 2 * value_bytes * shape.hidden


def _mask_bytes(dropout: float, device: str) -> int:
    """CUDA keeps dropout's mask as a byte, the CPU as a float32; none without."""
    if dropout == 0:
        return 0
    return 4 if device == "cpu" else 1


def _needs(recipe: Recipe, device: str) -> dict[str, Any]:
    import torch

    from study.model import pick_dtype

    shape = shape_of(meta_model(recipe.model, recipe.adapter))
    value_bytes = pick_dtype(recipe.model, torch.device(device)).itemsize
    memory = step_memory(recipe, shape, device=device, value_bytes=value_bytes)
    available = _device_bytes(device)
    return {
        "name": recipe.name,
        "model": recipe.model.name,
        "parameters": {
            "base": shape.linear_weights + shape.other_weights,
            "trainable": shape.trainable,
        },
        "adapted_projections": shape.n_adapted,
        "memory_bytes": {**memory._asdict(), "total": memory.total},
        "device_memory_bytes": available,
        "warnings": _warnings(recipe, shape, device, value_bytes, available),
    }


def _warnings(
    recipe: Recipe, shape: Shape, device: str, value_bytes: int, available: int | None
) -> list[str]:
    """Say that a step may not fit, and the first change with which it does."""

    def needed(candidate: Recipe) -> int:
        return step_memory(candidate, shape, device=device, value_bytes=value_bytes).total

    if available is None or needed(recipe) <= USABLE_SHARE * available:
        return []
    fits = (
        f"it fits with {' '.join(f'--set {change}' for change in changes)}"
        for changes in _savings(recipe, _pass_tokens(recipe, device, value_bytes))
        if needed(recipe.override(changes)) <= USABLE_SHARE * available
    )
    advice = next(
        fits, "no setting of training makes it fit; shorten data.max_length_tokens or use nf4"
    )
    return [f"a step may need {_size(needed(recipe))} of {_size(available)} on {device}; {advice}"]


def _savings(recipe: Recipe, whole: int) -> list[list[str]]:
    """List changes that save memory, the cheapest first; ``whole`` tokens pass at once."""
    pair = 2 * recipe.data.max_length_tokens
    steps = [
        f"training.microbatch_tokens={tokens}"
        for tokens in (whole // 2, whole // 4, whole // 8, pair)
        if pair <= tokens < whole
    ]
    checkpointing = "training.gradient_checkpointing=true"
    return [*([step] for step in steps), [checkpointing], *([s, checkpointing] for s in steps)]


def _machine() -> dict[str, Any]:
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    return {
        "system": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "memory_bytes": _device_bytes("cpu"),
        "versions": versions(),
        "cuda_devices": [_cuda_device(torch, n) for n in range(torch.cuda.device_count())],
        "flash_attention": _flash_attention(torch),
        "tex_engine": next((name for name in TEX_ENGINES if shutil.which(name)), None),
        "cache_folder": str(cache_folder()),
        "hub_cache": str(HF_HUB_CACHE),
        "free_disk_bytes": shutil.disk_usage(_existing(cache_folder())).free,
    }


def _cuda_device(torch: Any, number: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(number)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "bfloat16": properties.major >= 8,
    }


def _flash_attention(torch: Any) -> str:
    if not torch.cuda.is_available():
        return "no: it needs a CUDA device; a CPU has this study's own attention"
    if torch.cuda.get_device_capability()[0] < 8:
        return "no: it needs compute capability 8.0; SDPA is used"
    if "flash-attn" not in versions():
        return "no: not installed (extra gpu); PyTorch's own kernel is used"
    return "yes"


def _device_bytes(device: str) -> int | None:
    """Return a device's memory; None where the system does not tell."""
    import torch

    if device != "cpu":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _label(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _shown(name: str, value: Any) -> str:
    """Write one fact about the machine in words."""
    if name.endswith("_bytes") and value is not None:
        return _size(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {version}" for key, version in value.items())
    if isinstance(value, list):
        return "; ".join(map(_cuda_text, value)) or "none"
    return "not found" if value is None else str(value)


def _cuda_text(device: Mapping[str, Any]) -> str:
    bfloat16 = "bfloat16" if device["bfloat16"] else "no bfloat16"
    memory = _size(device["memory_bytes"])
    return f"{device['name']}, {memory}, capability {device['capability']}, {bfloat16}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.0f} MiB"
