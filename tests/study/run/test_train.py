"""The one loop: same batches for every arm, accumulation, resuming, divergence."""

import dataclasses
import math

import pytest
import torch

from study.engine.forward import pair_logps
from study.errors import ModelError
from study.model.workbench import open_workbench
from study.records.files import read_jsonl
from study.records.layout import STEPS
from study.run.batches import PlannedBatches, plan_updates
from study.run.checkpoints import TRAINER, discard_checkpoints, read_seal
from study.run.scores import initial_validation
from study.run.train import train_run

SFT, ORPO = {"learning_rate": 3e-3}, {"learning_rate": 3e-3, "beta": 0.2}


def with_training(workbench, **changes):
    """The same workbench under changed training settings."""
    training = dataclasses.replace(workbench.recipe.training, **changes)
    workbench.recipe = dataclasses.replace(workbench.recipe, training=training)
    return workbench


def adapter_of(workbench) -> dict[str, torch.Tensor]:
    model = workbench.base.model
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_arms_see_the_same_pairs_in_the_same_order(workbench) -> None:
    config = workbench.recipe.training
    sft, orpo = (
        PlannedBatches(workbench.train, config, arm=arm, seed=5, device="cpu", value_bytes=4)
        for arm in ("sft", "orpo")
    )

    assert sft.updates == orpo.updates
    assert len(sft) == config.max_steps


def test_plan_seed_is_honoured_and_every_pair_is_used_before_any_repeats() -> None:
    sizes = [7, 9, 3, 5, 1, 8, 2, 6, 4, 10]
    plan = plan_updates(sizes, 5, 2, seed=1)

    assert plan == plan_updates(sizes, 5, 2, seed=1)
    assert plan != plan_updates(sizes, 15, 2, seed=2)[:5]
    assert sorted(index for update in plan for index in update) == list(range(10))


def test_an_update_holds_pairs_of_similar_length_and_the_largest_comes_first() -> None:
    sizes = [7, 9, 3, 5, 1, 8, 2, 6, 4, 10]
    plan = plan_updates(sizes, 5, 2, seed=1)

    assert [sizes[index] for index in plan[0]] == [10, 9]
    assert sorted(sorted(sizes[index] for index in update) for update in plan) == [
        [1, 2], [3, 4], [5, 6], [7, 8], [9, 10],
    ]  # fmt: skip


def test_pairs_left_over_by_a_pass_begin_the_next(workbench) -> None:
    plan = plan_updates([1] * 10, 5, 4, seed=1)

    assert [len(update) for update in plan] == [4] * 5
    used = [index for update in plan for index in update]
    assert all(used.count(index) == 2 for index in range(10))


@pytest.mark.parametrize(
    ("device", "value_bytes", "n_parts"), [("cpu", 4, 2), ("cpu", 2, 1), ("cuda", 4, 1)]
)
def test_a_cpu_takes_an_update_in_parts_unless_the_recipe_says(
    workbench, monkeypatch, device, value_bytes, n_parts
) -> None:
    config = workbench.recipe.training
    batches = PlannedBatches(
        workbench.train, config, arm="orpo", seed=5, device=device, value_bytes=value_bytes
    )
    whole = sum(pair.n_tokens for pair in batches.update(0))
    monkeypatch.setattr("study.engine.packing.PASS_BYTES_ON_CPU", 3 * whole)
    batches = PlannedBatches(
        workbench.train, config, arm="orpo", seed=5, device=device, value_bytes=value_bytes
    )

    assert config.microbatch_tokens == 0
    assert len(batches.microbatches(0)) == n_parts


def test_micro_batches_keep_to_the_token_budget_and_lose_no_pair(workbench) -> None:
    config = dataclasses.replace(workbench.recipe.training, microbatch_tokens=200)
    batches = PlannedBatches(
        workbench.train, config, arm="orpo", seed=5, device="cpu", value_bytes=4
    )

    for number in range(len(batches)):
        parts = batches.microbatches(number)
        assert all(len(p) == 1 or sum(pair.n_tokens for pair in p) <= 200 for p in parts)
        assert [pair for part in parts for pair in part] == batches.update(number)
    assert any(len(batches.microbatches(number)) > 1 for number in range(len(batches)))


@pytest.mark.parametrize(("arm", "settings"), [("sft", SFT), ("orpo", ORPO)])
def test_a_run_logs_what_the_contract_names(workbench, tmp_path, arm, settings) -> None:
    outcome = train_run(workbench, arm=arm, settings=settings, seed=1, folder=tmp_path)
    rows = list(read_jsonl(tmp_path / STEPS))
    train = [row for row in rows if row["split"] == "train"]
    held_out = [row for row in rows if row["split"] == "validation"]

    assert outcome.status == "ok"
    assert [row["step"] for row in train] == [2, 4, 6, 8]
    assert [row["step"] for row in held_out] == [0, 4, 8]
    assert all(row["tokens"] > 0 and math.isfinite(row["grad_norm"]) for row in train)
    assert all((row["or_loss"] is None) == (arm == "sft") for row in train)
    assert outcome.validation == {
        k: v for k, v in held_out[-1].items() if k not in ("split", "step")
    }
    assert outcome.cost["steps"] == 8
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_seed_is_honoured_whatever_was_trained_before(workbench) -> None:
    train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=None)
    first = adapter_of(workbench)
    train_run(workbench, arm="sft", settings=SFT, seed=2, folder=None)
    train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=None)

    assert_equal(adapter_of(workbench), first)


def test_seeds_change_the_adapter(workbench) -> None:
    train_run(workbench, arm="sft", settings=SFT, seed=1, folder=None)
    first = adapter_of(workbench)
    train_run(workbench, arm="sft", settings=SFT, seed=2, folder=None)

    assert any(not torch.equal(first[name], value) for name, value in adapter_of(workbench).items())


@pytest.mark.parametrize("nll_over", ["prompt_and_response", "response"])
def test_small_micro_batches_agree_with_whole_updates(workbench, tmp_path, nll_over) -> None:
    losses = []
    for tokens in (0, 150):
        with_training(workbench, microbatch_tokens=tokens, nll_over=nll_over, max_grad_norm=1e6)
        folder = tmp_path / str(tokens)
        train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=folder)
        rows = [row for row in read_jsonl(folder / STEPS) if row["split"] == "train"]
        losses.append([(row["loss"], row["grad_norm"]) for row in rows])

    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=2e-5, atol=0)


@pytest.mark.parametrize(("log_every_steps", "dropout"), [(2, 0.0), (3, 0.3)])
def test_a_run_that_was_killed_resumes_to_the_same_adapter(
    workbench, tmp_path, log_every_steps, dropout
) -> None:
    """Checkpoints come every 4 steps: with a log, or between two."""
    with_training(workbench, log_every_steps=log_every_steps)
    adapter = dataclasses.replace(workbench.recipe.adapter, dropout=dropout)
    workbench.recipe = dataclasses.replace(workbench.recipe, adapter=adapter)
    undisturbed = train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=tmp_path / "whole")
    whole = adapter_of(workbench)

    def die(step, scores):
        if step == 8:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train_run(
            workbench, arm="orpo", settings=ORPO, seed=1, folder=tmp_path / "cut", on_validation=die
        )
    assert list((tmp_path / "cut" / TRAINER).glob("checkpoint-4"))
    half_written = tmp_path / "cut" / TRAINER / "checkpoint-6"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text('{"global_')
    later = open_workbench(workbench.recipe, device="cpu")
    window = read_seal(tmp_path / "cut" / TRAINER / "checkpoint-4")["window"]
    outcome = train_run(later, arm="orpo", settings=ORPO, seed=1, folder=tmp_path / "cut")

    rows = [row for row in read_jsonl(tmp_path / "cut" / STEPS) if row["split"] == "train"]
    resumed = next(row for row in rows if row["step"] > 4)
    assert len(window["rows"]) == 4 % log_every_steps
    assert resumed["seconds"] > window["seconds"]
    assert outcome.cost["train_s"] > sum(row["seconds"] for row in rows) - 0.01
    assert_equal(adapter_of(later), whole)
    assert outcome.cost["train_tokens"] == undisturbed.cost["train_tokens"]
    assert initial_validation(later) == initial_validation(workbench)
    timeless = ("seconds", "peak_memory_bytes")
    whole_rows, cut_rows = (
        [{k: v for k, v in row.items() if k not in timeless} for row in read_jsonl(folder / STEPS)]
        for folder in (tmp_path / "whole", tmp_path / "cut")
    )
    assert cut_rows == whole_rows


def test_a_run_stops_where_validation_says_so(workbench) -> None:
    outcome = train_run(
        workbench,
        arm="sft",
        settings=SFT,
        seed=1,
        folder=None,
        on_validation=lambda step, _: step == 4,
    )

    assert outcome.status == "stopped"
    assert outcome.cost["steps"] == 4


@pytest.mark.parametrize("arm", ["sft", "orpo"])
def test_an_absurd_learning_rate_diverges_with_step_and_examples(workbench, tmp_path, arm) -> None:
    settings = {"learning_rate": 1e30} | ({"beta": 0.2} if arm == "orpo" else {})
    outcome = train_run(workbench, arm=arm, settings=settings, seed=1, folder=tmp_path)
    known = {pair.example_id for pair in workbench.train}

    assert outcome.status == "diverged"
    assert 1 <= outcome.divergence["step"] <= 8
    assert len(outcome.divergence["example_ids"]) in (0, 8)
    assert set(outcome.divergence["example_ids"]) <= known
    assert not (tmp_path / "adapter").exists()


def test_a_tracker_gets_every_log_and_outlives_the_checkpoints(
    workbench, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("tensorboard", reason="the tracking extra is not installed")
    monkeypatch.setenv("ORPO_STUDY_TRACKERS", "tensorboard")
    train_run(workbench, arm="sft", settings=SFT, seed=1, folder=tmp_path)
    discard_checkpoints(tmp_path)

    assert list((tmp_path / TRAINER).rglob("events.out.tfevents.*"))
    assert not list((tmp_path / TRAINER).glob("checkpoint-*"))


def test_training_lowers_the_loss(workbench, tmp_path) -> None:
    with_training(workbench, max_steps=40, validate_every_steps=40)
    outcome = train_run(workbench, arm="sft", settings={"learning_rate": 1e-2}, seed=1, folder=None)

    assert outcome.validation["nll"] < 0.8 * initial_validation(workbench)["nll"]


def test_out_of_memory_halves_the_micro_batches_and_changes_no_loss(
    workbench, tmp_path, monkeypatch
) -> None:
    import study.run.trainer

    def rows_of(folder):
        rows = [row for row in read_jsonl(folder / STEPS) if row["split"] == "train"]
        return torch.tensor([(row["loss"], row["grad_norm"]) for row in rows])

    undisturbed = train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=tmp_path / "a")
    largest = PlannedBatches(
        workbench.train,
        workbench.recipe.training,
        arm="orpo",
        seed=1,
        device="cpu",
        value_bytes=4,
    ).microbatches(0)[0]
    limit = sum(pair.n_tokens for pair in largest) // 3

    def small_device(model, batch):
        if model.training and batch["n_tokens"] > limit:
            raise torch.OutOfMemoryError("injected")
        return pair_logps(model, batch)

    monkeypatch.setattr(study.run.trainer, "pair_logps", small_device)
    outcome = train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=tmp_path / "b")

    assert undisturbed.out_of_memory == []
    assert [note["step"] for note in outcome.out_of_memory] == [1, 1]
    assert outcome.out_of_memory[-1]["microbatch_tokens"] <= limit
    torch.testing.assert_close(
        rows_of(tmp_path / "b"), rows_of(tmp_path / "a"), rtol=1e-6, atol=1e-7
    )
    assert outcome.cost["train_tokens"] == undisturbed.cost["train_tokens"]


def test_memory_too_small_for_one_pair_is_one_message(workbench, monkeypatch) -> None:
    import study.run.trainer

    def no_memory(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(study.run.trainer, "pair_logps", no_memory)
    with pytest.raises(ModelError, match=r"out of memory in a step.*gradient_checkpointing=true"):
        train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=None)


def test_processes_that_gather_weights_together_have_as_many_parts(workbench) -> None:
    config = dataclasses.replace(
        workbench.recipe.training, batch_pairs=5, microbatch_tokens=1, max_steps=8
    )
    asked = {"arm": "orpo", "seed": 1, "device": "cpu", "value_bytes": 4, "world": 2}
    apart, together = (
        PlannedBatches(workbench.train, config, **asked, in_step=in_step)
        for in_step in (False, True)
    )

    for update in range(8):
        shares = [together.microbatches(update, share) for share in (0, 1)]
        assert [len(parts) for parts in shares] == [3, 3]
        assert shares[1][-1] == []
        assert [[p for p in parts if p] for parts in shares] == [
            apart.microbatches(update, share) for share in (0, 1)
        ]
        (shortest,) = together.stand_in(together.update(update), 1)
        assert shortest.n_tokens == min(part[0].n_tokens for part in shares[1] if part)


def test_a_resumed_run_keeps_the_budget_that_memory_left_it(
    workbench, tmp_path, monkeypatch
) -> None:
    import study.run.trainer

    sizes = []

    def small_device(model, batch):
        if model.training:
            sizes.append(batch["n_tokens"])
            if batch["n_tokens"] > 150:
                raise torch.OutOfMemoryError("injected")
        return pair_logps(model, batch)

    def die(step, scores):
        if step == 8:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(study.run.trainer, "pair_logps", small_device)
    with pytest.raises(KeyboardInterrupt):
        train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=tmp_path, on_validation=die)
    sizes.clear()
    outcome = train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=tmp_path)

    assert max(sizes) <= 150
    assert outcome.out_of_memory[0]["step"] == 1
    assert outcome.out_of_memory[-1]["microbatch_tokens"] <= 150
