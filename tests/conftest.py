"""What all tests share: no network, no telemetry, tiny random models, real pairs."""

import dataclasses
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.config import seeds

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors are slower on several threads
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU where there is none; let workers start with slow files."""
    if hasattr(config, "workerinput"):
        _slow_files_first(items)
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and not _has_cuda():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _slow_files_first(items: list[pytest.Item]) -> None:
    """Order files by their slow tests, then by all: one that starts last keeps a core alone."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path], item.path))


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
        "engine": {
            **around,
            "packing": {"n_tokens": 8_800, "seconds": 0.00112},
            "dropout": {"share": 0.05, "time_ratio": 1.07, "memory_ratio": 0.96},
            "generation": {
                "n_prompts": 96,
                "mean_tokens": 110.4,
                "batch_prompts": 8,
                "ratio": 3.36,
                "differing_share": 0.01,
            },
        },
        "scale": {
            **around,
            "trials": [
                {"n_trials": n, "workers": workers, "cpu_s_per_trial": 1e-5 * n * workers}
                for workers in (1, 4)
                for n in (40, 2_000)
            ],
            "runs": [
                {"n_runs": n, "status_cpu_s": n / 1_000, "report_cpu_s": 40.0} for n in (10, 1_000)
            ],
            "pairs": {
                "n_pairs": 200_000,
                "file_bytes": 100_000_000,
                "ours": {"cpu_s": {"check": 10.0, "encode": 90.0}, "peak_bytes": 250_000_000},
                "datasets_alone": {"cpu_s": {"encode": 150.0}, "peak_bytes": 500_000_000},
                "tokenizer_alone": {"cpu_s": {"encode": 60.0}, "peak_bytes": 0},
            },
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


TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
SMALL_RECIPE = (
    "data.train_pairs=96",
    "data.validation_pairs=16",
    "data.test_pairs=16",
    "training.max_steps=8",
    "training.batch_pairs=8",
    "training.warmup_steps=2",
    "training.log_every_steps=2",
    "training.validate_every_steps=4",
    "training.checkpoint_every_steps=4",
    "evaluation.generated_answers=6",
    "evaluation.max_new_tokens=6",
)


@pytest.fixture(scope="session")
def toy_tokenizer():
    """The toy language's tokenizer, prepared for chat."""
    from study.data.tokens import prepare_tokenizer
    from study.model.toy import train_tokenizer

    tokenizer = train_tokenizer()
    trained = prepare_tokenizer(tokenizer)
    return SimpleNamespace(tokenizer=tokenizer, trained=trained)


@pytest.fixture(scope="session")
def toy_pairs():
    from study.data.toy import toy_pairs

    return toy_pairs(seed=3, n_pairs=400)


@pytest.fixture(scope="session")
def encoded(toy_tokenizer, toy_pairs):
    """Pairs of the toy language as token ids."""
    from study.data.tokens import encode

    return [
        encode(pair, toy_tokenizer.tokenizer, max_prompt_tokens=96, max_length_tokens=160)
        for pair in toy_pairs
    ]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A random tiny Llama in the Hub's layout: config, tokenizer, safetensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from study.model.toy import VOCABULARY_SIZE, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny-llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY_SIZE, **TINY)).save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_overrides(model_folder) -> list[str]:
    """What cuts the embedded recipe down to seconds, on the random tiny Llama."""
    return [*SMALL_RECIPE, f"model.name={model_folder}"]


@pytest.fixture(scope="session")
def small_recipe(small_overrides):
    """The embedded recipe cut down to SFT and ORPO and to seconds, on the random tiny Llama."""
    from made_records import narrowed

    from study.config.recipe import load_recipe

    recipe = narrowed(load_recipe("tiny-llama").override(small_overrides), "sft", "orpo")
    return dataclasses.replace(recipe, name="small")


@pytest.fixture
def workbench(small_recipe):
    """A workbench of its own for each test: runs leave an adapter behind."""
    from study.model.workbench import open_workbench

    return open_workbench(small_recipe, device="cpu")


@pytest.fixture
def small_seeds(monkeypatch):
    """Number the runs of every recipe 1, 2, 3, as older records do."""
    monkeypatch.setattr(seeds, "_stream", lambda recipe: 0)
