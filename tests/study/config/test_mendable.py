"""What a user can mend in a recipe is one message."""

import pytest

from study.cli.options import job_place
from study.config.environment import trackers
from study.config.recipe import load_recipe
from study.errors import ConfigError

FIELDS = {
    "training.weight_decay=inf": "training.weight_decay is inf; it must be a finite",
    "training.max_grad_norm=inf": "training.max_grad_norm is inf; it must be a finite",
    "training.max_grad_norm=nan": "training.max_grad_norm is nan; it must be a finite",
    "search.space.sft.learning_rate=[1e-4, inf]": r"learning_rate\[1\] is inf; it must be a finite",
    "data.columns=" + "[" * 5_000: "--set data.columns: its value is nested too deeply",
    "model.template_kwargs.tools=" + "{a=" * 5_000: "tools: its value is nested too deeply",
    "training={max_steps=" + "[" * 3 + "1]]]}": "missing training.",
    "training.max_steps.deeper=1": "--set training.max_steps.deeper: there is no section",
    "training.max_steps=[[1]]": r"training.max_steps is \[\[1\]\]; it must be of type int",
    "training.threads=100000": "training.threads is 100000; it must be 1024 at most",
}
FILES = {
    b"name = '\xff'": "is not UTF-8 .*; save it as UTF-8",
    b"a = " + b"[" * 20_000: "nested too deeply|Expected|Invalid|Cannot",
}


@pytest.mark.parametrize("assignment", FIELDS, ids=lambda text: text[:40])
def test_a_field_beyond_its_range_is_named(assignment):
    with pytest.raises(ConfigError, match=FIELDS[assignment]):
        load_recipe("tiny-llama").override([assignment])


def test_a_text_of_several_lines_is_one_value():
    recipe = load_recipe("tiny-llama").override(["description='one'\nother = 2"])

    assert recipe.description == "'one'\nother = 2"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("tensorbord", r"names 'tensorbord' \(did you mean 'tensorboard'\?\); it takes azure_ml"),
        ("none, wandb", "names 'none'.* or all or none by itself"),
        ("clearml", "names clearml, which is not installed"),
    ],
)
def test_an_unknown_tracker_is_named_before_anything_is_loaded(monkeypatch, names, message):
    monkeypatch.setenv("ORPO_STUDY_TRACKERS", names)

    with pytest.raises(ConfigError, match=message):
        job_place([], "cpu", None, quiet=True)


@pytest.mark.parametrize(
    ("value", "expected"), [("", ["none"]), (" none ", ["none"]), ("all", ["all"])]
)
def test_trackers_are_none_unless_asked_for(monkeypatch, value, expected):
    monkeypatch.setenv("ORPO_STUDY_TRACKERS", value)

    assert trackers() == expected


@pytest.mark.parametrize("content", FILES, ids=["not UTF-8", "nested"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, content):
    (tmp_path / "mine.toml").write_bytes(content)

    with pytest.raises(ConfigError, match=f"recipe .*mine.toml.*({FILES[content]})"):
        load_recipe(str(tmp_path / "mine.toml"))
