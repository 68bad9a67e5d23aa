"""What each of several devices that share a base holds, by arithmetic (``doctor --devices``).

Shapes alone, so that a model is planned before a weight of it is fetched, and cards before
they are rented. What is counted is in the docstrings of `Weights` and `Share`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from study.cli.memory import (
    NF4_BLOCK,
    NF4_SCALES,
    answer_memory,
    label,
    pass_tokens,
    savings,
    size,
    step_memory,
)
from study.config.recipe import Recipe
from study.errors import require
from study.model.shapes import Shape, meta_model, shape_of

CARDS_GIB = (24, 40, 80)
"""Memory of the cards that are asked about where no CUDA device is here."""

USABLE_SHARE = 0.9
"""Share of a device's memory that an estimate may fill: the rest is context and gaps."""

GATHERED_BLOCKS = 3
"""Blocks held whole at once: the one that computes, the buffer that it came in, and the next.
A bound: two processes on a CPU held 2.4 at most."""


class Weights(NamedTuple):
    """Bytes of a base's weights on the device that holds most of them.

    FSDP2 splits every weight along its rows, so that the first devices have ceil(rows / N) of
    each; rows of an NF4 weight are its bytes, two weights in each.
    """

    shared: int
    """Its parts of the blocks' weights."""
    whole: int
    """Embeddings, output layer, last norm; scales of NF4."""
    block: int
    """The largest block, whole."""
    layer: int
    """The largest NF4 weight, unpacked to the dtype that it computes in; else 0."""


class Share(NamedTuple):
    """Bytes on one device in a training step at its worst batch, by use.

    The last four are those of `study.cli.memory.Memory` for the device's own pairs.
    """

    shared_weights: int
    whole_weights: int
    gathered_blocks: int
    unpacked_layer: int
    adapter_and_optimizer: int
    activations: int
    logits: int
    workspace: int

    @property
    def total(self) -> int:
        """Bytes altogether."""
        return sum(self)

    @property
    def standing(self) -> int:
        """Bytes without those of a step's pairs."""
        return sum(self[:5])


def plan(recipe: Recipe, *, devices: int, device: str, here: int | None) -> dict[str, Any]:
    """Plan a recipe for some devices that share its base.

    Args:
        recipe: What is to be trained; its sharding is that of the plan.
        devices: How many.
        device: Kind of device, ``cpu`` or ``cuda``; the latter need not be here.
        here: Memory of such a device in bytes, where one is here; processes on a CPU
            divide it.

    Raises:
        ConfigError: there are more devices than pairs in an update, or the recipe has what
            cannot be shared.
        ModelError: the model's configuration cannot be read, or its blocks are unknown.
    """
    require(
        1 <= devices <= recipe.training.batch_pairs,
        f"--devices is {devices}, and updates of {recipe.name} have "
        f"{recipe.training.batch_pairs} pairs, of which each device takes one at least; name "
        f"between 1 and {recipe.training.batch_pairs} devices, or set training.batch_pairs",
    )
    require(
        devices == 1 or recipe.adapter.kind != "dora",
        f"--devices is {devices}, and {recipe.name} has adapter.kind 'dora', which reads whole "
        "weights, so that its base cannot be shared out; name one device, or add "
        "--set adapter.kind=lora or rslora",
    )
    recipe = recipe.override([f"training.sharding={'fsdp' if devices > 1 else 'none'}"])
    model = meta_model(recipe.model, recipe.adapter)
    shape, value_bytes = shape_of(model), _value_bytes(recipe, device)
    weights, alone = (
        weigh(model.get_base_model(), recipe.model.quantization, value_bytes=value_bytes, devices=n)
        for n in (devices, 1)
    )
    share = _share(recipe, shape, weights, devices=devices, device=device)
    answers, _ = answer_memory(recipe, shape, device=device, value_bytes=value_bytes)
    cards = {f"{n} GB": n * 2**30 for n in CARDS_GIB}
    if here is not None:
        cards = {"local": here // devices if device == "cpu" else here}

    def needed(changes: list[str]) -> int:
        tried = recipe.override(changes)
        most = _share(tried, shape, weights, devices=devices, device=device)
        return max(most.total, most.standing + (answers.total if answers.cache else 0))

    tokens = _own_tokens(recipe, devices, device, value_bytes)
    tried = [(changes, needed(changes)) for changes in ([], *savings(recipe, tokens))]
    return {
        "devices": devices,
        "device": device,
        "value_bytes": value_bytes,
        "tokens_at_once": tokens,
        "memory_bytes": {**share._asdict(), "total": share.total},
        "answers_bytes": share.standing + answers.total if answers.cache else 0,
        "load_bytes": alone.shared + alone.whole,
        "cards": {
            name: {"memory_bytes": card, "fits": _first_fit(tried, card)}
            for name, card in cards.items()
        },
    }


def _first_fit(tried: Sequence[tuple[list[str], int]], card: int) -> dict[str, Any] | None:
    """Return the first changes with which a recipe fits a card; None where none do."""
    fits = (
        {"changes": changes, "needed_bytes": needed}
        for changes, needed in tried
        if needed <= USABLE_SHARE * card
    )
    return next(fits, None)


def weigh(causal: Any, quantization: str, *, value_bytes: int, devices: int) -> Weights:
    """Count the bytes of a base's weights on each of some devices, from shapes alone.

    Args:
        causal: The causal language model, with or without adapters; the meta device will do.
        quantization: ``model.quantization`` of the recipe.
        value_bytes: Bytes of a weight that is not quantised.
        devices: That share it.
    """
    from torch import nn

    from study.model.sharding import blocks_of

    of_adapter = ("lora_", "trainable_tokens_")
    named = causal.named_parameters()
    own = {id(p): p for name, p in named if not any(part in name for part in of_adapter)}
    shared = whole = layer = 0
    blocks = []
    for block in blocks_of(causal):
        of_block = 0
        linear = {id(m.weight) for m in block.modules() if isinstance(m, nn.Linear)}
        for key in {id(p) for p in block.parameters()} & own.keys():
            weight = own.pop(key)
            n, rows, of_value = weight.numel(), weight.shape[0], value_bytes
            if quantization == "nf4" and key in linear:
                n, rows, of_value = math.ceil(n / 2), math.ceil(n / 2), 1
                n_scales = math.ceil(weight.numel() / NF4_BLOCK)
                whole += n_scales + 4 * math.ceil(n_scales / NF4_SCALES)
                layer = max(layer, weight.numel() * value_bytes)
            shared += math.ceil(rows / devices) * (n // rows) * of_value
            of_block += n * of_value
        blocks.append(of_block)
    whole += value_bytes * sum(weight.numel() for weight in own.values())
    return Weights(shared, whole, max(blocks), layer)


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lay a plan out for reading."""
    kind = "cards" if found["device"] == "cuda" else "processes"
    memory, n = found["memory_bytes"], found["devices"]
    return [
        ("", ""),
        (f"On each of {n} {kind}", f"{size(memory['total'])} in a step at worst, of which"),
        *((f"  {label(name)}", size(memory[name])) for name in Share._fields),
        ("  basis", f"arithmetic on shapes, {found['tokens_at_once']:,} tokens at once"),
        *([("with answers", size(found["answers_bytes"]))] if found["answers_bytes"] else []),
        *((f"{name} {kind}", _verdict(card)) for name, card in found["cards"].items()),
        *([("main memory to load", f"{n} x {size(found['load_bytes'])}")] if n > 1 else []),
    ]


def _verdict(card: Mapping[str, Any]) -> str:
    fits = card["fits"]
    if fits is None:
        return "too small, whatever training is set to; name more --devices"
    told = " ".join(f"--set {change}" for change in fits["changes"])
    return f"it fits{f' with {told}' if told else ''}: {size(fits['needed_bytes'])}"


def _share(recipe: Recipe, shape: Shape, weights: Weights, *, devices: int, device: str) -> Share:
    value_bytes = _value_bytes(recipe, device)
    averaged = 4 * shape.trainable if devices > 1 else 0  # gradients once more, to be averaged
    step = step_memory(_own(recipe, devices), shape, device=device, value_bytes=value_bytes)
    return Share(
        shared_weights=weights.shared,
        whole_weights=weights.whole,
        gathered_blocks=GATHERED_BLOCKS * weights.block if devices > 1 else 0,
        unpacked_layer=weights.layer,
        adapter_and_optimizer=step.adapter_and_optimizer + averaged,
        activations=step.activations,
        logits=step.logits,
        workspace=step.workspace,
    )


def _own(recipe: Recipe, devices: int) -> Recipe:
    """Return the recipe of a device's own pairs, its epochs already worked out to updates."""
    pairs = math.ceil(recipe.training.batch_pairs / devices)
    return recipe.override([f"training.batch_pairs={pairs}", "training.epochs=0"])


def _own_tokens(recipe: Recipe, devices: int, device: str, value_bytes: int) -> int:
    return pass_tokens(_own(recipe, devices), device, value_bytes)


def _value_bytes(recipe: Recipe, device: str) -> int:
    """Return the bytes of a value: cards have bfloat16, and a CPU takes float32 by itself."""
    dtype = recipe.model.dtype
    wide = dtype == "float32" or (dtype == "auto" and device == "cpu")
    return 4 if wide else 2
