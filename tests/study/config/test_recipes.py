"""Every shipped recipe loads, and fits the model that it names."""

import pytest

from study.arms import ARMS
from study.config.files import recipe_names
from study.config.recipe import Recipe, load_recipe

FULL_SIZE = ("llama-3.2-1b", "smollm2-1.7b")
TINY = ("tiny-llama", "tiny-smollm2")


def lies_in_space(recipe: Recipe, arm: str, settings: dict[str, float]) -> bool:
    space = recipe.search.space[arm]
    return all(space[name][0] <= value <= space[name][1] for name, value in settings.items())


def test_the_shipped_recipes_are_these() -> None:
    assert recipe_names() == sorted([*FULL_SIZE, *TINY])


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


@pytest.mark.parametrize("name", FULL_SIZE)
def test_published_settings_leave_most_trials_to_the_search(name: str) -> None:
    search = load_recipe(name).search
    tried = [
        p for p in search.published if lies_in_space(load_recipe(name), p.arm, dict(p.settings))
    ]

    assert {p.arm for p in tried} == {"sft", "orpo"}
    assert len([p for p in tried if p.arm == "orpo"]) <= search.trials / 3
