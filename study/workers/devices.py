"""The places that workers run in: GPUs, or shares of the CPU's cores.

Nothing here imports torch, so that the parent of the workers stays small.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata

from study.config.recipe import Recipe
from study.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place that one worker process runs in."""

    device: str
    """``cpu`` or ``cuda``; the worker sees no other GPU than its own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set in the worker before it imports torch."""


def plan_slots(recipes: Sequence[Recipe], *, device: str, workers: int | None) -> list[Slot]:
    """Choose where workers run: one per GPU, or as many as the cores carry.

    Args:
        recipes: the recipes to be trained; their ``training.threads`` counts.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: number of workers; None leaves it to the machine.

    Raises:
        ConfigError: no such device here.
    """
    if _device_kind(device) == "cpu":
        threads = [recipe.training.threads for recipe in recipes]
        fitting = 1 if 0 in threads else max(1, _n_cores() // max(threads, default=1))
        n_workers = workers or fitting
        environment = {"CUDA_VISIBLE_DEVICES": ""}
        if n_workers > 1 and 0 in threads and "OMP_NUM_THREADS" not in os.environ:
            # PyTorch's own choice is every core for each of them, which waits for the others.
            environment["OMP_NUM_THREADS"] = str(max(1, _n_cores() // n_workers))
        return [Slot(device="cpu", environment=environment)] * n_workers
    gpus = cuda_devices()
    if ":" in device:
        number = device.partition(":")[2]
        if not number.isdecimal() or int(number) >= len(gpus):
            raise ConfigError(f"there is no device {device!r} here; GPUs are 0 to {len(gpus) - 1}")
        gpus = [gpus[int(number)]]
    return [
        Slot(device="cuda", environment={"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]})
        for k in range(workers or len(gpus))
    ]


def cuda_devices() -> list[str]:
    """List the GPUs that PyTorch could use here, without importing it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [] if "-1" in names else [name for name in names if name]
    program = shutil.which("nvidia-smi")
    if program is None or _torch_is_cpu_only():
        return []
    command = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - no word of it comes from outside
            command, capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return []
    return answer.stdout.split() if answer.returncode == 0 else []


def _device_kind(device: str) -> str:
    kind = device.partition(":")[0]
    if device not in ("auto", "cpu") and kind != "cuda":
        raise ConfigError(f"--device is {device!r}; it may be auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not cuda_devices():
        raise ConfigError("there is no CUDA device here; use --device cpu, or leave --device out")
    return "cuda" if kind != "cpu" and cuda_devices() else "cpu"


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _torch_is_cpu_only() -> bool:
    try:
        return "+cpu" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return True
