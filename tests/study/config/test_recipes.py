"""Every shipped recipe loads, and fits the model that it names."""

import dataclasses

import pytest

from study.arms import ARMS, UNTRAINED
from study.config.files import recipe_names
from study.config.recipe import Recipe, load_recipe

FULL_SIZE = ("llama-3.2-1b", "smollm2-1.7b")
REAL = ("smollm2-135m",)
TINY = ("tiny-llama", "tiny-smollm2")


def lies_in_space(recipe: Recipe, arm: str, settings: dict[str, float]) -> bool:
    space = recipe.search.space[arm]
    return all(space[name][0] <= value <= space[name][1] for name, value in settings.items())


def test_the_shipped_recipes_are_these() -> None:
    bases = [*FULL_SIZE, *TINY]

    assert recipe_names() == sorted([*bases, *REAL, *(f"{base}-methods" for base in bases)])


@pytest.mark.parametrize("base", [*FULL_SIZE, *TINY])
def test_the_methods_recipes_have_every_arm_and_differ_in_nothing_else(base: str) -> None:
    few, every = load_recipe(base), load_recipe(f"{base}-methods")
    same = ("name", "description", "arms", "search")

    assert {UNTRAINED, *every.arms} == set(ARMS)
    assert set(few.arms) - {"sft-matched"} == {"sft", "orpo", "dpo", "simpo"}
    assert {arm: every.arms[arm] for arm in few.arms} == few.arms
    assert {arm: every.search.space[arm] for arm in few.search.space} == few.search.space
    for field in dataclasses.fields(few):
        if field.name not in same:
            assert getattr(few, field.name) == getattr(every, field.name)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_under_its_own_name(name: str) -> None:
    recipe = load_recipe(name)

    assert recipe.name == name
    assert recipe.description
    assert not recipe.model.trust_remote_code


@pytest.mark.parametrize("name", recipe_names())
def test_every_trained_arm_has_settings_and_a_space_that_holds_them(name: str) -> None:
    recipe = load_recipe(name)
    searched = {name for name in recipe.arms if ARMS[name].tuned_as is None}

    assert all(ARMS[name].loss for name in recipe.arms)
    assert set(recipe.search.space) == searched
    assert all(lies_in_space(recipe, arm, dict(recipe.arms[arm])) for arm in searched)


@pytest.mark.parametrize("name", recipe_names())
def test_warm_up_and_validation_fit_into_the_run(name: str) -> None:
    training = load_recipe(name).training

    assert training.warmup_steps < training.validate_every_steps
    assert training.max_steps % training.validate_every_steps == 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_published_setting_names_its_source_once(name: str) -> None:
    sources = [(known.arm, known.source) for known in load_recipe(name).search.published]

    assert all(source.strip() for _, source in sources)
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize("name", [*FULL_SIZE, *REAL])
def test_published_settings_leave_most_trials_to_the_search(name: str) -> None:
    search = load_recipe(name).search
    tried = [
        p for p in search.published if lies_in_space(load_recipe(name), p.arm, dict(p.settings))
    ]

    assert {p.arm for p in tried} == {"sft", "orpo", "dpo"} & set(search.space)
    assert len([p for p in tried if p.arm == "orpo"]) <= search.trials / 3
