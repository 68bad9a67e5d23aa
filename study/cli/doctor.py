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
from typing import Any

from study.arms import ARMS, arms_in_order
from study.cli import duration, plan
from study.cli.memory import (
    AnswerMemory,
    Memory,
    answer_memory,
    label,
    pass_tokens,
    savings,
    size,
    step_memory,
)
from study.cli.plan import USABLE_SHARE
from study.config.environment import cache_folder, versions
from study.config.recipe import Recipe
from study.config.training import own_training
from study.model.shapes import Shape, meta_model, shape_of

TEX_ENGINES = ("latexmk", "tectonic", "pdflatex")


def describe(
    recipe: Recipe | None,
    device: str,
    *,
    timed: bool = False,
    workers: int | None = None,
    devices: int | None = None,
) -> dict[str, Any]:
    """Describe this machine and, where one is given, what a recipe needs on it.

    Args:
        recipe: Recipe to examine, or None for the machine alone.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        timed: Load the recipe's model and pairs, time its parts, and say how long a
            study takes.
        workers: that are timed side by side; None leaves it to the machine.
        devices: that are to share the recipe's base; cards, unless ``device`` is the CPU.

    Raises:
        ConfigError: so many devices cannot share the base.
        ModelError: there is no such device, the model's configuration cannot
            be read, or the adapter does not fit it.
        DataError: the pairs to be timed cannot be read.
    """
    from study.model.base import pick_device

    asked, device = device, pick_device(device)
    kind = "cpu" if asked == "cpu" else "cuda"
    here = _device_bytes(device) if device.partition(":")[0] == kind else None
    return {
        "machine": _machine(),
        "device": device,
        "recipe": None if recipe is None else _needs(recipe, device),
        "timing": None
        if recipe is None or not timed
        else duration.measure(recipe, device, workers=workers),
        "plan": None
        if recipe is None or devices is None
        else plan.plan(recipe, devices=devices, device=kind, here=here),
    }


def as_text(description: Mapping[str, Any]) -> str:
    """Lay a description out for reading."""
    machine, needs = description["machine"], description["recipe"]
    lines = [("This machine", "")]
    lines += [(label(name), _shown(name, machine[name])) for name in machine]
    lines += [("device in use", description["device"])]
    if needs is not None:
        parameters, memory = needs["parameters"], needs["memory_bytes"]
        lines += [
            ("", ""),
            (f"Recipe {needs['name']}", needs["model"]),
            ("parameters", f"{parameters['base']:,} in the base"),
            ("trained", f"{parameters['trainable']:,} in {needs['adapted_projections']} adapters"),
            ("tokens of a run", "at most, every pass of training counted"),
            *((f"  {arm}", _run_text(arm, cost)) for arm, cost in needs["runs"].items()),
            ("memory of a step", f"{size(memory['total'])} at worst, of which"),
            *((f"  {label(name)}", size(memory[name])) for name in Memory._fields),
            ("  basis", _basis(needs["tokens_at_once"], description["device"])),
            ("memory of answers", _answers_text(needs["answers"])),
            *(
                (f"  {label(name)}", size(needs["answers"]["memory_bytes"][name]))
                for name in AnswerMemory._fields
                if needs["answers"]["slots"]
            ),
            *(("warning", warning) for warning in needs["warnings"]),
        ]
        if description["timing"] is not None:
            lines += duration.lines(description["timing"], memory["total"] - memory["weights"])
        if description["plan"] is not None:
            lines += plan.lines(description["plan"])
    return "\n".join(f"{name:24}{value}".rstrip() for name, value in lines)


def _needs(recipe: Recipe, device: str) -> dict[str, Any]:
    import torch

    from study.engine.greedy import cache_bound
    from study.model.base import pick_dtype

    shape = shape_of(meta_model(recipe.model, recipe.adapter))
    value_bytes = pick_dtype(recipe.model, torch.device(device)).itemsize
    memory = step_memory(recipe, shape, device=device, value_bytes=value_bytes)
    answers, slots = answer_memory(recipe, shape, device=device, value_bytes=value_bytes)
    evaluation = recipe.evaluation
    available = _device_bytes(device)
    return {
        "name": recipe.name,
        "model": recipe.model.name,
        "parameters": {
            "base": shape.linear_weights + shape.other_weights,
            "trainable": shape.trainable,
        },
        "adapted_projections": shape.n_adapted,
        "runs": {arm: _run(recipe, arm) for arm in arms_in_order(recipe.arms)},
        "memory_bytes": {**memory._asdict(), "total": memory.total},
        "tokens_at_once": pass_tokens(recipe, device, value_bytes),
        "answers": {
            "slots": slots,
            "slot_tokens": recipe.data.max_prompt_tokens + evaluation.max_new_tokens,
            "cache_bound_bytes": cache_bound(device.partition(":")[0])[0],
            "memory_bytes": {**answers._asdict(), "total": answers.total},
        },
        "device_memory_bytes": available,
        "warnings": _warnings(recipe, shape, device, value_bytes, available),
    }


def _basis(tokens: int, device: str) -> str:
    """Say what an estimate of memory rests on."""
    of_cpu = "on a CPU tests hold it to within a quarter of measured peaks"
    known = (
        of_cpu if device == "cpu" else "not compared with a measured peak on this kind of device"
    )
    return f"shapes alone, {tokens:,} tokens at once; {known}"


def _answers_text(answers: Mapping[str, Any]) -> str:
    if answers["slots"] == 0:
        return "none: the recipe asks for no answers (evaluation.generated_answers is 0)"
    total, bound = answers["memory_bytes"]["total"], answers["cache_bound_bytes"]
    return (
        f"{size(total)} at most beside the weights: {answers['slots']} at a time, of "
        f"{answers['slot_tokens']} tokens with their prompts, in a cache of {size(bound)} at most"
    )


def _run(recipe: Recipe, arm: str) -> dict[str, Any]:
    """Count what a run of an arm computes, its start and its reference among it."""
    from study.run.budget import most_tokens

    training, start = recipe.training, ARMS[arm].starts_from
    return {
        "starts_from": start,
        "start_updates": training.start_steps if start else 0,
        "own_updates": own_training(training, arm).max_steps,
        "tokens": most_tokens(recipe, arm=arm),
    }


def _run_text(arm: str, cost: Mapping[str, Any]) -> str:
    if ARMS[arm].budget == "tokens":
        return f"{cost['tokens']:,}, by updates enough for them"
    before = f"{cost['start_updates']} updates of {cost['starts_from']}, then "
    own = f"{cost['own_updates']} updates"
    return f"{cost['tokens']:,} in {before if cost['starts_from'] else ''}{own}"


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
        for changes in savings(recipe, pass_tokens(recipe, device, value_bytes))
        if needed(recipe.override(changes)) <= USABLE_SHARE * available
    )
    advice = next(
        fits, "no setting of training makes it fit; shorten data.max_length_tokens or use nf4"
    )
    return [f"a step may need {size(needed(recipe))} of {size(available)} on {device}; {advice}"]


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


def _shown(name: str, value: Any) -> str:
    """Write one fact about the machine in words."""
    if name.endswith("_bytes") and value is not None:
        return size(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {version}" for key, version in value.items())
    if isinstance(value, list):
        return "; ".join(map(_cuda_text, value)) or "none"
    return "not found" if value is None else str(value)


def _cuda_text(device: Mapping[str, Any]) -> str:
    bfloat16 = "bfloat16" if device["bfloat16"] else "no bfloat16"
    memory = size(device["memory_bytes"])
    return f"{device['name']}, {memory}, capability {device['capability']}, {bfloat16}"
