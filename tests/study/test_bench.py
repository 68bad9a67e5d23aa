"""The benchmark compares like with like before it times anything."""

import json
import math
from pathlib import Path

import pytest

from study import bench
from study.bench import (
    ARMS,
    BASELINE,
    Arm,
    build_sides,
    check_losses,
    generate_pairs,
    padded_batch,
    plan_batches,
    sample_pairs,
    time_arms,
)
from study.errors import DataError


def short_pairs(n_pairs: int) -> list[bench.Encoded]:
    return [
        bench.Encoded(
            p.example_id,
            p.cluster_id,
            p.source,
            p.prompt_ids[:7],
            p.chosen_ids[: 2 + n],
            p.rejected_ids[:9],
        )
        for n, p in enumerate(generate_pairs("hh", n_pairs, seed=1))
    ]


@pytest.mark.slow
def test_every_arm_takes_the_same_step_and_is_timed() -> None:
    sides = build_sides(bench.VOCABULARY, seed=0)
    found = time_arms(sides, short_pairs(8), repeats=1, seed=0)

    assert list(found) == [arm.name for arm in ARMS]
    assert found[BASELINE.name]["ratio"] == 1
    assert found["ours"]["processed_tokens_per_s"] == found["ours"]["useful_tokens_per_s"]
    assert all(row["pairs_per_s"] > 0 for row in found.values())
    assert found["ours"]["loss"] == pytest.approx(found["trl"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_both_sides_get_the_same_gradients() -> None:
    sides, pairs = build_sides(bench.VOCABULARY, seed=0), short_pairs(8)
    gradients = {}
    for side, model in sides.items():
        bench.step(sides, Arm(side), pairs)
        gradients[side] = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    assert gradients["ours"].keys() == gradients["trl"].keys()
    for name, expected in gradients["trl"].items():
        error = (gradients["ours"][name] - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, name


def test_arms_that_compute_different_things_are_not_timed() -> None:
    with pytest.raises(DataError, match=r"batch 1: ours gives a loss of 2\.5, TRL 2\.0"):
        check_losses({BASELINE: [1.0, 2.0], Arm("ours"): [1.0, 2.5]})


def test_grouping_moves_pairs_between_batches_and_loses_none() -> None:
    pairs = generate_pairs("sharegpt", 24, seed=2)
    plain, grouped = (plan_batches(pairs, grouped=grouped, seed=3) for grouped in (False, True))

    assert plain == plan_batches(pairs, grouped=False, seed=3)
    assert plain != plan_batches(pairs, grouped=False, seed=4)
    assert {p.example_id for b in grouped for p in b} == {p.example_id for b in plain for p in b}
    assert bench._processed(Arm("trl"), grouped) < bench._processed(Arm("trl"), plain)


def test_processed_tokens_are_those_of_the_padded_batch() -> None:
    pairs = generate_pairs("hh", 8, seed=5)
    batch = padded_batch(pairs)
    width = max(batch[f"{side}_input_ids"].shape[1] for side in ("chosen", "rejected"))

    assert bench._processed(BASELINE, [pairs]) == 2 * 8 * width


@pytest.mark.parametrize("source", bench.SOURCES)
def test_generated_pairs_have_the_real_ones_lengths(source, shared_data) -> None:
    real, origin = sample_pairs(source, shared_data, 200, seed=0)
    generated, note = sample_pairs(source, Path("nowhere"), 200, seed=0)

    assert (origin, note.partition(":")[0]) == ("real", "generated")
    assert generated == generate_pairs(source, 200, seed=0)
    for side in ("prompt_ids", "chosen_ids", "rejected_ids"):
        means = [
            sum(math.log(len(getattr(p, side))) for p in pairs) / len(pairs)
            for pairs in (real, generated)
        ]
        assert means[0] == pytest.approx(means[1], abs=0.3)


def test_memory_of_an_arm_is_measured_in_a_process_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(bench, "_longest_that_fits", lambda: 8)
    asked = []

    def fake_run(command, **options):
        asked.append(json.loads(command[-1]))
        return bench.SimpleNamespace(stdout=f"{len(asked)}000\n")

    monkeypatch.setattr(bench.subprocess, "run", fake_run)
    found = bench.compare_memory(Path("data"), seed=3)

    assert [order["arm"][0] for order in asked] == ["trl", "trl", "ours", "ours"]
    assert found["peak_bytes"]["trl"] == 1000
    assert found["peak_bytes"]["ours checkpointing"] == 4000
