"""A training whose scoring fails is kept; the next start only scores it."""

import pytest

from study.model.workbench import open_workbench
from study.records.runs import run_folder
from study.run.make import make_run
from study.run.planned import PlannedRun
from study.run.trained import TRAINED

ORPO = {"learning_rate": 3e-3, "beta": 0.2}


def planned(recipe, runs) -> PlannedRun:
    folder = run_folder(runs, recipe.name, "orpo", 1)
    return PlannedRun(recipe=recipe, arm="orpo", settings=ORPO, seed=1, tuned=False, folder=folder)


def make(recipe, runs) -> PlannedRun:
    run = planned(recipe, runs)
    make_run(open_workbench(recipe, device="cpu"), lambda *_: None, run=run)
    return run


def fail(*_, **__):
    raise RuntimeError("scoring broke")


def lose_scoring(recipe, runs, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("study.run.evaluate.evaluate_run", fail)
        with pytest.raises(RuntimeError, match="scoring broke") as found:
            make(recipe, runs)
    assert "is kept: the same command only scores it" in found.value.__notes__[0]


@pytest.mark.parametrize("every", [0, 4])
def test_a_run_whose_scoring_failed_is_scored_and_not_trained_again(
    small_recipe, tmp_path, monkeypatch, every
) -> None:
    recipe = small_recipe.override([f"training.checkpoint_every_steps={every}"])
    undisturbed = make(recipe, tmp_path / "whole").folder.record()
    lose_scoring(recipe, tmp_path / "cut", monkeypatch)
    monkeypatch.setattr("study.run.train.train_run", fail)
    run = make(recipe, tmp_path / "cut")
    record = run.folder.record()

    assert record["self_check"]["layout"] == "packed"
    assert record["scores"] == undisturbed["scores"]
    assert record["cost"]["train_tokens"] == undisturbed["cost"]["train_tokens"]
    assert record["files"].keys() == undisturbed["files"].keys()
    assert run.folder.faults() == []
    assert not (run.folder.path / TRAINED).exists()


def test_a_kept_training_that_was_changed_is_made_again(
    small_recipe, tmp_path, monkeypatch
) -> None:
    undisturbed = make(small_recipe, tmp_path / "whole").folder.record()
    lose_scoring(small_recipe, tmp_path / "cut", monkeypatch)
    weights = planned(small_recipe, tmp_path / "cut").folder.path / "adapter"
    weights /= "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    record = make(small_recipe, tmp_path / "cut").folder.record()

    assert record["scores"] == undisturbed["scores"]
