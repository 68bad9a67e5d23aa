"""The ladder of article A: each rung mends something, and on the last only the loss differs."""

import tomllib
from importlib import resources
from typing import Any

import pytest

from study.config.canonical import differences, to_dict
from study.config.recipe import Recipe, load_recipe

LADDER = tomllib.loads(
    resources.files("study").joinpath("sources/ladder.toml").read_text(encoding="utf-8")
)
RUNGS: list[dict[str, Any]] = LADDER["rungs"]
ARMS = ("sft", "orpo")


def set_up(arm: str, mended: int) -> Recipe:
    """What an arm is trained and scored with once so many rungs are mended."""
    recipe = load_recipe(LADDER["recipe"])
    for number, rung in enumerate(RUNGS):
        recipe = recipe.override(rung.get("both" if number < mended else arm, []))
    return recipe


def apart(mended: int) -> list[str]:
    """The fields in which the two arms differ, their own rates among them."""
    sft, orpo = (set_up(arm, mended) for arm in ARMS)
    trees = [
        {**to_dict(recipe), "arms": recipe.arms[arm]["learning_rate"]}
        for arm, recipe in zip(ARMS, (sft, orpo), strict=True)
    ]
    return [line.partition(":")[0] for line in differences(*trees)]


def test_the_arms_are_published_apart_in_these_fields_and_in_none_at_the_top() -> None:
    assert apart(0) == [
        "adapter.dropout",
        "adapter.kind",
        "arms",
        "training.batch_pairs",
        "training.max_steps",
    ]
    assert apart(len(RUNGS)) == []


@pytest.mark.parametrize("number", range(len(RUNGS)))
def test_a_rung_mends_what_it_names_and_keeps_what_was_mended(number: int) -> None:
    rung = RUNGS[number]
    changed = any(set_up(arm, number) != set_up(arm, number + 1) for arm in ARMS)

    assert set(apart(number + 1)) <= set(apart(number))
    assert changed == ("both" in rung)
    assert rung["touches"] in ("scoring", "training", "comparison")
    assert rung["published"] != rung["mended"]


def test_every_point_about_the_published_code_is_on_a_rung_or_said_not_to_be() -> None:
    points = {rung["point"] for rung in RUNGS}
    left = {one["point"] for one in LADDER["not_mended"]}

    assert points | left == set(range(1, 8))
    assert not points & left
    assert len({rung["id"] for rung in RUNGS}) == len(RUNGS)


def test_scoring_is_mended_before_anything_is_trained_anew() -> None:
    touched = [rung["touches"] for rung in RUNGS]

    assert touched == sorted(touched, key=["scoring", "training", "comparison"].index)
