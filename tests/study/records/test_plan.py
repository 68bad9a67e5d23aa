"""The plan of a comparison: written first, amended in the open."""

import pytest
from made_records import whole_config, whole_record

from study.config.recipe import load_recipe
from study.records.files import read_json
from study.records.layout import plan_path
from study.records.plan import write_plan
from study.records.runs import run_folder

ARMS = {"base": {}, "sft": {"learning_rate": 1e-3}}


@pytest.fixture
def recipe():
    return load_recipe("tiny-llama")


@pytest.mark.parametrize(("n_seeds", "paired"), [(2, False), (4, False), (5, True)])
def test_runs_are_paired_from_five_seeds_on(tmp_path, recipe, n_seeds, paired) -> None:
    plan = write_plan(tmp_path, recipe, seeds=range(n_seeds), arms=ARMS)

    assert plan["paired"] is paired
    assert read_json(plan_path(tmp_path, "tiny-llama")) == plan
    assert (plan["primary_metric"], plan["sesoi"]["accuracy"]) == ("accuracy", 0.02)
    assert plan["arms"] == ARMS


def test_the_same_plan_is_left_alone_and_seeds_are_never_taken_back(tmp_path, recipe) -> None:
    first = write_plan(tmp_path, recipe, seeds=[1, 2, 3], arms=ARMS)

    assert write_plan(tmp_path, recipe, seeds=[1, 2], arms=ARMS) == first


def test_an_amended_plan_keeps_what_was_planned_and_how_much_was_done(tmp_path, recipe) -> None:
    first = write_plan(tmp_path, recipe, seeds=[1, 2, 3], arms=ARMS)
    run = run_folder(tmp_path, "tiny-llama", "sft", 1)
    run.claim(whole_config())
    run.finish(whole_record())
    stricter = recipe.override(["analysis.sesoi.accuracy=0.01"])
    plan = write_plan(tmp_path, stricter, seeds=[1, 2, 3, 4, 5], arms=ARMS)

    assert plan["seeds"] == [1, 2, 3, 4, 5]
    assert plan["sesoi"]["accuracy"] == 0.01
    (past,) = plan["amended"]
    assert past == {k: v for k, v in first.items() if k != "amended"} | {"finished_runs": 1}
