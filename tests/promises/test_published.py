"""The published records are whole; what they show decides no test."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.records.metrics import example_scores
from study.config.canonical import digest
from study.config.recipe import load_recipe
from study.records.digests import run_config
from study.records.files import read_json, read_jsonl
from study.records.layout import EXAMPLES, RECORD, search_folder
from study.records.runs import compare_folders

RECIPES = ("tiny-llama", "tiny-smollm2")


@pytest.fixture
def published(root: Path) -> Path:
    return root / "runs" / "published"


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
def test_the_scores_of_every_record_are_the_means_of_its_examples(published, recipe) -> None:
    for _, _, folder in compare_folders(published, recipe):
        told = folder.record()["scores"]
        columns = example_scores(pd.read_parquet(folder.path / EXAMPLES))
        means = {name: column.mean() for name, column in columns.items() if name in told}

        assert {"accuracy", "margin", "nll", "rejected_logps", "exact_match"} <= set(means)
        assert means == pytest.approx({name: told[name] for name in means}, rel=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_frozen_settings_are_those_that_were_compared(published, recipe) -> None:
    for arm in ("sft", "orpo"):
        best = read_json(search_folder(published, recipe, arm) / "best.json")
        used = [
            f.record()["settings"] for a, _, f in compare_folders(published, recipe) if a == arm
        ]

        assert used == [best["settings"]] * 5
