"""Differences within subgroups and from the matched baseline: intervals without tests."""

import dataclasses

import numpy as np
import pytest

from analysis import statistics as stats
from analysis.judge.intervals import FAMILY, FEWEST, LENGTH, SOURCE, matched_rows, subgroup_rows
from analysis.judge.judged import judged_by
from analysis.records.load import load_study
from analysis.words import notes
from study.records.texts import withhold


def with_sources(records, source_of):
    """Give every pair a source, and every prompt a text of its own length and no count."""
    runs = []
    for run in records.runs:
        frame = run.examples.assign(source=[source_of(n) for n in range(len(run.examples))])
        frame = frame.drop(columns="prompt_tokens")  # as older records are
        asked = [
            {"example_id": name, "prompt": "x" * n} for n, name in enumerate(frame["example_id"])
        ]
        runs.append(dataclasses.replace(run, examples=frame, generations=tuple(asked)))
    return dataclasses.replace(records, runs=tuple(runs))


def test_a_group_is_compared_as_if_it_were_all_pairs(small_runs):
    records = with_sources(load_study(small_runs), lambda n: "a/x" if n % 2 else "b/x")
    rows = subgroup_rows(records, judged_by(records))
    row = next(row for row in rows if (row.metric, row.group) == ("accuracy", "a"))
    sides = [
        np.stack([run.scores["accuracy"].to_numpy()[1::2] for run in records.ok("tiny-llama", arm)])
        for arm in ("sft", "orpo")
    ]
    clusters = tuple(records.ok("tiny-llama", "sft")[0].examples["cluster_id"][1::2])
    paired = bool(records.plans["tiny-llama"]["paired"])
    expected = stats.compare_clustered(*sides, paired=paired, clusters=clusters)

    assert row.estimate == pytest.approx(expected.estimate)
    assert (row.low, row.high) == pytest.approx(expected.interval())
    assert row.n_examples == sides[0].shape[1]
    assert {row.grouping for row in rows} == {SOURCE, LENGTH}  # one family is no grouping


def of_length(records, recipe=None):
    """Return the rows of quarters by length, of one metric."""
    return [
        row
        for row in subgroup_rows(records, judged_by(records))
        if row.grouping == LENGTH and row.metric == "accuracy" and recipe in (None, row.recipe)
    ]


def test_quarters_of_prompts_hold_about_as_many_pairs(small_runs):
    records = with_sources(load_study(small_runs), lambda n: "a")
    rows = of_length(records)
    n = len(records.runs[0].examples)

    assert [row.group.split()[0] for row in rows] == ["shortest", "second", "third", "longest"]
    assert sum(row.n_examples for row in rows) == n
    assert max(row.n_examples for row in rows) - min(row.n_examples for row in rows) <= 1


def changed(records, recipe, change):
    """Return records with the answers of a recipe's runs changed."""
    runs = tuple(
        dataclasses.replace(run, generations=tuple(map(change, run.generations)))
        if run.recipe == recipe
        else run
        for run in records.runs
    )
    return dataclasses.replace(records, runs=runs)


def test_lengths_are_in_tokens_whether_prompts_are_published_or_not(study_runs):
    records = load_study(study_runs)
    withheld = changed(records, "tiny-llama", withhold)

    assert {row.recipe for row in of_length(records)} >= {"tiny-llama", "tiny-smollm2"}
    assert of_length(withheld) == of_length(records)
    assert notes.table_notes(withheld, ())["intervals"].endswith(
        " Lengths of prompts are in tokens."
    )


def test_prompts_that_were_neither_counted_nor_published_have_no_length(study_runs):
    records = with_sources(load_study(study_runs), lambda n: "a")
    records = changed(records, "tiny-llama", withhold)
    told = notes.table_notes(records, ())["intervals"]

    assert {row.recipe for row in of_length(records)} == {"tiny-smollm2"}
    assert "in characters on tiny-smollm2, of answered prompts" in told
    assert "no groups by length of the prompt on tiny-llama: these records neither" in told


def test_small_groups_are_left_out_and_models_are_averaged(study_runs):
    records = with_sources(
        load_study(study_runs), lambda n: "t/few" if n < FEWEST - 1 else f"t/{n % 2}"
    )
    rows = [
        row
        for row in subgroup_rows(records, judged_by(records))
        if row.grouping == FAMILY and row.metric == "accuracy"
    ]
    by_recipe = {
        recipe: {row.group: row for row in rows if row.recipe == recipe}
        for recipe in ("all models", "tiny-llama", "tiny-smollm2")
    }

    assert all(set(groups) == {"0", "1"} for groups in by_recipe.values())
    pooled, one, other = (groups["1"] for groups in by_recipe.values())
    assert pooled.estimate == pytest.approx((one.estimate + other.estimate) / 2)
    assert pooled.n_examples == one.n_examples + other.n_examples


def test_one_seed_has_an_estimate_without_an_interval(tmp_path, builders):
    recipe = builders["recipe"]("tiny-llama")
    for arm in ("sft", "orpo"):
        builders["run"](tmp_path, recipe, arm, 1)
    records = with_sources(load_study(tmp_path), lambda n: f"s{n % 2}")
    rows = subgroup_rows(records, judged_by(records))

    assert rows
    assert {row.low for row in rows} == {None}


def test_orpo_is_compared_with_the_matched_arm_where_there_is_one(small_runs):
    records = load_study(small_runs)
    copies = tuple(
        dataclasses.replace(run, arm="sft-matched") for run in records.ok("tiny-llama", "sft")
    )
    more = dataclasses.replace(records, runs=(*records.runs, *copies))
    [row] = matched_rows(more, ["accuracy"])
    means = [
        np.mean([run.scores["accuracy"].mean() for run in records.ok("tiny-llama", arm)])
        for arm in ("sft", "orpo")
    ]

    assert matched_rows(records, ["accuracy"]) == ()
    assert (row.baseline, row.treatment) == ("sft-matched", "orpo")
    assert row.estimate == pytest.approx(means[1] - means[0])
    assert row.low is not None
    assert row.low < row.estimate < row.high
