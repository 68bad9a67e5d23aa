"""One step of the full-size models on a GPU: TRL's ways and ours, random weights.

Each way runs in a process of its own on the same batches, so that none finds
memory that another has left in pieces. A step is: lay out a batch, forward
pass, backward pass.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from study.cli.bench.pairs import BATCH_PAIRS, chunks, draw_sample, lengths_of, pairs_of
from study.cli.bench.sides import as_trainers_call
from study.cli.bench.trl_losses import BETA, trl_trainer
from study.cli.bench.worker import Say, ask
from study.config.recipe import Recipe, load_recipe
from study.engine.encoded import Encoded
from study.engine.forward import install, pair_logps
from study.engine.lora import restore_adapters
from study.engine.packing import pack
from study.losses import orpo
from study.model.adapter import fresh_adapter
from study.model.base import Base, pick_dtype, quantization_config
from study.run.memory import peak_memory_bytes, reset_peak_memory

RECIPES = ("smollm2-1.7b", "llama-3.2-1b")
SOURCES = ("hh", "sharegpt")
ROUNDS = 3
"""Times that each batch is measured; batches are unlike, so their medians are added."""


class Way(NamedTuple):
    """One way to take a step on a GPU."""

    side: str
    """``trl`` or ``ours``."""
    attention: str = "auto"
    """``auto`` is segments where a kernel serves, ``sdpa`` is rows."""
    checkpointing: bool = False
    compiled: bool = False
    """Layers through `torch.compile`, with shapes left open."""
    batch_pairs: int = BATCH_PAIRS

    @property
    def name(self) -> str:
        """Name the way as in the table."""
        form = {"auto": "segments", "sdpa": "rows"}[self.attention] if self.side == "ours" else ""
        marks = [mark for mark in ("checkpointing", "compiled") if getattr(self, mark)]
        budget = f"{self.batch_pairs} pairs" if self.batch_pairs != BATCH_PAIRS else ""
        return " ".join(filter(None, (self.side, form, *marks, budget)))


WAYS = (
    Way("trl", checkpointing=True),
    Way("trl"),
    Way("ours"),
    Way("ours", attention="sdpa"),
    Way("ours", checkpointing=True),
    Way("ours", compiled=True),
    Way("ours", batch_pairs=16),
    Way("ours", batch_pairs=32),
)
"""The first is what TRL does by default, in bfloat16."""


def measure_gpu(data: Path, *, quick: bool, say: Say, seed: int = 0) -> dict[str, Any]:
    """Time steps of the full-size architectures, plain and in NF4.

    Args:
        data: Folder of the real pairs, whose lengths are taken.
        quick: Two batches instead of eight.
        say: Told of each way.
        seed: Decides which pairs are drawn, and the random weights.
    """
    if not torch.cuda.is_available():
        say("there is no CUDA device here: nothing was measured")
        return {"device_name": None}
    n_batches = 4 if quick else 8
    ceiling = matmul_flop_per_s("cuda")
    say(f"{torch.cuda.get_device_name()}: {ceiling / 1e12:.0f} TFLOP/s in bfloat16 products")
    found: dict[str, Any] = {}
    for source in SOURCES:
        lengths = lengths_of(draw_sample(source, data, n_batches, seed=seed).pairs)
        for recipe in RECIPES:
            for quantization in ("none", "nf4"):
                key = f"{recipe}, {quantization}, {source}"
                found[key] = {}
                for way in WAYS:
                    cost = ask(
                        step_cost,
                        recipe=recipe,
                        quantization=quantization,
                        way=way,
                        lengths=lengths,
                        device="cuda",
                        seed=seed,
                    )
                    cost["ceiling_share"] = cost["flop_per_s"] / ceiling
                    found[key][way.name] = cost
                    say(_line(key, way, cost))
    return {
        "device_name": torch.cuda.get_device_name(),
        "matmul_flop_per_s": ceiling,
        "n_batches": n_batches,
        "steps": found,
    }


def step_cost(
    *,
    recipe: str,
    quantization: str,
    way: Sequence[Any],
    lengths: Sequence[Sequence[int]],
    device: str,
    seed: int,
) -> dict[str, Any]:
    """Return what steps on all batches cost: medians over rounds, after one to warm up.

    Returns:
        ``pairs_per_s``; ``tokens_per_s``, distinct ones; ``peak_bytes`` of the
        device; ``flop_per_s``, the products with frozen weights that distinct
        tokens need, forward and backward, over the time; ``busy_share``, the
        share of the time in which a kernel runs (None on a CPU).
    """
    chosen = Way(*way)
    described = load_recipe(recipe).override(
        [f"model.quantization={quantization}", f"model.attention={chosen.attention}"]
    )
    model = random_model(described, chosen, device=torch.device(device), seed=seed)
    vocabulary = model.get_base_model().config.vocab_size
    pairs = pairs_of(lengths, vocabulary=vocabulary, seed=seed)
    batches = chunks(pairs, chosen.batch_pairs)

    bf16 = device == "cuda"
    called = as_trainers_call(model, device, bf16=bf16)
    loss_in_autocast = bf16 and quantization == "nf4" and chosen.side == "trl"  # as TRL does

    def step(batch: Sequence[Encoded]) -> None:
        model.zero_grad(set_to_none=True)
        loss_of = _ours if chosen.side == "ours" else _trls
        with torch.autocast(device, torch.bfloat16, enabled=loss_in_autocast):
            loss = loss_of(called, batch, model.device)
        loss.backward()

    for batch in batches:
        step(batch)
    reset_peak_memory(torch.device(device))
    rounds = [[_seconds(step, batch, device) for batch in batches] for _ in range(ROUNDS)]
    total = sum(map(statistics.median, zip(*rounds, strict=True)))
    n_tokens = sum(pair.n_tokens for pair in pairs)
    frozen = sum(
        p.numel() * (2 if p.dtype == torch.uint8 else 1)  # NF4 packs two values into a byte
        for p in model.parameters()
        if not p.requires_grad
    )
    return {
        "pairs_per_s": len(pairs) / total,
        "tokens_per_s": n_tokens / total,
        "peak_bytes": peak_memory_bytes(torch.device(device)),
        "flop_per_s": 4 * frozen * n_tokens / total,
        "busy_share": _busy_share(step, batches[0]) if device == "cuda" else None,
    }


def random_model(recipe: Recipe, way: Way, *, device: torch.device, seed: int) -> Any:
    """Build a recipe's architecture with random weights and its adapter, on a device."""
    from transformers import AutoModelForCausalLM

    from study.model.shapes import model_config

    torch.manual_seed(seed)
    dtype = pick_dtype(recipe.model, device)
    causal = AutoModelForCausalLM.from_config(model_config(recipe.model), dtype=dtype)
    quantization = quantization_config(recipe.model, device)
    if quantization is not None:
        with tempfile.TemporaryDirectory() as folder:
            causal.save_pretrained(folder)
            causal = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, quantization_config=quantization, device_map={"": device}
            )
    causal.to(device).requires_grad_(False)
    if way.side == "ours":
        install(causal, attention=recipe.model.attention)
    model = fresh_adapter(Base(causal, None, device, (), dtype), recipe.adapter, seed=seed)
    if way.side == "trl":
        restore_adapters(model)
    if way.checkpointing:
        causal.activation_checkpointing_enable({"use_reentrant": False})
    if way.compiled:
        for layer in causal.get_decoder().layers:
            layer.compile(dynamic=True)
    return model.train()


def matmul_flop_per_s(device: str, size: int = 8192) -> float:
    """Return the rate of a large product in bfloat16: the device's practical ceiling."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = [_seconds(lambda _: torch.mm(a, b), [], device) for _ in range(12)]
    return 2 * size**3 / statistics.median(times[2:])


def _ours(model: Any, pairs: Sequence[Encoded], device: torch.device) -> torch.Tensor:
    from study.engine.packing import to_device

    batch = to_device(pack(pairs, rejected=True, prompt_nll=True), device)
    n_tokens = sum(pair.n_prompt - 1 + pair.n_chosen for pair in pairs)
    return orpo(pair_logps(model, batch), n_tokens=n_tokens, n_pairs=len(pairs), beta=BETA)


def _trls(model: Any, pairs: Sequence[Encoded], device: torch.device) -> torch.Tensor:
    from study.cli.bench.pairs import padded_batch

    trainer = trl_trainer()
    trainer.accelerator.device = device
    batch = {name: tensor.to(device) for name, tensor in padded_batch(pairs).items()}
    loss: torch.Tensor = trainer.get_batch_loss_metrics(model, batch)[0]
    return loss


def _seconds(step: Callable[[Any], Any], batch: Any, device: str) -> float:
    _wait(device)
    started = time.perf_counter()
    step(batch)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _busy_share(step: Callable[[Any], None], batch: Any) -> float:
    """Return the share of a step in which a kernel runs; the rest are launch gaps."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        seconds = _seconds(step, batch, "cuda")
    busy_us = float(sum(event.self_device_time_total for event in trace.key_averages()))
    return busy_us / 1e6 / seconds


def _line(key: str, way: Way, cost: dict[str, Any]) -> str:
    return (
        f"{key:32} {way.name:24} {cost['pairs_per_s']:7.1f} pairs/s "
        f"{cost['tokens_per_s']:9.0f} tokens/s {cost['peak_bytes'] / 2**30:6.1f} GiB, "
        f"{cost['ceiling_share']:4.0%} of the ceiling, busy {cost['busy_share']:4.0%}"
    )
