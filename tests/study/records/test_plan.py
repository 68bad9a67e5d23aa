"""The plan of a comparison: written first, amended in the open."""

import pytest
from made_records import whole_config, whole_record

from study.config.recipe import load_recipe
from study.config.seeds import compare_seeds
from study.errors import ConfigError
from study.records.files import read_json
from study.records.folders import begin_afresh
from study.records.layout import plan_path
from study.records.plan import note, seeds_of, write_plan
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
    assert plan["primary_metrics"] == ["accuracy", "exact_match"]
    assert plan["sesoi"]["accuracy"] == 0.02
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
    kept = {k: v for k, v in first.items() if k not in ("amended", "history")}
    assert past == kept | {"finished_runs": 1}


def finish(runs, seed) -> None:
    run = run_folder(runs, "tiny-llama", "sft", seed)
    run.claim(whole_config(seed=seed))
    run.finish(whole_record(seed=seed))


def test_what_is_noted_outlives_amendments_and_a_fresh_start(tmp_path, recipe) -> None:
    write_plan(tmp_path, recipe, seeds=[1, 2, 3], arms=ARMS)
    finish(tmp_path, 1)
    noted = note(tmp_path, "tiny-llama", "the range of beta was narrowed")
    write_plan(tmp_path, recipe, seeds=[4], arms=ARMS)
    begin_afresh(tmp_path / "tiny-llama" / "compare")
    plan = write_plan(tmp_path, recipe, seeds=[1, 2], arms=ARMS)

    assert noted
    assert [(event["what"], event["finished_runs"]) for event in plan["history"]] == [
        ("the range of beta was narrowed", 1),
        ("finished runs (compare) were set aside and begun again", 1),
    ]
    assert [past["seeds"] for past in plan["amended"]] == [[1, 2, 3], [1, 2, 3, 4]]
    assert plan["seeds"] == [1, 2]


def test_a_fresh_start_before_any_run_had_finished_is_no_history(tmp_path, recipe) -> None:
    write_plan(tmp_path, recipe, seeds=[1, 2, 3], arms=ARMS)
    begin_afresh(tmp_path / "tiny-llama" / "compare")
    plan = write_plan(tmp_path, recipe, seeds=[1, 2], arms=ARMS)

    assert plan["history"] == plan["amended"] == []
    assert not note(tmp_path, "smollm2-1.7b", "nothing was planned")


def test_records_begun_with_shared_seeds_go_on_with_them(tmp_path, recipe) -> None:
    own = seeds_of(tmp_path, "tiny-llama", seed=2, n=3)
    write_plan(tmp_path, recipe, seeds=[2001, 2002], arms=ARMS)

    assert own == compare_seeds(2, 3, recipe="tiny-llama")
    assert seeds_of(tmp_path, "tiny-llama", seed=2, n=3) == [2001, 2002, 2003]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('primary_metrics=["rougeL", "accuracy"]', "must be one of accuracy"),
        ('secondary_metrics=["margin", "nll", "rouge1"]', "at most 4 metrics"),
        ('secondary_metrics=["log_odds"]', "analysis.sesoi.log_odds is missing"),
    ],
)
def test_a_plan_that_could_not_be_judged_is_refused(recipe, field, message) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.override([f"analysis.{field}"])
