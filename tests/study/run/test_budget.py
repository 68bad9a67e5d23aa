"""An arm matched in tokens trains as long as the dearest arm, and no longer."""

import dataclasses
from types import SimpleNamespace

import pytest

from study.arms import costly_arms
from study.engine.encoded import Encoded
from study.errors import ConfigError
from study.records.digests import run_config
from study.run.batches import PlannedBatches
from study.run.budget import budget_of, planned_tokens

RATE = {"learning_rate": 1e-3}


PAIRS = [Encoded.of(f"{n}", (0,) * (5 + n % 7), (0,) * 3, (0,) * (4 + n % 5)) for n in range(200)]


def bench(recipe):
    return SimpleNamespace(recipe=recipe, train=PAIRS)


@pytest.fixture
def matched(small_recipe):
    return dataclasses.replace(small_recipe, arms={**small_recipe.arms, "sft-matched": RATE})


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_the_least_number_of_updates_that_reaches_the_dearest_arms_tokens(matched, seed):
    training, budget = budget_of(bench(matched), arm="sft-matched", seed=seed)
    less = dataclasses.replace(training, max_steps=training.max_steps - 1)
    wanted = planned_tokens(PAIRS, matched.training, arm="orpo", seed=seed)

    assert budget == {"tokens_of": "orpo", "tokens": wanted, "steps": training.max_steps}
    assert planned_tokens(PAIRS, training, arm="sft-matched", seed=seed) >= wanted
    assert planned_tokens(PAIRS, less, arm="sft-matched", seed=seed) < wanted


@pytest.mark.parametrize("arm", ["sft", "orpo"])
def test_the_other_arms_train_for_the_recipes_updates(matched, arm):
    assert budget_of(bench(matched), arm=arm, seed=1) == (
        matched.training,
        None,
    )


def test_its_configuration_names_the_arm_it_is_matched_to_and_others_stay_as_they_were(
    matched, small_recipe
):
    config = run_config(matched, arm="sft-matched", settings=RATE, seed=1)
    beside = run_config(matched, arm="sft", settings=RATE, seed=1)

    assert config["budget"] == {"tokens_of": "orpo"}
    assert beside == run_config(small_recipe, arm="sft", settings=RATE, seed=1)


@pytest.mark.parametrize(
    ("arms", "costly"),
    [
        (["base", "sft", "sft-matched", "orpo"], ["orpo"]),
        (["sft", "sft-matched"], ["sft"]),
        (["sft", "orpo", "orpo-from-sft", "simpo"], ["orpo", "orpo-from-sft"]),
        (["sft", "orpo", "simpo", "dpo", "ipo"], ["orpo", "dpo"]),
        (["sft", "kto", "dpo"], ["sft", "kto"]),
    ],
)
def test_one_arm_of_each_start_can_be_the_dearest(arms, costly):
    assert costly_arms(arms) == costly


def test_a_matched_arm_needs_another_to_be_matched_to():
    with pytest.raises(ConfigError, match="needs another beside it"):
        costly_arms(["base", "sft-matched"])


def test_it_has_no_search_of_its_own(matched):
    with pytest.raises(ConfigError, match="takes the settings that the search of sft finds"):
        dataclasses.replace(matched.search, space={"sft-matched": {"learning_rate": (1e-4, 1e-2)}})


def test_an_arm_that_continues_another_can_be_the_dearest_with_all_its_passes(matched):
    both = {**RATE, "beta": 0.1}
    recipe = dataclasses.replace(matched, arms={**matched.arms, "dpo": both, "ipo": both})
    short = dataclasses.replace(matched, arms={**matched.arms, "orpo-from-sft": both})
    training, n_updates = recipe.training, recipe.training.max_steps // 2
    wanted = {arm: planned_tokens(PAIRS, training, arm=arm, seed=1) for arm in ("sft", "dpo")}
    plan = PlannedBatches(PAIRS, training, arm="dpo", seed=1, device="cpu", value_bytes=4)
    own = sum(pair.n_tokens for n in range(n_updates) for pair in plan.update(n))
    first = planned_tokens(PAIRS, training.first_stage(), arm="sft", seed=1)

    assert wanted["dpo"] == first + 2 * own
    assert budget_of(bench(recipe), arm="sft-matched", seed=1)[1]["tokens_of"] == "dpo"
    assert budget_of(bench(short), arm="sft-matched", seed=1)[1]["tokens_of"] == "orpo"


def test_the_planned_tokens_are_those_that_training_counts(matched, workbench):
    from study.run.train import train_run

    real = dataclasses.replace(workbench, recipe=matched)
    dear = train_run(real, arm="orpo", settings={**RATE, "beta": 0.1}, seed=3, folder=None)
    long = train_run(real, arm="sft-matched", settings=RATE, seed=3, folder=None)

    assert dear.budget is None
    assert long.budget["tokens"] == dear.cost["train_tokens"] <= long.cost["train_tokens"]
    assert long.budget["steps"] == long.cost["steps"] > dear.cost["steps"]
