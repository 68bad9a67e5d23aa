"""Golden values of every oracle: what TRL 1.16 computed, for when its trainers are gone.

``PYTHONPATH=.:tests python tests/golden.py`` makes `GOLDEN` again, with TRL installed. Nothing
in it comes from a random stream or a tokenizer: weights are sines, pairs are written out.
"""

import contextlib
import json
import math
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from exact import SETTINGS, Weights, exact_norm, gradients, set_weights, weights, without_our_layers
from oracles import AUTHORS, TRL, Case, exact_head
from torch import Tensor

from study.engine.encoded import Encoded
from study.engine.forward import install
from study.engine.lora import fuse_adapters

GOLDEN = Path(__file__).parent / "study" / "engine" / "golden.json"
VOCABULARY = 50
TRAINED_TOKENS = [3, 4]
LENGTHS = ((3, 4, 2), (5, 1, 6), (2, 7, 7), (8, 3, 5))
"""Tokens of each pair: prompt, chosen and rejected answer."""


def golden_pairs() -> list[Encoded]:
    """Return four pairs of uneven lengths, every one with both trained tokens."""
    pairs = []
    for number, lengths in enumerate(LENGTHS):
        sides = [
            tuple(3 + (7 * number + 11 * side + 5 * at) % (VOCABULARY - 3) for at in range(n))
            for side, n in enumerate(lengths)
        ]
        pairs.append(Encoded.of(str(number), (3, *sides[0], 4), *sides[1:]))
    return pairs


def golden_model() -> tuple[Any, Weights, Weights]:
    """Return a small Llama with LoRA in float64 and two states of it: start and now."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
    )
    causal = LlamaForCausalLM(config)
    install(causal)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=4,
        target_modules="all-linear",
        trainable_token_indices={"embed_tokens": TRAINED_TOKENS},
    )
    model = get_peft_model(causal, lora).double().train()
    fuse_adapters(model)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(exact_norm, module)
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        one = float(name.endswith("norm.weight"))
        parameter.data = one + 0.3 * _sines(parameter, phase=number)
    start = weights(model)
    for number, (name, value) in enumerate(sorted(start.items())):
        set_weights(model, {name: value + 0.05 * _sines(value, phase=100 + number)})
    return model, start, weights(model)


def summed_up(loss: Tensor, gradient: Weights) -> dict[str, Any]:
    """Return a loss and two numbers for each gradient, which change with every entry of it."""
    return {
        "loss": loss.item(),
        "norms": [gradient[name].norm().item() for name in sorted(gradient)],
        "projections": [
            (gradient[name] * _sines(gradient[name], phase=0)).sum().item()
            for name in sorted(gradient)
        ],
    }


def _sines(like: Tensor, *, phase: int) -> Tensor:
    steps = torch.arange(1, like.numel() + 1, dtype=torch.float64)
    return (steps * math.sqrt(2) + phase).sin().view(like.shape)


def main() -> None:
    """Ask every oracle, and write what it says."""
    from importlib.metadata import version

    from study.data.tokens import prepare_tokenizer
    from study.model.toy import train_tokenizer

    tokenizer = train_tokenizer()
    prepare_tokenizer(tokenizer)
    found: dict[str, Any] = {}
    now: Weights = {}
    with tempfile.TemporaryDirectory() as folder, _float64_in_trl(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source, oracles in (("TRL", TRL), ("authors", AUTHORS)):
            for arm, oracle in oracles.items():
                model, start, now = golden_model()
                without_our_layers(model)
                case = Case(model, golden_pairs(), start, now, tokenizer, Path(folder), pad=0)
                loss = oracle(case)
                found[f"{arm}, {source}"] = {
                    "settings": SETTINGS[arm],
                    **summed_up(loss, gradients(model, loss)),
                }
    made_with = {name: version(name) for name in ("trl", "torch", "transformers", "peft")}
    rows = {"made with": made_with, "parameters": sorted(now), **found}
    lines = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


@contextlib.contextmanager
def _float64_in_trl() -> Iterator[None]:
    single = Tensor.float
    with contextlib.ExitStack() as stack:
        kept = mock.patch.object(
            Tensor, "float", lambda t: t if t.dtype == torch.float64 else single(t)
        )
        stack.enter_context(kept)
        for module in ("sft", "dpo", "kto"):
            name = f"trl.trainer.{module}_trainer.add_fused_lm_head"
            stack.enter_context(mock.patch(name, exact_head))
        yield


if __name__ == "__main__":
    main()
