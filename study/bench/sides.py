"""The two sides of the comparison: one random model, a step of TRL's and one of ours."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from study.bench.pairs import padded_batch
from study.engine.encoded import Encoded
from study.engine.forward import install, pair_logps
from study.engine.lora import fuse_adapters
from study.engine.packing import pack, split, tokens_per_pass
from study.losses import orpo

BETA = 0.1
SHAPE: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


class Side(NamedTuple):
    """One way to take a step."""

    side: str
    """``trl`` or ``ours``."""
    grouped: bool = False
    """Batches of pairs of similar length instead of random ones."""
    checkpointing: bool = False
    bf16: bool = False

    @property
    def name(self) -> str:
        """Name the arm as in the table."""
        marks = ("grouped", "checkpointing", "bf16")
        return " ".join([self.side, *(mark for mark in marks if getattr(self, mark))])


def build_sides(
    vocabulary: int,
    *,
    seed: int,
    sides: Sequence[str] = ("trl", "ours"),
    shape: Mapping[str, Any] = SHAPE,
    dropout: float = 0.0,
) -> dict[str, Any]:
    """Return the same random Llama with LoRA for each side, ours prepared for packing."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    built = {}
    for side in sides:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            causal = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape))
            if side == "ours":
                install(causal)
            lora = LoraConfig(
                task_type="CAUSAL_LM",
                r=16,
                lora_alpha=32,
                lora_dropout=dropout,
                target_modules="all-linear",
                init_lora_weights=False,
            )
            built[side] = get_peft_model(causal, lora).train()
            if side == "ours":
                fuse_adapters(built[side])
    return built


def step(sides: Mapping[str, Any], arm: Side, pairs: Sequence[Encoded]) -> float:
    """Lay out a batch and run it forward and backward, ours in parts; return the loss."""
    model, total, ours = sides[arm.side], 0.0, arm.side == "ours"
    value_bytes = 2 if arm.bf16 else 4  # of what products take
    n_tokens = tokens_per_pass(0, device="cpu", value_bytes=value_bytes)
    parts = split(pairs, n_tokens) if ours else [pairs]
    model.zero_grad(set_to_none=True)
    called = as_trainers_call(model, "cpu", bf16=arm.bf16)
    with _checkpointing(model, on=arm.checkpointing):
        for part in parts:
            loss = _our_loss(called, part, pairs) if ours else _trl_loss(called, part)
            loss.backward()
            total += loss.item()
    return total


def as_trainers_call(model: Any, device: str, *, bf16: bool) -> Any:
    """Return what a trainer of transformers, TRL's or ours, calls as its model.

    With ``bf16`` its `Accelerator.prepare_model` runs the forward pass in
    autocast and hands on outputs in float32; the loss is taken outside (but by TRL
    for a quantised model).
    """
    if not bf16:
        return model
    from accelerate.utils import convert_outputs_to_fp32

    return convert_outputs_to_fp32(torch.autocast(device, torch.bfloat16)(model.forward))


def trl_trainer() -> Any:
    """Return TRL's trainer with what its loss needs, without a training loop."""
    from trl.experimental.orpo import ORPOTrainer

    trainer: Any = ORPOTrainer.__new__(ORPOTrainer)
    trainer.beta, trainer.is_encoder_decoder, trainer.aux_loss_enabled = BETA, False, False
    trainer.padding_value = 0
    trainer.accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda value: value
    )
    return trainer


def _our_loss(model: Any, part: Sequence[Encoded], pairs: Sequence[Encoded]) -> Tensor:
    """Return the share that a part of a batch has in its loss."""
    logps = pair_logps(model, pack(part, rejected=True, prompt_nll=True))
    n_tokens = sum(len(pair.prompt_ids) - 1 + len(pair.chosen_ids) for pair in pairs)
    return orpo(logps, n_tokens=n_tokens, n_pairs=len(pairs), beta=BETA)


def _trl_loss(model: Any, pairs: Sequence[Encoded]) -> Tensor:
    loss: Tensor = trl_trainer().get_batch_loss_metrics(model, padded_batch(pairs))[0]
    return loss


@contextlib.contextmanager
def _checkpointing(model: Any, *, on: bool) -> Iterator[None]:
    causal = model.get_base_model()
    if on:
        causal.activation_checkpointing_enable({"use_reentrant": False})
    yield
    if on:
        causal.activation_checkpointing_disable()
