"""The two sides of the comparison: one random model, a step of TRL's and one of ours."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from study.cli.bench.trl_losses import BETA, trl_loss, uniform_logps
from study.engine.encoded import Encoded
from study.engine.forward import install, pair_logps
from study.engine.lora import fuse_adapters
from study.engine.packing import pack, split, tokens_per_pass
from study.losses import dpo, orpo, sft

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
    loss: str = "orpo"
    """``orpo``, ``sft`` or ``dpo``."""

    @property
    def name(self) -> str:
        """Name the arm as in the table."""
        loss = [] if self.loss == "orpo" else [self.loss]
        marks = ("grouped", "checkpointing", "bf16")
        return " ".join([self.side, *loss, *(mark for mark in marks if getattr(self, mark))])


def build_sides(
    vocabulary: int,
    *,
    seed: int,
    sides: Sequence[str] = ("trl", "ours"),
    shape: Mapping[str, Any] = SHAPE,
    dropout: float = 0.0,
    loss: str = "orpo",
) -> dict[str, Any]:
    """Return the same random Llama with LoRA for each side, ours prepared for packing.

    Under ``trl loss`` lies what TRL computes with its model.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    built: dict[str, Any] = {}
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
    if "trl" in built:
        built["trl loss"] = trl_loss(loss, built["trl"])
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
            loss = (
                _our_loss(called, model, part, pairs, arm.loss)
                if ours
                else sides["trl loss"](called, part)
            )
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


def _our_loss(
    called: Any, model: Any, part: Sequence[Encoded], pairs: Sequence[Encoded], loss: str
) -> Tensor:
    """Return the share that a part of a batch has in its loss."""
    prompt_nll = loss != "dpo"
    logps = pair_logps(called, pack(part, rejected=loss != "sft", prompt_nll=prompt_nll))
    n_tokens = sum(prompt_nll * (p.n_prompt - 1) + p.n_chosen for p in pairs)
    if loss == "sft":
        return sft(logps, n_tokens=n_tokens, n_pairs=len(pairs))
    if loss == "orpo":
        return orpo(logps, n_tokens=n_tokens, n_pairs=len(pairs), beta=BETA)
    chosen, rejected = (
        logps.chosen_sum.new_tensor(uniform_logps(model, [len(ids) for ids in answers]))
        for answers in ([p.chosen_ids for p in part], [p.rejected_ids for p in part])
    )
    logps = logps._replace(chosen_reference_sum=chosen, rejected_reference_sum=rejected)
    return dpo(logps, n_tokens=n_tokens, n_pairs=len(pairs), beta=BETA)


@contextlib.contextmanager
def _checkpointing(model: Any, *, on: bool) -> Iterator[None]:
    causal = model.get_base_model()
    if on:
        causal.activation_checkpointing_enable({"use_reentrant": False})
    yield
    if on:
        causal.activation_checkpointing_disable()
