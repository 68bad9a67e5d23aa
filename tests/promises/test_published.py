"""The published records are whole; what they show decides no test."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from analysis.records.metrics import example_scores
from study.arms import UNTRAINED
from study.config.canonical import digest
from study.config.recipe import load_recipe
from study.records.digests import run_config
from study.records.files import read_json, read_jsonl
from study.records.layout import EXAMPLES, RECORD, search_folder
from study.records.plan import seeds_of
from study.records.runs import compare_folders

RECIPES = ("tiny-llama-methods", "tiny-smollm2-methods")


@pytest.fixture
def published(root: Path) -> Path:
    return root / "runs" / "published"


@pytest.mark.parametrize("recipe", RECIPES)
def test_five_seeds_of_every_trained_arm_and_forty_trials(published, recipe) -> None:
    shipped = load_recipe(recipe)
    seeds = seeds_of(published, recipe, seed=0, n=5)
    runs = [(arm, seed) for arm, seed, _ in compare_folders(published, recipe)]
    trials = {
        arm: list(read_jsonl(search_folder(published, recipe, arm) / "trials.jsonl"))
        for arm in shipped.search.space
    }

    assert sorted(runs) == sorted([(UNTRAINED, 0), *product(shipped.arms, seeds)])
    assert {arm: len(rows) for arm, rows in trials.items()} == dict.fromkeys(trials, 40)


def test_no_seed_serves_two_recipes(published) -> None:
    seeds = [seeds_of(published, recipe, seed=0, n=5) for recipe in RECIPES]

    assert len({seed for of_recipe in seeds for seed in of_recipe}) == 5 * len(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_records_are_of_the_shipped_recipes(published, recipe) -> None:
    for arm, seed, folder in compare_folders(published, recipe):
        record = folder.record()
        start = read_json(folder.path / "config.json").get("start", {}).get("settings")
        config = run_config(
            load_recipe(recipe), arm=arm, settings=record["settings"], seed=seed, start=start
        )

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
    for arm in load_recipe(recipe).search.space:
        best = read_json(search_folder(published, recipe, arm) / "best.json")
        used = [
            f.record()["settings"] for a, _, f in compare_folders(published, recipe) if a == arm
        ]

        assert used == [best["settings"]] * 5
