"""The published records are whole, and show what the embedded study was made to show."""

from pathlib import Path
from statistics import mean

import pytest

from study.config.canonical import digest
from study.config.recipe import load_recipe
from study.records.digests import run_config
from study.records.files import read_json, read_jsonl
from study.records.layout import RECORD, search_folder
from study.records.runs import compare_folders

RECIPES = ("tiny-llama", "tiny-smollm2")


@pytest.fixture
def published(root: Path) -> Path:
    return root / "runs" / "published"


def scores(published: Path, recipe: str, arm: str, name: str) -> float:
    records = [folder.record() for a, _, folder in compare_folders(published, recipe) if a == arm]
    return mean(record["scores"][name] for record in records)


@pytest.mark.parametrize("recipe", RECIPES)
def test_five_seeds_of_every_trained_arm_and_forty_trials(published, recipe) -> None:
    runs = [(arm, seed) for arm, seed, _ in compare_folders(published, recipe)]
    trials = {
        arm: list(read_jsonl(search_folder(published, recipe, arm) / "trials.jsonl"))
        for arm in ("sft", "orpo")
    }

    assert runs == [("base", 0), *((arm, s) for arm in ("orpo", "sft") for s in range(1, 6))]
    assert {arm: len(rows) for arm, rows in trials.items()} == {"sft": 40, "orpo": 40}


@pytest.mark.parametrize("recipe", RECIPES)
def test_records_are_of_the_shipped_recipes(published, recipe) -> None:
    for arm, seed, folder in compare_folders(published, recipe):
        record = folder.record()
        config = run_config(load_recipe(recipe), arm=arm, settings=record["settings"], seed=seed)

        assert record["digest"] == digest(config), folder.path / RECORD
        assert record["tuned"] == (arm != "base")


@pytest.mark.parametrize("recipe", RECIPES)
def test_sft_raises_the_log_probability_of_rejected_answers_too(published, recipe) -> None:
    base, sft = (scores(published, recipe, arm, "rejected_logps") for arm in ("base", "sft"))

    assert sft > base


@pytest.mark.parametrize("recipe", RECIPES)
def test_tuned_orpo_opens_twice_the_margin_of_tuned_sft_on_average(published, recipe) -> None:
    sft, orpo = (scores(published, recipe, arm, "margin") for arm in ("sft", "orpo"))

    assert sft > 0
    assert orpo >= 2 * sft


@pytest.mark.parametrize("recipe", RECIPES)
def test_tuned_orpo_is_more_accurate_than_tuned_sft_on_average(published, recipe) -> None:
    sft, orpo = (scores(published, recipe, arm, "accuracy") for arm in ("sft", "orpo"))

    assert orpo > sft


@pytest.mark.parametrize("recipe", RECIPES)
def test_orpo_at_a_small_learning_rate_opens_no_margin(published, recipe) -> None:
    trials = read_jsonl(search_folder(published, recipe, "orpo") / "trials.jsonl")
    small = [t for t in trials if t["settings"] == {"learning_rate": 2e-4, "beta": 0.1}]

    assert [trial["published"] is not None for trial in small] == [True]
    assert small[0]["margin"] <= 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_frozen_settings_are_those_that_were_compared(published, recipe) -> None:
    for arm in ("sft", "orpo"):
        best = read_json(search_folder(published, recipe, arm) / "best.json")
        used = [
            f.record()["settings"] for a, _, f in compare_folders(published, recipe) if a == arm
        ]

        assert used == [best["settings"]] * 5
