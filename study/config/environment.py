"""What a run ran on: versions, device, commit and time, for its record."""

import datetime as dt
import functools
import importlib.metadata
import importlib.util
import logging
import os
import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

import study
from study.config.training import GALORE
from study.errors import nearest, require

PACKAGES = (
    "torch transformers trl peft bitsandbytes accelerate datasets tokenizers optuna rouge-score "
    "flash-attn galore-torch numpy"
).split()


HARMLESS = (
    r"`is_gradient_checkpointing` is deprecated",  # PEFT asks transformers under an old name
    r".*pin_memory.*no accelerator",
    r"Paged optimizers are not supported on CPU",  # said beside training.optimizer
    r"This implementation of AdamW is deprecated",  # GaLore's, a copy of transformers'
)
"""Warnings of libraries about each other that a user can do nothing about."""


def environment(device: str) -> dict[str, Any]:
    """Return the record's versions, device, commit and time of writing."""
    return {
        "versions": versions(),
        "device": device_name(device),
        "git": git_commit(),
        "finished_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and those it stands on."""
    found = {"python": platform.python_version(), "study": study.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """Name the device as a reader would: the GPU's name, or the CPU's cores."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"CPU, {platform.machine()}, {os.cpu_count()} cores"


@functools.cache
def git_commit() -> str:
    """Return the commit of this code, ``+`` when changed since, or ``unknown``."""

    def git(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            cwd=Path(study.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return done.stdout.strip()

    try:
        if git("ls-files", "__init__.py") == "":
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def quieten() -> None:
    """Keep libraries from talking over our own progress, and from telemetry.

    Call it before torch, transformers and the like are imported. What a user
    set in the environment stays.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    for name in ("bitsandbytes", "torch.distributed.elastic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)


def cache_folder() -> Path:
    """Return the user's cache folder, or the one that ``ORPO_STUDY_CACHE`` names."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("ORPO_STUDY_CACHE") or user_cache_dir("orpo-study"))


JUDGE_KEY = "ORPO_STUDY_JUDGE_KEY"


def judge_key() -> str:
    """Return the key for a judge's endpoint, which stands in the environment alone.

    No other variable is read: a key of one provider must not reach another's address.
    """
    return os.environ.get(JUDGE_KEY, "").strip()


def require_optimizer(name: str, device: str) -> None:
    """Refuse an optimiser that cannot run here, before a model is loaded for it.

    Raises:
        ConfigError: its package is absent, or it needs another device.
    """
    require(
        not name.startswith(GALORE) or importlib.util.find_spec("galore_torch") is not None,
        f"training.optimizer is {name!r}, which needs the package galore-torch (pip install "
        "'.[galore]'); or set training.optimizer=adamw_torch_fused",
    )
    require(
        name != "galore_adamw_8bit" or device.startswith("cuda"),
        f"training.optimizer is {name!r}, which needs a CUDA device, not {device}; set "
        "training.optimizer=galore_adamw",
    )


def trackers() -> list[str]:
    """Return the trackers that ``ORPO_STUDY_TRACKERS`` names, e.g. ``tensorboard``.

    Raises:
        ConfigError: transformers does not know one, or it is not installed.
    """
    value = os.environ.get("ORPO_STUDY_TRACKERS", "")
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names in ([], ["none"], ["all"]):
        return names or ["none"]

    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    for name in names:
        require(
            name in INTEGRATION_TO_CALLBACK,
            f"ORPO_STUDY_TRACKERS names {name!r}{nearest(name, INTEGRATION_TO_CALLBACK)}; it takes "
            f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}, or all or none by itself",
        )
        require(
            name in (*get_available_reporting_integrations(), "flyte"),
            f"ORPO_STUDY_TRACKERS names {name}, which is not installed; install or drop it",
        )
    return names
