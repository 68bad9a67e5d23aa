"""What all tests share: no network, no telemetry, real pairs where present."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors are slower on several threads
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU where there is none."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and not _has_cuda():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pairs; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real pairs are read from {SHARED_DATA}, which is absent")
    return SHARED_DATA


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def bench_report() -> dict[str, Any]:
    """What `study bench` writes, with round numbers; read only."""
    around = {
        "processor": "A processor",
        "versions": {"torch": "2.13.0", "transformers": "5.0.0", "trl": "1.16.0"},
        "git": "abc123",
        "measured_at": "2026-11-21T10:00:00+00:00",
        "quick": False,
    }
    speeds = {
        "trl": 2.0,
        "trl grouped": 4.0,
        "ours": 5.0,
        "ours grouped": 6.0,
        "trl checkpointing": 1.5,
        "trl bf16": 4.0,
        "trl checkpointing bf16": 2.5,
        "ours grouped bf16": 10.0,
    }
    source = {
        "origin": "real",
        "n_pairs": 24,
        "padding_share": 0.45,
        "padding_share_of_all": 0.46,
        "padding_share_grouped": 0.12,
        "arms": {name: {"pairs_per_s": speed} for name, speed in speeds.items()},
    }
    answers = {"n_prompts": 192, "ours_s": 2.0, "one_at_a_time_s": 16.0, "mean_tokens": 3.5}
    points = [
        ("trl", 128, 8.0, 4e8),
        ("trl", 256, None, None),
        ("ours", 128, 20.0, 1e8),
        ("ours", 256, 10.0, 2e8),
    ]
    return {
        "steps": {**around, "sources": {"hh": source, "sharegpt": source}},
        "memory": {
            **around,
            "vocabulary": 128_256,
            "peak_bytes": {
                "trl": 4e9,
                "trl checkpointing": 3e9,
                "ours": 1e9,
                "ours checkpointing": 6e8,
            },
        },
        "evaluation": {
            **around,
            "log_probabilities": {"hh": {"n_pairs": 24, "ours_s": 2.0, "trl_s": 8.0}},
            "generation": {
                "models": {name: {**answers, "differing_share": 0.01} for name in ("base", "sft")}
            },
        },
        "search": {
            **around,
            "n_trials": 40,
            "overhead_share": 0.015,
            "ours_s_worked_out": 300.0,
            "ours_pruned_s": 150.0,
            "loop_s_worked_out": 900.0,
            "loop_fast_s_worked_out": 780.0,
            "loop": [{}] * 8,
            "loop_fast": [{}] * 2,
            "ours": {"trials": [{}] * 8},
            "ours_pruned": {"trials": [{}] * 40, "n_pruned": 16},
        },
        "growth": {
            **around,
            "points": [
                {
                    "axis": "length",
                    "value": value,
                    "side": side,
                    "pairs_per_s": speed,
                    "peak_bytes": peak,
                }
                for side, value, speed, peak in points
            ],
        },
    }
