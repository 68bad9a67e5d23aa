"""What training steps take of memory, measured for the doctor's estimate of it."""

import ctypes
import gc
import json
import multiprocessing
import sys
from typing import Any

import torch
from made_records import narrowed

from study.cli.bench.pairs import pairs_of
from study.config.recipe import Recipe, load_recipe
from study.engine.encoded import Encoded
from study.engine.forward import install, pair_logps
from study.engine.packing import pack, split
from study.losses import orpo
from study.model.adapter import fresh_adapter
from study.model.base import Base
from study.model.shapes import CHATML_IDS
from study.run.memory import (
    give_back_at_once,
    memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)

CPU = torch.device("cpu")


def peak_over_loaded(recipe: Recipe, config: Any, weights: str | None = None) -> int:
    """Take steps of a recipe on pairs of full length, in a process of its own.

    Args:
        recipe: Says how; its model is not loaded.
        config: The architecture of a random model, or of that in a folder.
        weights: The folder, if there is one.

    Returns:
        By how many bytes an update raises resident memory over the loaded model
        with its adapter, the optimiser's moments among them.
    """
    from transformers import AutoModelForCausalLM

    from study.cli.memory import pass_tokens

    torch.set_num_threads(1)
    give_back_at_once()
    dtype = getattr(torch, recipe.model.dtype)
    if weights is None:
        causal = AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        causal = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype)
    install(causal)
    causal.requires_grad_(requires_grad=False)
    base = Base(causal, None, CPU, CHATML_IDS)
    model: Any = fresh_adapter(base, recipe.adapter, seed=0).train()
    if recipe.training.gradient_checkpointing:
        causal.activation_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    longest = recipe.data.max_length_tokens
    n_tokens = pass_tokens(recipe, "cpu", dtype.itemsize)
    shape = [8, longest - 8, longest - 8]
    pairs = pairs_of([shape] * recipe.training.batch_pairs, vocabulary=config.vocab_size, seed=0)
    _update(model, pairs_of([[4, 8, 8]], vocabulary=config.vocab_size, seed=0), trained, n_tokens)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset_peak_memory(CPU)
    before = memory_bytes(CPU)
    optimizer = torch.optim.AdamW(trained, fused=True)
    optimizer.step()  # makes the moments
    _update(model, pairs, trained, n_tokens)
    optimizer.step()
    return peak_memory_bytes(CPU) - before


def _update(model: Any, pairs: list[Encoded], trained: list[Any], n_tokens: int) -> None:
    for parameter in trained:
        parameter.grad = None
    for part in split(pairs, n_tokens):
        logps = pair_logps(model, pack(part, rejected=True, prompt_nll=True))
        orpo(logps, n_tokens=100, n_pairs=len(pairs), beta=0.1).backward()


def estimated(recipe: Recipe, config: Any) -> int:
    """Return what the doctor says of the same, without the weights."""
    from transformers import AutoModelForCausalLM

    from study.cli.memory import step_memory
    from study.model.shapes import shape_of

    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(config)
        model = fresh_adapter(
            Base(causal, None, torch.device("meta"), CHATML_IDS), recipe.adapter, seed=0
        )
    value_bytes = getattr(torch, recipe.model.dtype).itemsize
    memory = step_memory(recipe, shape_of(model), device="cpu", value_bytes=value_bytes)
    return memory.total - memory.weights


def cases_at_random() -> dict[str, tuple[Any, list[str]]]:
    """Return small models of several shapes with what a recipe may say of them."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    llama = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    qwen2 = Qwen2Config(
        vocab_size=32_768,
        hidden_size=320,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    qwen3 = Qwen3Config(
        vocab_size=16_384,
        hidden_size=192,
        intermediate_size=640,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
    )
    lengths = ["data.max_prompt_tokens=100", "data.max_length_tokens=256", "training.batch_pairs=4"]
    bfloat16 = "model.dtype=bfloat16"
    return {
        "llama": (llama, lengths),
        "llama, half a pass": (llama, [*lengths, "training.microbatch_tokens=1024"]),
        "llama, checkpointing": (llama, [*lengths, "training.gradient_checkpointing=true"]),
        "llama, bfloat16, dropout": (
            llama,
            [*lengths, bfloat16, "adapter.dropout=0.05", "training.batch_pairs=8"],
        ),
        "qwen2, dropout": (qwen2, [*lengths, "adapter.dropout=0.1"]),
        "qwen3": (qwen3, [*lengths, "adapter.rank=32"]),
    }


def real_cases(folder: str) -> dict[str, tuple[Any, list[str]]]:
    """Return SmolLM2-135M as its recipe trains it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    lengths = ["data.max_prompt_tokens=128", "data.max_length_tokens=256", "training.batch_pairs=2"]
    return {
        "real": (config, [*lengths, "training.microbatch_tokens=512"]),
        "real, bfloat16, dropout": (
            config,
            [*lengths, "model.dtype=bfloat16", "adapter.dropout=0.05"],
        ),
    }


def main() -> None:
    """Write estimate and measured peak of each case as JSON, of a folder's model if named.

    Each case has a process of its own, forked before any tensor is made: heap that an
    earlier case freed would lower its peak. Cases named after the folder (`-` for none)
    are measured alone.
    """
    folder, *names = sys.argv[1:] or ["-"]
    cases = cases_at_random() if folder == "-" else real_cases(folder)
    for name in names or cases:
        case = multiprocessing.get_context("fork").Process(
            target=_measure, args=(name, *cases[name], None if folder == "-" else folder)
        )
        case.start()
        case.join()
        if case.exitcode:
            sys.exit(f"{name} ended with exit status {case.exitcode}")


def _measure(name: str, config: Any, assignments: list[str], folder: str | None) -> None:
    shipped = narrowed(load_recipe("tiny-llama"), "sft", "orpo")  # which stand dropout
    recipe = shipped.override(["adapter.rank=16", *assignments])
    bytes_ = [estimated(recipe, config), peak_over_loaded(recipe, config, folder)]
    sys.stdout.write(json.dumps([name, *bytes_]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
