"""What `study export` writes is the model that was trained, or nothing is written."""

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from study.cli import main, status
from study.errors import ModelError, RecordError
from study.records.layout import release_path
from study.records.released import Release
from study.records.runs import compare_folders
from study.records.schema import read_as
from study.release import export as exporting
from study.release.chosen import choose_run, validation_loss
from study.release.export import Wanted, export
from study.release.verify import Scored, beyond, differences


def chosen(runs, arm="orpo", **options):
    return choose_run(runs=runs, recipe="small", arm=arm, **options)


@pytest.fixture(scope="module")
def merged(finished, tmp_path_factory):
    """A merged export by the command line, made once, with what was printed."""
    out = tmp_path_factory.mktemp("exported") / "model"
    command = ["export", "--recipe", "small", "--arm", "orpo", "--merged"]
    options = ["--runs", str(finished), "--out", str(out), "--answers", "4"]
    return out, CliRunner().invoke(main, [*command, *options], catch_exceptions=False)


def test_a_merged_model_passes_every_check_and_has_no_adapter_left(merged, finished) -> None:
    out, done = merged
    run = chosen(finished)
    record = read_as(release_path(finished, "small", "orpo", run.seed, "merged"), Release)
    config = json.loads((out / "config.json").read_text())
    card = (out / "README.md").read_text()

    assert done.exit_code == 0
    assert all(check["passed"] for check in record["checks"])
    assert {"token rows", "logits", "prompts", "padding"} <= {c["name"] for c in record["checks"]}
    assert record["scores"]["nll"]["difference"] != 0  # it was rounded to bfloat16
    assert abs(record["scores"]["nll"]["difference"]) < 1e-3
    assert (config["vocab_size"], config["dtype"]) == (643, "bfloat16")
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert str(finished) not in card
    assert run.record["digest"] in card
    assert "| preference accuracy | " in card
    shares = [line for line in card.splitlines() if line.startswith("| answers that end")]
    low, high = shares[0].split("|")[3].split(" to ")
    assert 0 <= float(low) < float(high) <= 1  # Clopper and Pearson's, though all may end alike


def test_status_lists_an_export_and_notices_that_it_was_changed(merged, finished) -> None:
    def states():
        return [row for row in status.status(finished) if row["part"] == "release"]

    (row,) = states()
    card = merged[0] / "README.md"
    before = card.read_bytes()
    card.write_bytes(before + b"!")
    (changed,) = states()
    card.write_bytes(before)

    assert (row["state"], row["arm"]) == ("finished", "orpo")
    assert row["detail"].startswith("merged")
    assert changed["state"] == "damaged"


def test_an_adapter_alone_is_checked_on_its_base_and_exported_twice(finished) -> None:
    run, wanted = chosen(finished, arm="sft"), Wanted(form="adapter", n_pairs=4, n_answers=2)
    record = export(run, wanted, say=lambda _: None)
    again = export(run, wanted, say=lambda _: None)
    folder = release_path(finished, "small", "sft", run.seed, "adapter").parent

    assert all(check["passed"] for check in record["checks"])
    assert record["scores"]["nll"]["difference"] == 0
    assert record["n_pairs"] == 4
    assert record["files"] == again["files"]
    assert len(list(folder.glob("adapter.old-*"))) == 1


def damage(target, *_, **__):
    weights = load_file(target / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**weights, name: -3 * weights[name]}, target / "model.safetensors")


def test_a_model_that_scores_otherwise_is_refused_and_leaves_nothing(
    finished, tmp_path, monkeypatch
) -> None:
    own = exporting.write_config
    monkeypatch.setattr(
        exporting,
        "write_config",
        lambda config, target, **options: (own(config, target, **options), damage(target)),
    )
    margins = {"nll": 1e-6}
    monkeypatch.setattr(exporting, "margins_of_interest", lambda run: margins)
    run = chosen(finished)
    wanted = Wanted(form="merged", out=tmp_path / "out", n_pairs=4, n_answers=0)
    with pytest.raises(ModelError, match=r"what was written is not what was trained:\n  nll"):
        export(run, wanted, say=lambda _: None)
    left = list(tmp_path.iterdir())
    forced = export(run, dataclasses.replace(wanted, force=True), say=lambda _: None)

    assert left == []
    assert forced["forced"][0].startswith("nll")
    assert "exported with --force" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_that_is_no_export_is_never_replaced(finished, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")

    with pytest.raises(RecordError, match="no earlier export"):
        export(chosen(finished), Wanted(form="merged", out=tmp_path), say=lambda _: None)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_export_that_was_killed_before_its_record_is_set_aside(finished) -> None:
    run = chosen(finished, arm="sft")
    folder = release_path(finished, "small", "sft", run.seed, "merged").with_suffix("")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")

    assert exporting._place(run, Wanted(form="merged")) == folder
    with pytest.raises(RecordError, match="no earlier export"):
        exporting._place(run, Wanted(form="merged", out=folder))


def test_the_best_seed_by_validation_is_taken_unless_one_is_named(finished) -> None:
    folders = {s: f for arm, s, f in compare_folders(finished, "small") if arm == "orpo"}
    losses = {seed: validation_loss(folder) for seed, folder in folders.items()}
    best = min(losses, key=losses.get)
    (other,) = set(losses) - {best}

    assert chosen(finished).seed == best
    assert chosen(finished, seed=other).seed == other
    assert choose_run(folders[other].path, runs=finished).seed == other


@pytest.mark.parametrize(
    ("arm", "seed", "message"),
    [
        ("orp", None, "did you mean 'orpo'"),
        ("orpo", 99, "no finished run to take"),
        ("base", None, "nothing to export"),
    ],
)
def test_what_cannot_be_exported_is_named(finished, arm, seed, message) -> None:
    with pytest.raises(RecordError, match=message):
        export(chosen(finished, arm=arm, seed=seed), Wanted(form="adapter"), say=lambda _: None)


def test_an_adapter_of_another_base_is_refused(finished, monkeypatch) -> None:
    run = chosen(finished)
    record = {**run.record, "model": {**run.record["model"], "commit": "sha256:other"}}

    with pytest.raises(ModelError, match=r"was trained on .* at sha256:other, and this is"):
        export(dataclasses.replace(run, record=record), Wanted(form="adapter"), say=lambda _: None)


@pytest.mark.parametrize(("n_turned", "refused"), [(1, False), (3, False), (5, True)])
def test_few_answers_that_turn_are_no_effect_and_many_are(n_turned, refused) -> None:
    def scored(right):
        return Scored(
            scores={"exact_match": sum(right) / 32},
            texts=tuple(map(str, right)),
            by_answer={"exact_match": tuple(right)},
        )

    before, after = [1.0] * 32, [0.0] * n_turned + [1.0] * (32 - n_turned)
    found = differences(scored(before), scored(after), {"exact_match": 0.03})

    assert bool(beyond(found)) == refused


def test_differences_from_the_smallest_that_matters_on_are_beyond_it() -> None:
    before = Scored(scores={"nll": 1.0, "accuracy": 0.5, "lor": 1.0}, texts=("a", "b"))
    after = Scored(scores={"nll": 1.02, "accuracy": 0.51, "lor": 9.0}, texts=("a", "c"))
    found = differences(before, after, {"nll": 0.02 - 1e-9, "accuracy": 0.02})

    assert [line.split()[0] for line in beyond(found)] == ["nll"]
    assert found["same_answers"]["released"] == 0.5
    assert found["lor"]["margin"] is None
    broken = differences(
        before, dataclasses.replace(after, scores={"nll": float("nan")}), {"nll": 9}
    )
    assert len(beyond(broken)) == 1
