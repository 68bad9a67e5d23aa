"""Decisions on made-up records: outcomes, plans of an older kind, models, several arms."""

import dataclasses

import numpy as np
import pytest

from analysis.findings import build_findings
from analysis.judge.comparisons import POOLED, comparisons, is_paired, pooled_comparisons
from analysis.judge.decisions import agreed
from analysis.judge.judged import judged_by
from analysis.records.load import load_study
from analysis.statistics import Outcome, against_baseline
from analysis.words.answer import answer, headline
from analysis.words.history import history
from study.arms import ARMS, Arm


@pytest.fixture(scope="module")
def records(study_runs):
    return load_study(study_runs)


def plans(records, **changed):
    """Return the records with plans that differ."""
    known = {
        recipe: {name: value for name, value in (plan | changed).items() if value is not None}
        for recipe, plan in records.plans.items()
    }
    return dataclasses.replace(records, plans=known)


OLD = {
    "primary_metrics": None,
    "secondary_metrics": None,
    "primary_metric": "accuracy",
    "sesoi": {"accuracy": 0.02, "margin": 0.05, "nll": 0.02, "rouge1": 0.01, "rougeL": 0.01},
}


def test_a_plan_of_today_is_followed(records):
    judged = judged_by(records)

    assert judged.primary == ("accuracy", "exact_match")
    assert judged.secondary == ("margin", "nll")
    assert judged.late == ()
    assert history(records, judged) == ()


def test_an_older_plan_gets_a_second_metric_that_is_marked_as_late(records):
    judged = judged_by(plans(records, **OLD))

    assert judged.primary == ("accuracy", "exact_match")
    assert judged.secondary == ("margin", "nll")
    assert judged.late == ("exact_match",)
    assert judged.sesoi["exact_match"] == 0.02
    assert "exact match or its margin, 0.02" in history(records, judged)[0]


def test_without_answers_that_are_right_or_wrong_rouge_decides(records):
    runs = tuple(
        dataclasses.replace(run, examples=run.examples.assign(exact_match=np.nan))
        for run in records.runs
    )
    judged = judged_by(dataclasses.replace(records, runs=runs))

    assert judged.primary == ("accuracy", "rougeL")
    assert judged.instead_of == "exact_match"
    assert judged.late == ("rougeL",)


def test_a_plan_may_rest_on_one_metric(records):
    judged = judged_by(plans(records, primary_metrics=["accuracy"], secondary_metrics=["nll"]))

    assert judged.primary == ("accuracy",)
    assert judged.late == ()


def test_changes_after_finished_runs_are_told_and_earlier_ones_are_not(records):
    plan = records.plans["tiny-llama"]
    past = {**plan, "seeds": [1, 2], "sesoi": {**plan["sesoi"], "accuracy": 0.05}}
    seen = plans(records, amended=[{**past, "finished_runs": 4}], history=[
        {"at": "2026-11-26T10:00:00+00:00", "what": "the space was narrowed", "finished_runs": 6}
    ])  # fmt: skip
    unseen = plans(records, amended=[{**past, "finished_runs": 0}])
    told = history(seen, judged_by(seen))

    assert told[0].startswith(
        "tiny-llama and tiny-smollm2: after 4 finished runs seeds 3 were added; the smallest"
    )
    assert told[1] == (
        "tiny-llama and tiny-smollm2: the space was narrowed (2026-11-26, after 6 finished runs)."
    )
    assert history(unseen, judged_by(unseen)) == ()


def test_only_the_recipe_with_a_diverged_run_is_unpaired(records):
    planned = plans(records, paired=True)
    first = next(run for run in planned.runs if run.recipe == "tiny-llama" and run.arm == "orpo")
    runs = tuple(
        dataclasses.replace(run, record={**run.record, "status": "diverged"})
        if run is first
        else run
        for run in planned.runs
    )
    broken = dataclasses.replace(planned, runs=runs)

    assert is_paired(planned, "tiny-llama")
    assert not is_paired(broken, "tiny-llama")
    assert is_paired(broken, "tiny-smollm2")
    pooled = pooled_comparisons(comparisons(broken, judged_by(broken)))
    assert {one.contrast.paired for one in pooled} == {False}


@pytest.fixture(scope="module")
def decided(records):
    return build_findings(records, origin="test").decisions


@pytest.mark.parametrize(
    ("outcome", "flags", "start", "end", "todo"),
    [
        (
            "better",
            ("better", "not_inferior"),
            "ORPO is better than SFT on average",
            "for ORPO.",
            "; use ORPO.",
        ),
        (
            "worse",
            ("worse", "worse"),
            "ORPO is worse than SFT on average",
            "Stay with SFT.",
            "; stay with SFT.",
        ),
        (
            "trade-off",
            ("better", ""),
            "Mixed: on average",
            "no reason here to leave SFT.",
            "; if answers matter, stay with SFT.",
        ),
        (
            "trade-off",
            ("worse", "better"),
            "Mixed: on average",
            "If ranking matters, there",
            "; if ranking matters, stay with SFT.",
        ),
        (
            "equivalent",
            ("equivalent",) * 2,
            "ORPO equals SFT on average",
            "cheaper one, ORPO.",
            "; take the cheaper, ORPO.",
        ),
        (
            "inconclusive",
            ("", ""),
            "No difference between ORPO and SFT is shown",
            "leave SFT.",
            "; stay with SFT.",
        ),
        (
            "depends on the model",
            ("better", ""),
            "It depends on the model: on",
            "to yours.",
            "; go by the model nearest to yours.",
        ),
    ],
)
def test_every_outcome_has_a_sentence_and_says_what_follows(
    decided, outcome, flags, start, end, todo
):
    none = dict.fromkeys(("better", "worse", "not_inferior", "equivalent"), False)
    metrics = tuple(
        dataclasses.replace(one, **(none | ({flag: True} if flag else {})))
        for one, flag in zip(decided[0].metrics, flags, strict=True)
    )
    row = dataclasses.replace(decided[0], outcome=outcome, metrics=metrics)
    said = answer([row], [], ["orpo"])
    short = headline([row], ["orpo"])

    assert said.startswith(start)
    assert end in said
    assert short.endswith(todo)
    assert "over 2 models ORPO" in short
    assert len(short.split()) <= 40


@pytest.mark.parametrize(
    ("singles", "outcome"),
    [
        (["better", "better"], "better"),
        (["worse", "worse"], "worse"),
        (["better", "trade-off"], "depends on the model"),
        (["inconclusive", "inconclusive"], "depends on the model"),
        (["trade-off", "trade-off"], "depends on the model"),
    ],
)
def test_models_that_differ_in_size_alone_keep_the_verdict_of_each(decided, singles, outcome):
    row = decided[0]
    pooled = dataclasses.replace(row, recipe=POOLED, outcome=Outcome.DEPENDS)
    each = [
        dataclasses.replace(row, recipe=f"model {n}", outcome=one) for n, one in enumerate(singles)
    ]

    found = agreed(pooled, [pooled, *each])
    assert found.outcome == outcome
    assert bool(found.reason) == (outcome in ("better", "worse"))
    assert agreed(each[0], [pooled, *each]) == each[0]


def test_models_that_share_seeds_have_a_wider_interval_than_independent_ones(records):
    judged = judged_by(records)
    moved = {"tiny-smollm2": 1000}
    runs = tuple(
        dataclasses.replace(run, seed=run.seed + moved.get(run.recipe, 0)) for run in records.runs
    )
    apart = dataclasses.replace(records, runs=runs)
    shared, own = (
        {one.metric: one for one in pooled_comparisons(comparisons(found, judged))}
        for found in (records, apart)
    )

    assert shared["accuracy"].contrast.df_seed < own["accuracy"].contrast.df_seed
    assert shared["accuracy"].estimate == own["accuracy"].estimate
    assert shared["accuracy"].wins is None
    assert own["accuracy"].wins is not None


@pytest.fixture
def three_arms(small_runs, builders, monkeypatch):
    """A study with a third arm, whose records stand in for a method to come."""
    arm = Arm(name="coming", label="Coming", colour="#009E73", hyperparameters=("learning_rate",))
    monkeypatch.setitem(ARMS, "coming", arm)
    monkeypatch.setitem(builders["settings"], "coming", {"learning_rate": 1e-3})
    recipe = builders["recipe"]("tiny-llama")
    for seed in (1, 2, 3):
        frame = builders["examples"](np.random.default_rng(seed), "sft")
        builders["run"](small_runs, recipe, "coming", seed, examples=frame, tuned=False)
    return load_study(small_runs)


def test_three_arms_are_judged_by_the_procedure_for_several(three_arms):
    found = build_findings(three_arms, origin="test")
    judged = judged_by(three_arms)
    asked = {
        one.treatment: one
        for one in comparisons(three_arms, judged)
        if one.question and one.metric == "accuracy"
    }
    theirs = against_baseline(
        {
            "sft": [asked["orpo"].scores[0].matrix],
            **{name: [one.scores[1].matrix] for name, one in asked.items()},
        },
        "sft",
        clusters=[asked["orpo"].scores[0].clusters],
    )
    rows = {row.treatment: row for row in found.contrasts if row.metric == "accuracy" if row.family}
    ranking = next(row for row in found.best_sets if row.metric == "accuracy")

    assert [row.treatment for row in found.decisions] == ["orpo", "coming"]
    for one in theirs:
        adjusted = min(1.0, 2 * one.p_adjusted)
        assert rows[one.treatment].p_adjusted == pytest.approx(adjusted)
    assert ranking.kept == ("orpo",)
    assert len(ranking.pairs) == 3
    assert found.answer.count("Coming") > 1
    assert "Coming" in found.headline
    assert len(found.headline.split()) <= 40


def test_two_arms_have_no_best_set(records):
    assert build_findings(records, origin="test").best_sets == ()
