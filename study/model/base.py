"""The base model and its adapter: loaded once, trained many times.

A base stays in memory for as many runs as a process makes. Each run starts
from a fresh adapter whose weights depend on the run's seed alone, whatever
was trained before it.
"""

import contextlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from study.config.recipe import ModelConfig
from study.data.rehearsal import rehearse
from study.data.templates import CHATML, read_template
from study.data.tokens import end_of_turn, prepare_tokenizer
from study.engine.forward import Layout, install
from study.engine.greedy import Generation
from study.errors import ModelError, StudyError, first_line
from study.model.cache import Progress, unheard
from study.model.fit import new_tokens_of_chat, refuse_other_weights
from study.model.folder import fingerprint
from study.model.locate import locate
from study.model.sharding import shard


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """What serves a model, and how far each way that was tried is from its own."""

    layout: Layout
    generation: Generation
    tolerance_nats: float
    layout_off_nats: dict[str, float | None]
    """Layout -> largest difference of a token's log-probability, or in 16 bits their root
    mean square; None where it failed."""
    generation_off_nats: dict[str, float | None]
    """Way -> the same of how far chosen tokens are below those that the model prefers."""


@dataclass
class Base:
    """A loaded base model, ready for adapters."""

    model: Any
    """The causal language model; wrapped by PEFT once an adapter is attached."""
    tokenizer: Any
    device: torch.device
    trained_token_ids: tuple[int, ...]
    """Tokens whose embeddings every arm trains."""
    dtype: torch.dtype = torch.float32
    """Of the weights that are not quantised; mixed precision where it is bfloat16."""
    resolved: dict[str, str] = field(default_factory=dict)
    """What ``auto`` and ``main`` meant here: dtype, quantisation, commit of the weights; of
    converted weights also where they are from, how they were stored and their licence."""
    checked: SelfCheck | None = None
    """What the check of the model against itself found, once it is made."""
    initial: dict[str, torch.Tensor] | None = None
    """Trainable parameters of a freshly attached adapter, by name."""
    n_whole: int | None = None
    """Parameters of the whole base, where its blocks are shared out over processes."""

    @property
    def is_shared(self) -> bool:
        """Tell whether this process has only a part of the blocks."""
        return self.n_whole is not None

    @property
    def causal(self) -> Any:
        """The causal language model itself, without PEFT's wrapping."""
        return self.model if self.initial is None else self.model.get_base_model()

    def precision(self) -> torch.autocast:
        """Return the context in which this base is trained and scored alike."""
        mixed = self.device.type == "cuda" and self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which this base is scored.

        Weights that are gathered in inference mode could not be trained through afterwards.
        """
        return torch.no_grad() if self.is_shared else torch.inference_mode()

    def n_parameters(self) -> dict[str, int]:
        """Count the parameters, adapter included; NF4 weights count as unpacked."""
        from peft import PeftModel

        if self.n_whole is not None:
            trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            return {"total": self.n_whole + trained, "trainable": trained}
        if isinstance(self.model, PeftModel):
            trainable, total = self.model.get_nb_trainable_parameters()
            return {"total": total, "trainable": trainable}
        return {"total": self.model.num_parameters(), "trainable": 0}


def load_base(
    config: ModelConfig, *, device: str, progress: Progress = unheard, sharded: bool = False
) -> Base:
    """Load a base model and its tokenizer from wherever its name says.

    Where its blocks are to be shared out over the processes of a launch, each of them
    loads it into main memory and brings its own parts to its device.

    Raises:
        ModelError: the model cannot be found, has no safetensors, or its
            architecture or device does not allow what the recipe asks for.
    """
    from transformers import AutoModelForCausalLM

    where = torch.device(device)
    located = locate(config.name, progress=progress)
    tokenizer, trained_token_ids = load_tokenizer(config, progress=progress)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            located.path,
            dtype=pick_dtype(config, where),
            use_safetensors=True,
            device_map={"": torch.device("cpu") if sharded else where},
            attn_implementation=_attention(config, where),
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **_quantized(config, where),
            **_hub_options(config),
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a configuration may name anything
        raise ModelError(f"cannot load model {config.name!r}: {_why(error)}") from error
    model, loading = loaded
    refuse_other_weights(config.name, model, loading)
    commit = getattr(model.config, "_commit_hash", None) or fingerprint(
        Path(located.path), weights_only=located.made_here
    )
    base = prepare_base(model, tokenizer, trained_token_ids, config, device=where, commit=commit)
    base.resolved |= located.origin
    if sharded:
        base.n_whole = model.num_parameters()
        shard(model, where)
    return base


def prepare_base(
    model: Any,
    tokenizer: Any,
    trained_token_ids: tuple[int, ...],
    config: ModelConfig,
    *,
    device: torch.device,
    commit: str,
) -> Base:
    """Make a model that transformers has loaded ready for the engine and for adapters.

    Raises:
        ModelError: its embeddings cannot be found or enlarged.
    """
    from transformers import GenerationConfig

    try:
        new = new_tokens_of_chat(model, tokenizer)
        _grow_embeddings(model, 1 + max(tokenizer.get_vocab().values()))
    except ModelError:
        raise
    except Exception as error:  # any architecture's own code may run here
        raise ModelError(
            f"{type(model).__name__} has no embeddings that can take the tokens of a chat: "
            f"{first_line(error)}; choose another base model"
        ) from error
    model.generation_config = (
        GenerationConfig(  # the model's own may forbid tokens or ask for beams
            eos_token_id=end_of_turn(tokenizer), pad_token_id=tokenizer.pad_token_id
        )
    )
    _keep_nf4_exact(model)
    install(model, attention=config.attention, device=device)
    model.requires_grad_(False)
    model.eval()
    dtype = pick_dtype(config, device)
    resolved = {
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": config.quantization,
        "commit": commit,
    }
    trained = tuple(dict.fromkeys((*trained_token_ids, *new)))
    return Base(model, tokenizer, device, trained, dtype, resolved)


def load_tokenizer(
    config: ModelConfig, *, progress: Progress = unheard
) -> tuple[Any, tuple[int, ...]]:
    """Load a tokenizer, prepared for chat, and the ids of tokens to be trained.

    Raises:
        ModelError: there is no such model, its tokenizer cannot be read, or its
            chat template cannot be used.
    """
    from transformers import AutoTokenizer

    path = locate(config.name, progress=progress).path
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **_hub_options(config))
    except Exception as error:  # its files may hold anything
        raise ModelError(f"cannot load the tokenizer of {config.name!r}: {_why(error)}") from error
    try:
        return tokenizer, prepare_as_asked(tokenizer, config)
    except StudyError:
        raise
    except Exception as error:
        raise ModelError(f"cannot use the tokenizer of {config.name!r}: {_why(error)}") from error


def prepare_as_asked(tokenizer: Any, config: ModelConfig) -> tuple[int, ...]:
    """Give a tokenizer the chat template that the recipe asks for; return ids to be trained.

    Raises:
        ModelError: the chat template cannot be read or used.
    """
    trained = prepare_tokenizer(
        tokenizer,
        template=read_template(config.chat_template),
        variables=config.template_kwargs,
        day=config.template_date,
    )
    if tokenizer.chat_template != CHATML:
        rehearse(
            tokenizer.chat_template,
            special_tokens=tokenizer.special_tokens_map,
            model=config.chat_template or config.name,
        )
    end_of_turn(tokenizer)  # a template that cannot be used is refused before weights are loaded
    return trained


def pick_device(device: str) -> str:
    """Return ``cuda`` or ``cpu`` for ``auto``, and check any other name.

    Raises:
        ModelError: the device is unknown or not present.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(f"--device {device!r}: {first_line(error)}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"--device {device}: PyTorch sees no CUDA device; use --device cpu")
    return device


def pick_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of the weights that are not quantised."""
    if config.dtype == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bf16 else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def _hub_options(config: ModelConfig) -> dict[str, Any]:
    return {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}


def _quantized(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """Return the option that quantises; without it a model's own quantisation is read."""
    wanted = quantization_config(config, device)
    return {} if wanted is None else {"quantization_config": wanted}


def quantization_config(config: ModelConfig, device: torch.device) -> Any:
    """Return what transformers is told to quantise, or None."""
    if config.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=pick_dtype(config, device),
    )


def _attention(config: ModelConfig, device: torch.device) -> str | None:
    """Return what transformers itself is to use; None is its own choice.

    Raises:
        ModelError: FlashAttention 2 was asked for and cannot run here.
    """
    if config.attention == "flash_attention_2":
        able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        if not (able and importlib.util.find_spec("flash_attn")):
            raise ModelError(
                "model.attention is 'flash_attention_2', which needs a CUDA device of capability "
                "8.0 or more and the package flash-attn (pip install '.[gpu]'); 'auto' takes the "
                "best that is there"
            )
    return "eager" if config.attention == "eager" else None


def _keep_nf4_exact(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking weights for inference on the CPU.

    It rounds their scales to bfloat16, so that scores would differ from what
    was trained, and needs widths that are multiples of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _grow_embeddings(model: Any, n_tokens: int) -> None:
    """Make room for new tokens; each starts as the mean of the old ones."""
    n_old = model.get_input_embeddings().weight.shape[0]
    if n_tokens <= n_old:
        return
    model.resize_token_embeddings(n_tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[n_old:] = layer.weight[:n_old].mean(dim=0)


def _why(error: Exception) -> str:
    """Say why transformers could not load something, and where to look."""
    told = " ".join(str(error).split())[:300]
    if isinstance(error, OSError) or type(error) is ValueError:
        return told if first_line(error).rstrip().endswith(":") else _hub_hint(error)
    return f"{type(error).__name__}: {told}; its config.json or tokenizer files ask for it"


def _hub_hint(error: BaseException) -> str:
    """Return an error's first line, and what to do about the usual causes."""
    text = str(error)
    if "gated" in text:
        return (
            f"{first_line(error)} Accept its licence on its page at huggingface.co, then run "
            "`hf auth login` or set HF_TOKEN"
        )
    if "custom code" in text:
        return (
            "it ships code of its own, which could do anything; read it, and allow it with "
            "--set model.trust_remote_code=true, which every record will name"
        )
    if "couldn't connect" in text.lower() or "offline" in text.lower():
        return f"{first_line(error)} Connect, or name a local folder with --set model.name=FOLDER"
    return first_line(error)
