"""The measurement on a GPU: here its parts, on a CPU and a tiny model."""

from pathlib import Path

import pytest
import torch

from study.cli.bench import gpu
from study.cli.bench.pairs import pairs_of
from study.config.recipe import load_recipe

LENGTHS = [[9, 4, 6], [5, 7, 3], [12, 3, 3], [4, 4, 9]]


def test_every_way_has_a_name_of_its_own() -> None:
    names = [way.name for way in gpu.WAYS]

    assert len(set(names)) == len(names)
    assert names[:4] == ["trl checkpointing", "trl", "ours segments", "ours rows"]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_both_sides_compute_the_same_loss_on_the_same_random_model(quantization) -> None:
    recipe = load_recipe("tiny-llama").override([f"model.quantization={quantization}"])
    pairs = pairs_of(LENGTHS, vocabulary=640, seed=0)
    losses = []
    for way, loss in ((gpu.Way("trl"), gpu._trls), (gpu.Way("ours"), gpu._ours)):
        model = gpu.random_model(recipe, way, device=torch.device("cpu"), seed=0)
        losses.append(loss(model, pairs, model.device).item())

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", [gpu.Way("trl"), gpu.Way("ours"), gpu.Way("ours", "sdpa", True)])
def test_a_way_is_measured(way) -> None:
    cost = gpu.step_cost(
        recipe="tiny-llama",
        quantization="none",
        way=tuple(way),
        lengths=LENGTHS * 4,
        device="cpu",
        seed=0,
    )

    assert min(cost[name] for name in ("pairs_per_s", "tokens_per_s", "peak_bytes")) > 0
    assert cost["tokens_per_s"] / cost["pairs_per_s"] == pytest.approx(69 / 4)
    assert cost["flop_per_s"] > 0


def test_without_a_gpu_nothing_is_measured_and_it_is_said(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = []

    assert gpu.measure_gpu(Path(), quick=True, say=said.append) == {"device_name": None}
    assert said == ["there is no CUDA device here: nothing was measured"]


@pytest.mark.gpu
def test_a_full_size_step_is_measured_on_a_gpu() -> None:
    cost = gpu.step_cost(
        recipe="llama-3.2-1b",
        quantization="none",
        way=tuple(gpu.Way("ours")),
        lengths=[[200, 100, 120]] * 8,
        device="cuda",
        seed=0,
    )

    assert 0 < cost["busy_share"] <= 1.05
