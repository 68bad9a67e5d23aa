"""An arm that continues another: one start for all, first losses, resuming, costs."""

import copy
import dataclasses
import math
import random
import threading

import pytest
import torch

from study.arms import ARMS
from study.engine.forward import pair_logps
from study.model.workbench import open_workbench
from study.records.files import read_jsonl
from study.records.layout import STEPS
from study.records.publish import publish
from study.records.runs import run_folder, start_folders
from study.run.batches import PlannedBatches, plan_updates
from study.run.budget import planned_tokens
from study.run.make import make_run
from study.run.planned import PlannedRun, planned_start
from study.run.reference import find_reference
from study.run.start import find_start
from study.run.trained import load_adapter

RATE = {"learning_rate": 3e-3}
SETTINGS = {
    "orpo-from-sft": {**RATE, "beta": 0.2},
    "dpo": {**RATE, "beta": 0.1},
    "ipo": {**RATE, "beta": 0.4},
    "kto": {**RATE, "beta": 0.1},
    "simpo": {**RATE, "beta": 2.0, "gamma_beta_ratio": 0.5},
    "cpo": {**RATE, "beta": 0.1},
}
TIMELESS = ("seconds", "peak_memory_bytes", "train_s", "evaluate_s", "reference_s")


@pytest.fixture(scope="module")
def bench(small_recipe):
    """One workbench for all tests: every run begins with the adapter that it says."""
    recipe = small_recipe.override(
        [
            *("training.log_every_steps=1", "training.validate_every_steps=2"),
            *("training.checkpoint_every_steps=1", "evaluation.generated_answers=0"),
            *("data.validation_pairs=8", "data.test_pairs=8", "training.batch_pairs=4"),
        ]
    )
    arms = {"sft": RATE, **SETTINGS}
    return open_workbench(dataclasses.replace(recipe, arms=arms), device="cpu")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of records whose starts the tests share."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def afresh(bench):
    """The same workbench in a process that has computed nothing yet."""
    return dataclasses.replace(bench, untrained={}, references={})


def silent(*_):
    pass


def planned(bench, runs, arm, seed=1):
    return PlannedRun(
        recipe=bench.recipe,
        arm=arm,
        settings=SETTINGS[arm],
        seed=seed,
        tuned=False,
        folder=run_folder(runs, bench.recipe.name, arm, seed),
        start=planned_start(bench.recipe, arm, runs=runs),
    )


def make(bench, runs, arm, seed=1):
    run = planned(bench, runs, arm, seed)
    make_run(bench, silent, run=run)
    return run.folder


def start_of(bench, runs, seed=1):
    return find_start(bench, silent, start=planned_start(bench.recipe, "dpo", runs=runs), seed=seed)


def rows_of(folder, split):
    return [row for row in folder.steps() if row["split"] == split]


def weights(folder):
    return (folder.path / "adapter" / "adapter_model.safetensors").read_bytes()


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in (*TIMELESS, "files")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("arm", "loss"), [("dpo", math.log(2)), ("ipo", (1 / (2 * 0.4)) ** 2), ("kto", 0.5)]
)
def test_a_reference_is_the_start_so_that_the_first_loss_is_known(bench, shared, arm, loss):
    first, *_ = rows_of(make(bench, shared, arm), "train")

    assert first["loss"] == pytest.approx(loss, rel=1e-6)
    assert first["chosen_change"] == pytest.approx(0, abs=1e-6)
    assert first["chosen_reward"] == first["rejected_reward"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("arm", SETTINGS)
def test_every_arm_continues_one_start_and_counts_from_its_end(bench, shared, arm):
    folder = make(bench, shared, arm)
    start = start_of(bench, shared)
    record = folder.record()
    begun = rows_of(start.folder, "validation")[-1]

    assert [one.path for one in start_folders(shared, bench.recipe.name)] == [start.folder.path]
    assert start.folder.path.name == start.record["digest"][:16]
    assert [row["step"] for row in rows_of(folder, "train")] == [1, 2, 3, 4]
    assert [row["step"] for row in rows_of(folder, "validation")] == [0, 2, 4]
    assert rows_of(folder, "validation")[0] == {**begun, "step": 0}
    assert record["start"]["digest"] == start.record["digest"]
    assert record["status"] == "ok"
    assert folder.faults() == start.folder.faults() == []
    assert any(row["chosen_reward"] for row in rows_of(folder, "train")) == ARMS[arm].reference


@pytest.mark.parametrize("arm", SETTINGS)
def test_a_run_is_charged_its_start_and_its_reference_as_planned(bench, shared, arm):
    cost = make(bench, shared, arm).record()["cost"]
    start = start_of(bench, shared).record["cost"]
    own = sum(row["tokens"] for row in rows_of(run_folder(shared, "small", arm, 1), "train"))
    training = bench.recipe.training

    assert cost["steps"] == 8
    assert cost["train_tokens"] == planned_tokens(bench.train, training, arm=arm, seed=1)
    assert cost["train_tokens"] == own + start["train_tokens"] + cost.get("reference_tokens", 0)
    assert cost["train_s"] > start["train_s"]
    assert cost["peak_memory_bytes"] >= start["peak_memory_bytes"]
    assert ("reference_s" in cost) == ARMS[arm].reference


def test_a_start_is_published_without_its_weights(bench, shared, tmp_path):
    start = start_of(bench, shared).folder
    publish(shared, tmp_path)
    (copied,) = start_folders(tmp_path, bench.recipe.name)

    assert {path.name for path in copied.path.iterdir()} == {
        *("config.json", "record.json", "steps.jsonl")
    }
    assert copied.record() == start.record()
    assert copied.faults() == []


def test_memory_too_small_for_a_pass_halves_it(bench, shared, monkeypatch):
    batches = PlannedBatches(
        bench.train, bench.recipe.training, arm="dpo", seed=1, device="cpu", value_bytes=4
    )
    start = start_of(bench, shared)
    load_adapter(bench, start.folder.path, seed=1)
    whole = find_reference(dataclasses.replace(bench, references={}), batches, start=start)

    def small_device(model, batch):
        if batch["n_tokens"] > 150:
            raise torch.OutOfMemoryError("injected")
        return pair_logps(model, batch)

    monkeypatch.setattr("study.run.reference.pair_logps", small_device)
    halved = find_reference(dataclasses.replace(bench, references={}), batches, start=start)

    assert halved.cost["reference_tokens"] == whole.cost["reference_tokens"]
    assert halved.sums.keys() == whole.sums.keys()
    for name, sums in whole.sums.items():
        assert halved.sums[name] == pytest.approx(sums, rel=1e-5)


def test_both_stages_train_on_the_pairs_of_one():
    sizes = [7, 9, 3, 5, 1, 8, 2, 6, 4, 10, 11, 12]
    one = plan_updates(sizes, 6, 2, seed=1)
    first, second = plan_updates(sizes, 2, 2, seed=1), plan_updates(sizes, 6, 2, seed=1, skip=2)

    assert sorted(map(sorted, first + second)) == sorted(map(sorted, one))
    assert max(second, key=lambda update: sum(sizes[i] for i in update)) == second[0]


@pytest.mark.parametrize("arm", ["dpo", "kto"])
def test_a_reference_takes_one_pass_over_the_pairs_however_often_they_are_read(
    bench, shared, monkeypatch, arm
):
    few, seen = copy.copy(bench), []
    few.train, few.references = bench.train[:6], {}
    config = dataclasses.replace(bench.recipe.training, max_steps=12)
    batches = PlannedBatches(few.train, config, arm=arm, seed=1, device="cpu", value_bytes=4)
    monkeypatch.setattr(
        "study.run.reference.pair_logps",
        lambda model, batch: seen.append(batch["n_tokens"]) or pair_logps(model, batch),
    )
    start = start_of(bench, shared)
    load_adapter(few, start.folder.path, seed=1)
    found = find_reference(few, batches, start=start)
    again = find_reference(few, batches, start=start)

    read = {pair.example_id: pair for n in range(6) for pair in batches.update(n)}
    moved = {pair.example_id: pair for n in range(6) for pair in batches.mismatches(n)}
    assert again is found
    assert found.sums.keys() == {*read, *moved}
    assert bool(moved) == (arm == "kto")
    assert sum(seen) == found.cost["reference_tokens"]
    assert sum(seen) == sum(pair.n_tokens for pair in (*read.values(), *moved.values()))


@pytest.fixture
def shifted(monkeypatch):
    """Lower every reference by 3 nats, so that KTO's z is not 0; list each z."""
    zs = []
    find, loss = find_reference, ARMS["kto"].loss

    def lower(*args, **kwargs):
        found = find(*args, **kwargs)
        sums = {name: [c - 3, r - 2] for name, (c, r) in found.sums.items()}
        return dataclasses.replace(found, sums=sums)

    def record(logps, *, z, **others):
        zs.append(float(z))
        return loss(logps, z=z, **others)

    monkeypatch.setattr("study.run.train.find_reference", lower)
    monkeypatch.setitem(ARMS, "kto", dataclasses.replace(ARMS["kto"], loss=record))
    return zs


def test_z_is_of_the_whole_update_however_it_is_split(bench, shared, shifted, tmp_path):
    from study.run.train import train_run

    found = []
    for tokens in (0, 100):
        cut = copy.copy(bench)
        cut.recipe = bench.recipe.override(
            [f"training.microbatch_tokens={tokens}", "training.max_grad_norm=1e6"]
        )
        shifted.clear()
        folder = tmp_path / str(tokens)
        settings = {"arm": "kto", "settings": SETTINGS["kto"], "seed": 1, "folder": folder}
        train_run(cut, **settings, start=start_of(bench, shared))
        rows = [row for row in read_jsonl(folder / STEPS) if row["split"] == "train"]
        zs = list(dict.fromkeys(round(z, 4) for z in shifted))
        found.append((len(shifted), zs, [(row["loss"], row["grad_norm"]) for row in rows]))
    (n_whole, z_whole, rows_whole), (n_parts, z_parts, rows_parts) = found

    assert n_whole == 4 < n_parts
    assert len(z_whole) == len(z_parts) == 3  # the first update's rate is 0
    assert z_whole[0] == pytest.approx(2.5, abs=1e-5)
    assert all(abs(z - 2.5) > 1e-4 for z in z_whole[1:])
    torch.testing.assert_close(torch.tensor(z_parts), torch.tensor(z_whole), rtol=0, atol=2e-4)
    torch.testing.assert_close(
        torch.tensor(rows_parts), torch.tensor(rows_whole), rtol=2e-5, atol=0
    )


def test_mismatched_pairs_hold_the_answers_before_them_cut_to_the_longest_row(bench):
    batches = PlannedBatches(
        bench.train, bench.recipe.training, arm="kto", seed=1, device="cpu", value_bytes=4
    )
    pairs, moved = batches.update(0), batches.mismatches(0)

    assert [m.prompt_ids for m in moved] == [pair.prompt_ids for pair in pairs]
    for mine, before in zip(moved, [pairs[-1], *pairs], strict=False):
        room = batches.longest_row - mine.n_prompt
        assert mine.chosen_ids == before.chosen_ids[:room]
        assert mine.rejected_ids == before.rejected_ids[:room]


def killed_after(monkeypatch, n):
    """Let n forward passes through, of training, scoring and reference alike, then stop."""
    left = iter(range(n))

    def pass_or_die(model, batch):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return pair_logps(model, batch)

    for module in ("trainer", "scores", "reference"):
        monkeypatch.setattr(f"study.run.{module}.pair_logps", pass_or_die)


@pytest.mark.parametrize(("arm", "most"), [("kto", 14), ("simpo", 6)])
def test_a_run_killed_at_any_moment_ends_as_if_it_were_not(
    bench, shared, tmp_path, monkeypatch, arm, most
):
    whole = make(bench, shared, arm)
    chance, n_kills = random.Random(arm), 0
    while True:
        process = dataclasses.replace(bench, untrained={}, references={})
        with monkeypatch.context() as patch:
            killed_after(patch, chance.randint(3, most))
            try:
                cut = make(process, tmp_path, arm)
                break
            except KeyboardInterrupt:
                n_kills += 1

    (start,), (undisturbed,) = (start_folders(runs, "small") for runs in (tmp_path, shared))
    assert n_kills > 2
    assert weights(start) == weights(undisturbed)
    assert weights(cut) == weights(whole)
    for one, other in ((start, undisturbed), (cut, whole)):
        assert timeless(one.steps()) == timeless(other.steps())
        assert timeless(one.record()) | {"finished_at": ""} == timeless(other.record()) | {
            "finished_at": ""
        }


@pytest.mark.parametrize(
    "damage", ["flipped weights", "no weights", "a lost file", "a torn config", "another's folder"]
)
def test_a_damaged_or_missing_start_is_made_again(bench, afresh, tmp_path, caplog, damage):
    folder = start_of(bench, tmp_path).folder
    before, path = weights(folder), folder.path
    file = path / "adapter" / "adapter_model.safetensors"
    if damage == "flipped weights":
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    elif damage == "a lost file":
        file.unlink()
    elif damage == "no weights":
        (path / "adapter").rename(path / "elsewhere")
    elif damage == "a torn config":
        (path / "config.json").write_text('{"arm": "s')
    else:
        other = start_of(bench, tmp_path, seed=2).folder.path
        path.rename(tmp_path / "old")
        other.rename(path)
    found = start_of(afresh, tmp_path)

    assert weights(found.folder) == before
    assert found.folder.path == path
    assert found.folder.faults() == []
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    assert "made again" in caplog.text


def test_workers_that_need_the_same_start_make_it_once(bench, tmp_path, monkeypatch):
    import study.run.train

    began, may_end, real = threading.Event(), threading.Event(), study.run.train.train_run
    n_trained, found = [], []

    def train_run(*args, **kwargs):
        n_trained.append(kwargs["arm"])
        began.set()
        assert may_end.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr("study.run.train.train_run", train_run)
    workers = [
        threading.Thread(target=lambda: found.append(start_of(bench, tmp_path))) for _ in range(2)
    ]
    workers[0].start()
    assert began.wait(30)
    workers[1].start()
    workers[1].join(0.2)
    waits = workers[1].is_alive()
    may_end.set()
    for worker in workers:
        worker.join(60)

    assert waits
    assert n_trained == ["sft"]
    assert found[0].record == found[1].record


def test_a_run_diverges_where_its_start_did(bench, tmp_path):
    hot = copy.copy(bench)
    hot.recipe = dataclasses.replace(
        bench.recipe, arms={**bench.recipe.arms, "sft": {"learning_rate": 1e30}}
    )
    record = make(hot, tmp_path, "dpo").record()
    start = start_of(hot, tmp_path).record

    assert record["status"] == start["status"] == "diverged"
    assert record["divergence"] == start["divergence"]
    assert record["scores"] == {}
    assert record["cost"]["train_tokens"] == start["cost"]["train_tokens"]


def test_a_start_depends_on_seed_settings_and_weights_and_on_nothing_else(bench, tmp_path):
    from study.run.start import plan_start

    def name(bench, seed=1, **training):
        of = copy.copy(bench)
        first = dataclasses.replace(bench.recipe.training, **training).first_stage()
        of.recipe = dataclasses.replace(bench.recipe, training=first)
        return plan_start(of, planned_start(bench.recipe, "kto", runs=tmp_path), seed=seed)

    other = copy.copy(bench)
    other.recipe = dataclasses.replace(bench.recipe, arms={**bench.recipe.arms, "sft": RATE | RATE})
    moved = copy.copy(bench)
    moved.data_summary = {**bench.data_summary, "train": {"fingerprint": "another"}}

    mine = name(bench).folder.path
    assert name(other).folder.path == mine
    assert name(bench, max_steps=16, warmup_steps=4, start_share=0.25).folder.path == mine
    assert name(bench, seed=2).folder.path != mine
    assert name(bench, max_steps=12).folder.path != mine
    assert name(moved).folder.path != mine
