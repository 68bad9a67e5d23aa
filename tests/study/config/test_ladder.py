"""The ladder of article A: each rung mends something, and on the last only the loss differs."""

from dataclasses import replace
from itertools import pairwise

import pytest

from study.config.canonical import differences, to_dict
from study.config.ladder import START, Ladder, climb, load_ladder, set_ups
from study.config.recipe import load_recipe
from study.errors import ConfigError

LADDER = load_ladder("article-a")
RECIPES = ("article-a", "tiny-llama", "tiny-smollm2-methods", "smollm2-135m")


def apart(stage) -> list[str]:
    """The fields in which the two arms of a stage differ, their own rates among them."""
    trees = [
        {
            **to_dict(one.recipe),
            "arms": one.recipe.arms[one.arm]["learning_rate"],
            "start": one.start,
        }
        for one in (stage.baseline, stage.treatment)
    ]
    return [line.partition(":")[0] for line in differences(*trees)]


@pytest.mark.parametrize("name", RECIPES)
def test_the_arms_are_published_apart_in_these_fields_and_in_none_at_the_top(name: str) -> None:
    first, *_, last = climb(LADDER, load_recipe(name))

    assert {
        "adapter.dropout",
        "adapter.kind",
        "arms",
        "model.chat_template",
        "start",
        "training.batch_pairs",
        "training.max_steps",
    } <= set(apart(first))
    assert apart(last) == []
    assert (first.flaws, last.flaws) == (
        tuple(rung.id for rung in LADDER.rungs if rung.touches == "scoring"),
        (),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_rung_mends_what_it_names_and_keeps_what_was_mended(name: str) -> None:
    stages = climb(LADDER, load_recipe(name))

    for rung, (before, after) in zip(LADDER.rungs, pairwise(stages), strict=True):
        trained = (before.baseline, before.treatment) != (after.baseline, after.treatment)
        assert after.rung == rung.id
        assert set(apart(after)) <= set(apart(before))
        assert trained == (rung.touches == "training"), rung.id
        assert (before.flaws != after.flaws) == (rung.touches == "scoring"), rung.id
        assert rung.published != rung.mended


def test_every_point_about_the_published_code_is_on_a_rung_or_said_not_to_be() -> None:
    points = {rung.point for rung in LADDER.rungs}
    left = {one.point for one in LADDER.not_mended}

    assert points | left == set(range(1, 8))
    assert not points & left


def test_scoring_is_mended_before_anything_is_trained_anew() -> None:
    touched = [rung.touches for rung in LADDER.rungs]

    assert touched == sorted(touched, key=["scoring", "training", "comparison"].index)


def test_a_set_up_is_trained_once_for_all_the_rungs_that_share_it() -> None:
    found = set_ups(climb(LADDER, load_recipe("tiny-llama")))

    assert list(found) == [
        "sft-published",
        "orpo-start",
        "sft-templates",
        "sft-scaling",
        "orpo-dropout",
        "sft-batch",
        "orpo-batch",
        "orpo-rate",
        "orpo-published",
    ]
    assert {name: one.start for name, one in found.items() if one.start} == {
        "orpo-published": "sft-published"
    }


def test_every_set_up_reads_as_many_examples_as_the_recipe() -> None:
    recipe = load_recipe("tiny-llama")
    wanted = recipe.training.max_steps * recipe.training.batch_pairs

    for one in set_ups(climb(LADDER, recipe)).values():
        training = one.recipe.training
        assert training.max_steps * training.batch_pairs == wanted
        share = recipe.training.warmup_steps / recipe.training.max_steps
        assert training.warmup_steps == pytest.approx(share * training.max_steps, abs=0.5)


def test_rates_keep_their_published_ratio_on_any_scale() -> None:
    def rates(name: str) -> list[float]:
        first, *_, last = climb(LADDER, load_recipe(name))
        return [
            one.recipe.arms[one.arm]["learning_rate"]
            for one in (first.baseline, first.treatment, last.treatment)
        ]

    assert rates("article-a") == [3e-4, 8e-6, 3e-4]
    assert rates("tiny-llama") == [3e-3, 8e-5, 3e-3]


def test_a_recipe_without_the_arms_is_refused() -> None:
    recipe = load_recipe("tiny-llama")
    without = replace(recipe, arms={"sft": recipe.arms["sft"]})

    with pytest.raises(ConfigError, match="tiny-llama has no arm 'orpo'"):
        climb(LADDER, without)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [("sampling", "there must be one of each"), (START, "no rung 'start'")],
)
def test_a_ladder_without_a_rung_that_is_carried_out_by_name_is_refused(
    left_out: str, message: str
) -> None:
    rungs = tuple(rung for rung in LADDER.rungs if rung.id != left_out)

    with pytest.raises(ConfigError, match=message):
        replace(LADDER, rungs=rungs)
    assert isinstance(LADDER, Ladder)
