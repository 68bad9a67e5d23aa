"""Every shipped recipe loads, and fits the model that it names."""

import dataclasses

import pytest

from study.arms import ARMS, UNTRAINED
from study.config.files import recipe_names
from study.config.recipe import Recipe, load_recipe

FULL_SIZE = ("llama-3.2-1b", "smollm2-1.7b")
REAL = ("smollm2-135m",)
TINY = ("tiny-llama", "tiny-smollm2")
ARTICLES = ("article-a", "article-b", "article-c", "article-d")
VARIANTS = ("article-b-dora", "article-b-galore")


def lies_in_space(recipe: Recipe, arm: str, settings: dict[str, float]) -> bool:
    space = recipe.search.space[arm]
    return all(space[name][0] <= value <= space[name][1] for name, value in settings.items())


def test_the_shipped_recipes_are_these() -> None:
    bases = [*FULL_SIZE, *TINY]
    beside = [*(f"{base}-methods" for base in bases), *(f"{name}-corrected" for name in ARTICLES)]

    assert recipe_names() == sorted([*bases, *REAL, *ARTICLES, *VARIANTS, *beside])


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

    assert training.warmup_steps < training.validate_every_steps < training.max_steps
    assert training.epochs or training.max_steps % training.validate_every_steps == 0


@pytest.mark.parametrize("name", ARTICLES)
def test_what_every_twin_mends_is_mended_and_the_article_has_it_as_published(name: str) -> None:
    article, twin = load_recipe(name), load_recipe(f"{name}-corrected")

    assert (article.adapter.chat_tokens, twin.adapter.chat_tokens) == ("frozen", "trained")
    assert (article.adapter.dropout, twin.adapter.dropout) == (0.05, 0.0)
    assert article.training.optimizer == "paged_adamw_8bit"
    assert twin.training.optimizer == "adamw_torch_fused"
    assert {"sft", "orpo"} <= set(twin.arms)
    assert twin.model == article.model


PUBLISHED = {
    "article-a": ("meta-llama/Llama-3.2-1B", "nf4", 32, 16, 32, 563, 0, 1e-5, 0.1),
    "article-b": ("mistralai/Mistral-7B-v0.1", "nf4", 16, 16, 8, 100, 10, 8e-6, 0.1),
    "article-c": ("meta-llama/Meta-Llama-3-8B", "nf4", 16, 32, 8, 124, 10, 8e-6, 0.1),
    "article-d": ("HuggingFaceTB/SmolLM2-1.7B", "none", 32, 16, 8, 124, 10, 8e-6, 0.1),
}
"""Model, quantisation, rank and α, pairs and number of updates, warm-up, ORPO's rate and β."""


@pytest.mark.parametrize("name", ARTICLES)
def test_an_articles_recipe_says_what_was_published(name: str) -> None:
    recipe = load_recipe(name)
    model, adapter, training, orpo = (
        recipe.model,
        recipe.adapter,
        recipe.training,
        recipe.arms["orpo"],
    )

    assert (
        *(model.name, model.quantization, adapter.rank, adapter.alpha),
        *(training.batch_pairs, training.max_steps, training.warmup_steps),
        *(orpo["learning_rate"], orpo["beta"]),
    ) == PUBLISHED[name]
    assert (training.schedule, len(adapter.target_modules)) == ("linear", 7)


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
