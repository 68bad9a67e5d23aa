"""Recipes are complete, typed and named by their digest."""

import copy
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.config.canonical import canonical_json, differences, digest, to_dict
from study.config.recipe import Recipe, from_dict, load_recipe
from study.errors import ConfigError, nearest
from study.records.digests import run_config, search_config

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("tiny-llama")


def narrowed(recipe: Recipe, *arms: str) -> Recipe:
    """The recipe without its other arms."""
    tree = to_dict(recipe)
    tree["arms"] = {arm: tree["arms"][arm] for arm in arms}
    tree["search"]["space"] = {arm: tree["search"]["space"][arm] for arm in arms}
    return from_dict(tree)


def changed(recipe: Recipe, section: str, **fields: Any) -> dict[str, Any]:
    tree = to_dict(recipe)
    (tree[section] if section else tree).update(fields)
    return tree


def test_plain_data_and_back_is_the_same_recipe(recipe: Recipe) -> None:
    assert from_dict(to_dict(recipe)) == recipe


SESOI = ("accuracy", "exact_match", "margin", "nll", "rouge1", "rouge2", "rougeL")


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("training", "max_step", "unknown key 'training.max_step' (did you mean 'max_steps'?)"),
        ("", "modell", "unknown key 'modell' (did you mean 'model'?)"),
        ("data", "zzz", "unknown key 'data.zzz'"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_name(
    recipe: Recipe, section: str, key: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(recipe, section, **{key: 1}))

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("training", {"max_steps": "ten"}, "training.max_steps is 'ten'; it must be of type int"),
        ("training", {"max_steps": True}, "training.max_steps is True; it must be of type int"),
        ("training", {"max_steps": 1.5}, "training.max_steps is 1.5; it must be of type int"),
        ("training", {"max_steps": 0}, "training.max_steps is 0; it must be at least 1"),
        ("training", {"schedule": "flat"}, "training.schedule is 'flat'; it must be one of"),
        ("training", {"microbatch_tokens": -1}, "must be 0 or more"),
        ("analysis", {"sesoi": dict.fromkeys(SESOI, 0.0)}, "must be positive"),
        ("training", {"gradient_checkpointing": "False"}, "it must be of type bool"),
        ("adapter", {"rank": 0}, "adapter.rank is 0"),
        ("adapter", {"dropout": 1.0}, "adapter.dropout is 1.0"),
        ("adapter", {"target_modules": "q_proj"}, "adapter.target_modules is 'q_proj'"),
        ("adapter", {"target_modules": ["q_proj", 1]}, "adapter.target_modules[1] is 1"),
        (
            "model",
            {"template_kwargs": {"a": []}},
            "template_kwargs.a is []; it must be",
        ),
        ("model", {"template_kwargs": {"tools": "x"}}, "template_kwargs.tools cannot be set"),
        ("model", {"template_kwargs": {"a b": 1}}, "template_kwargs.a b cannot be set"),
        ("model", {"template_date": "26 Jul 2024"}, "write a date as YYYY-MM-DD"),
        ("data", {"test_pairs": 0}, "data.test_pairs must be at least 1"),
        ("data", {"max_prompt_tokens": 160}, "data.max_prompt_tokens (160)"),
        ("data", {"max_dropped_share": 1.5}, "data.max_dropped_share"),
        ("search", {"space": {"orpo": {"learning_rate": [1e-4, 1e-3]}}}, "orpo takes"),
        ("search", {"space": {"sft": {"learning_rate": [1e-3, 1e-4]}}}, "increasing order"),
        ("search", {"space": {"sft": {"learning_rate": [1e-4]}}}, "it must have 2 entries"),
        ("arms", {"orpo": {"learning_rate": 1e-3}}, "orpo takes ['beta', 'learning_rate']"),
        ("arms", {"orpo": {"learning_rate": 1e-3, "beta": -1.0}}, "arms.orpo.beta is -1.0"),
        ("arms", {"ORPO": {"learning_rate": 1e-3}}, "arms are base, sft, sft-matched, orpo"),
        ("", {"name": "../elsewhere"}, "must be letters, digits"),
        ("", {"model": "gpt2"}, "model must be a table, not 'gpt2'"),
    ],
)
def test_values_that_mean_nothing_are_refused(
    recipe: Recipe, section: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(recipe, section, **fields))

    assert message in str(caught.value)


@pytest.mark.parametrize("section", ["", "model", "adapter", "data", "training", "search"])
def test_every_field_must_be_there(recipe: Recipe, section: str) -> None:
    complete = to_dict(recipe)
    for key in complete[section] if section else complete:
        tree = copy.deepcopy(complete)
        del (tree[section] if section else tree)[key]

        with pytest.raises(ConfigError, match=f"missing {section}.?{key}; a recipe is complete"):
            from_dict(tree)


DIGESTS = {
    "llama-3.2-1b": ("1f831f09d95d49d1", "0f7a69d42b93fe23"),
    "smollm2-1.7b": ("e0a10e853b88fdf9", "a1d5544919549582"),
    "tiny-llama": ("34abe9ecb1ef9a31", "2f538e9cfa3b1b7b"),
    "tiny-smollm2": ("0bdbc2a73b21e305", "c012d3aef18c2e6e"),
}
"""Of a run of ORPO with seed 1 and of its search, as the first records have them."""


@pytest.mark.parametrize("name", DIGESTS)
def test_a_field_added_later_changes_no_digest_while_it_is_neutral(name: str) -> None:
    first = ["search.objective=nll+lor", "data.seed=42"]
    if not name.startswith("tiny"):
        first += ["adapter.dropout=0.05", "search.space.sft.learning_rate=[1e-5, 1e-3]"]
    shipped = narrowed(load_recipe(name), "sft", "orpo").override(first)
    spelled = shipped.override(["model.chat_template=", "model.template_kwargs={}"])
    for recipe in (shipped, spelled):
        settings = recipe.arms["orpo"]
        run = digest(run_config(recipe, arm="orpo", settings=settings, seed=1))
        search = digest(search_config(recipe, arm="orpo", seed=0))

        assert (run[:16], search[:16]) == DIGESTS[name]


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("model.chat_template=chatml", "chat_template", "chatml"),
        ("model.template_kwargs.thinking=false", "template_kwargs", {"thinking": False}),
        ("model.template_kwargs={ a = 1, b = 'x' }", "template_kwargs", {"a": 1, "b": "x"}),
        ("model.template_date=2026-01-31", "template_date", "2026-01-31"),
        ("adapter.chat_tokens=frozen", "chat_tokens", "frozen"),
        ("training.galore_rank=8", "galore_rank", 8),
    ],
)
def test_a_field_added_later_is_in_the_digest_once_it_is_set(
    recipe: Recipe, assignment: str, field: str, value: Any
) -> None:
    new = recipe.override([assignment])

    def run(recipe: Recipe) -> dict[str, Any]:
        return run_config(recipe, arm="base", settings={}, seed=1)

    section = assignment.partition(".")[0]
    assert run(new)["recipe"][section] == run(recipe)["recipe"][section] | {field: value}
    assert from_dict(to_dict(new)) == new
    assert digest(run(new)) != digest(run(recipe))


EPOCHS = ("training.epochs=1", "data.train_pairs=100", "training.batch_pairs=16")


@pytest.mark.parametrize(
    ("assignments", "steps"),
    [
        (EPOCHS, 7),  # the last update takes the 12 pairs that it lacks from a second pass
        ((*EPOCHS, "training.epochs=2"), 13),
        ((*EPOCHS, "training.epochs=0.5", "training.warmup_steps=2"), 4),
        ((*EPOCHS, "training.max_steps=50"), 50),
        (("training.max_steps=50", *EPOCHS), 7),
        ((*EPOCHS, "training.epochs=0"), 96),
    ],
)
def test_epochs_are_worked_out_to_updates(
    recipe: Recipe, assignments: Sequence[str], steps: int
) -> None:
    new = recipe.override(["training.warmup_steps=2", *assignments])

    assert new.training.max_steps == steps
    assert from_dict(to_dict(new)) == new
    assert run_config(new, arm="base", settings={}, seed=1)["recipe"]["training"].get(
        "epochs", 0.0
    ) == (0.0 if steps in (50, 96) else new.training.epochs)


def test_the_stages_of_an_epoch_are_shares_of_its_updates(recipe: Recipe) -> None:
    new = staged(recipe, *EPOCHS, "training.epochs=4", "training.start_share=0.25")
    first, second = new.training.first_stage(), new.training.second_stage()

    assert (new.training.max_steps, first.max_steps, second.max_steps) == (25, 6, 19)
    assert first.epochs == second.epochs == 0
    assert dataclasses.replace(new, training=first).training == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.0, "max_steps": 50}, "max_steps is 50, and training.epochs 1, which are 150"),
        ({"epochs": -1.0}, "training.epochs is -1.0; it must be 0 or more"),
        ({"galore_rank": 0}, "training.galore_rank is 0; it must be at least 1"),
        ({"galore_scale": 0.0}, "training.galore_scale must be positive"),
        (
            {"optimizer": "galore_adamw", "weight_decay": 0.1},
            "weight_decay is 0.1, which transformers does not hand to galore_adamw; set it to 0",
        ),
    ],
)
def test_settings_of_training_that_cannot_hold_are_refused(
    recipe: Recipe, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(recipe, "training", **changes))

    assert message in str(caught.value)


def test_epochs_need_a_number_of_pairs(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"epochs is 1, and data\.train_pairs 0, all that there"):
        recipe.override(["training.epochs=1", "data.train_pairs=0"])


def test_no_name_is_suggested_that_is_not_near_or_was_given() -> None:
    assert nearest("learning_rat", ["sharding", "max_steps"]) == ""
    assert nearest("orpo", ["orpo", "dpo"]) == ""
    assert nearest("orp", ["orpo", "dpo"]) == " (did you mean 'orpo'?)"


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'tiny-llama'.*must end in \.toml"):
        load_recipe("tiny-lama")


def test_a_missing_or_broken_file_is_named(tmp_path: Any) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")

    with pytest.raises(ConfigError, match=r"there is no recipe file .*absent\.toml"):
        load_recipe(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match=r"recipe .*broken\.toml: Invalid value"):
        load_recipe(str(broken))


@pytest.mark.parametrize(
    ("assignment", "section", "field", "value"),
    [
        ("training.max_steps=50", "training", "max_steps", 50),
        ("training.weight_decay=1", "training", "weight_decay", 1.0),
        ("adapter.rank = 4", "adapter", "rank", 4),
        ("model.name=./some folder/x=y", "model", "name", "./some folder/x=y"),
        ('data.name="toy"', "data", "name", "toy"),
        ("training.gradient_checkpointing=true", "training", "gradient_checkpointing", True),
        ("adapter.target_modules=['q_proj']", "adapter", "target_modules", ("q_proj",)),
    ],
)
def test_an_override_sets_one_field(
    recipe: Recipe, assignment: str, section: str, field: str, value: Any
) -> None:
    new = recipe.override([assignment])

    assert getattr(getattr(new, section), field) == value
    assert len(differences(to_dict(recipe), to_dict(new))) == (to_dict(recipe) != to_dict(new))


def test_overrides_reach_into_arms_and_apply_in_order(recipe: Recipe) -> None:
    new = recipe.override(["arms.orpo.beta=0.5", "training.max_steps=50", "training.max_steps=70"])

    assert new.arms["orpo"]["beta"] == 0.5
    assert new.training.max_steps == 70


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.max_steps", "has no '='"),
        ("training.max_step=5", "did you mean 'max_steps'?"),
        ("trainning.max_steps=5", "there is no section 'trainning' (did you mean 'training'?)"),
        ("training.max_steps=many", "training.max_steps is 'many'"),
        ("training.max_steps=-1", "it must be at least 1"),
    ],
)
def test_a_bad_override_is_refused(recipe: Recipe, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe.override([assignment])

    assert message in str(caught.value)


@given(JSON)
def test_digests_do_not_depend_on_the_order_of_keys(value: Any) -> None:
    def reversed_keys(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: reversed_keys(item[key]) for key in reversed(item)}
        return [reversed_keys(x) for x in item] if isinstance(item, list) else item

    assert digest(reversed_keys(value)) == digest(value)
    assert json.loads(canonical_json(value)) == value


def test_a_digest_is_the_same_forever() -> None:
    wanted = "e9f55fb2039abaa563613aaa6d63f0cbcd490b3ee60862bb09657e0218cdf08e"

    assert canonical_json({"b": [1, 2.5, None], "a": "β"}) == '{"a":"β","b":[1,2.5,null]}'
    assert digest({"b": [1, 2.5, None], "a": "β"}) == wanted


def test_numbers_that_are_not_finite_have_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"loss": float("nan")})


def test_the_digest_of_a_run_changes_with_what_the_run_computes(recipe: Recipe) -> None:
    settings = {"learning_rate": 1e-3, "beta": 0.1}

    def run(recipe: Recipe, settings: dict[str, float] = settings, seed: int = 1) -> str:
        return digest(run_config(recipe, arm="orpo", settings=settings, seed=seed))

    same = recipe.override(["description=other", "search.trials=7", "arms.sft.learning_rate=1e-3"])
    assert run(same) == run(recipe)
    assert run(recipe, dict(reversed(settings.items()))) == run(recipe)
    assert run(recipe.override(["training.max_steps=50"])) != run(recipe)
    assert run(recipe, {**settings, "beta": 0.2}) != run(recipe)
    assert run(recipe, seed=2) != run(recipe)


def test_the_digest_of_a_search_leaves_out_the_number_of_trials(recipe: Recipe) -> None:
    def search(recipe: Recipe, arm: str = "sft") -> str:
        return digest(search_config(recipe, arm=arm, seed=0))

    assert search(recipe.override(["search.trials=7"])) == search(recipe)
    assert search(recipe.override(["search.space.orpo.beta=[0.1, 0.2]"])) == search(recipe)
    assert search(recipe.override(["search.space.sft.learning_rate=[0.1, 0.2]"])) != search(recipe)
    assert search(recipe, "orpo") != search(recipe)


def test_what_a_search_in_one_process_found_serves_a_shared_base(recipe: Recipe) -> None:
    shared = recipe.override(["training.sharding=fsdp"])
    alone, together = (search_config(one, arm="orpo", seed=0) for one in (recipe, shared))

    assert shared.training != recipe.training
    assert together == alone


def test_a_run_takes_exactly_the_settings_of_its_arm(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"sft takes \['learning_rate'\]"):
        run_config(recipe, arm="sft", settings={"learning_rate": 1e-3, "beta": 0.1}, seed=1)


def test_differences_name_the_fields() -> None:
    old = {"a": {"x": 1, "y": 2}, "b": 3}
    new = {"a": {"x": 1, "y": 5}, "c": 4}

    assert differences(old, old) == []
    assert differences(old, new) == [
        "a.y: 2 in the records, 5 asked for",
        "b: 3 in the records, '(absent)' asked for",
        "c: '(absent)' in the records, 4 asked for",
    ]


STAGED = {"dpo": {"learning_rate": 1e-4, "beta": 0.1}}


def staged(recipe: Recipe, *assignments: str, **arms: Any) -> Recipe:
    """The recipe with arms that continue SFT beside its own."""
    tree = to_dict(recipe)
    tree["arms"] |= arms or STAGED
    return from_dict(tree).override(assignments)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("adapter.dropout=0.05", "all arms have the same: set it to 0"),
        ("training.start_share=0.001", "leaves dpo a stage without any"),
        ("training.start_share=1.5", "it must lie between 0 and 1"),
    ],
)
def test_a_stage_that_cannot_be_carried_out_is_refused(
    recipe: Recipe, assignment: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        staged(recipe, assignment)


def test_an_arm_needs_beside_it_what_it_continues(recipe: Recipe) -> None:
    alone = {**to_dict(recipe), "arms": STAGED}

    with pytest.raises(ConfigError, match=r"arms\.dpo: dpo continues sft; give arms\.sft too"):
        from_dict(alone)


def test_mismatched_answers_need_another_pair(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match="answers to others of the same update"):
        staged(recipe, "training.batch_pairs=1", kto={"learning_rate": 1e-4, "beta": 0.1})


def test_both_stages_add_up_and_have_a_warm_up_of_the_same_share(recipe: Recipe) -> None:
    training = recipe.override(["training.start_share=0.25"]).training
    first, second = training.first_stage(), training.second_stage()

    assert (training.max_steps, training.warmup_steps) == (96, 10)
    assert (first.max_steps, first.warmup_steps) == (24, 2)
    assert (second.max_steps, second.warmup_steps) == (72, 8)


def test_a_start_is_in_the_digest_of_what_continues_it_alone(recipe: Recipe) -> None:
    rate, dpo = {"learning_rate": 1e-3}, STAGED["dpo"]

    def run(recipe: Recipe, arm: str, settings: dict[str, float], start: Any = None) -> str:
        return digest(run_config(recipe, arm=arm, settings=settings, seed=1, start=start))

    both, longer = staged(recipe), staged(recipe, "training.start_share=0.25")
    assert run(both, "sft", rate) == run(longer, "sft", rate) == run(recipe, "sft", rate)
    assert run(both, "dpo", dpo, rate) != run(longer, "dpo", dpo, rate)
    assert run(both, "dpo", dpo, rate) != run(both, "dpo", dpo, {"learning_rate": 2e-3})
    matched = [
        run(staged(of, **{"sft-matched": rate}), "sft-matched", rate)
        for of in (narrowed(recipe, "sft", "orpo"), both, longer)
    ]
    assert len(set(matched)) == 3
