"""Benchmark rows: averages above chance, intervals by passage, Holm, and nothing that differs."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import holm
from analysis.statistics.macro import Task, compare_macro
from analysis.tables.benchmarks import benchmark_rows

ITEMS, CHANCE = 40, 0.25


def scores(arm, seed, task, accuracy, **changes):
    rng = np.random.default_rng([seed, len(task), int(100 * accuracy)])
    values = (rng.random(ITEMS) < accuracy).astype(float).tolist()
    return {
        "recipe": "tiny", "arm": arm, "seed": seed, "form": "adapter", "groups": ["embedded"],
        "task": task, "chance": CHANCE, "items": [str(n) for n in range(ITEMS)], "scores": values,
        "passages": [str(n // 2) for n in range(ITEMS)] if task == "colours" else None,
    } | changes  # fmt: skip


ARMS = {"base": (0.3, (0,)), "sft": (0.5, (1, 2, 3)), "orpo": (0.7, (1, 2, 3))}


@pytest.fixture
def found():
    return [
        scores(arm, seed, task, accuracy)
        for arm, (accuracy, seeds) in ARMS.items()
        for seed in seeds
        for task in ("days", "colours")
    ]


def rows_of(found):
    return benchmark_rows(SimpleNamespace(recipes=("tiny",), benchmarks=tuple(found)))


def matrix(found, arm, task):
    return np.array([f["scores"] for f in found if (f["arm"], f["task"]) == (arm, task)])


def test_the_average_comes_first_and_is_that_of_accuracies_above_chance(found) -> None:
    rows = rows_of(found)
    means = [matrix(found, "orpo", task).mean() for task in ("days", "colours")]
    by_hand = np.mean([(mean - CHANCE) / (1 - CHANCE) for mean in means])

    assert [(row.arm, row.task) for row in rows[:3]] == [("base", ""), ("sft", ""), ("orpo", "")]
    assert rows[2].above_chance == pytest.approx(by_hand)
    assert rows[2].accuracy == pytest.approx(np.mean(means))
    assert rows[2].low < by_hand < rows[2].high
    assert (rows[2].n_items, rows[2].n_seeds) == (80, 3)


def test_a_difference_is_that_of_the_macro_test_with_its_passages(found) -> None:
    orpo = rows_of(found)[2]
    tasks = [
        Task(
            name=task,
            baseline=matrix(found, "sft", task),
            treatment=matrix(found, "orpo", task),
            chance=CHANCE,
            clusters=[str(n // 2) for n in range(ITEMS)] if task == "colours" else None,
        )
        for task in ("days", "colours")
    ]
    expected = compare_macro(tasks, paired=False)

    assert orpo.difference == pytest.approx(expected.estimate)
    assert (orpo.difference_low, orpo.difference_high) == pytest.approx(expected.interval())
    assert orpo.p_adjusted == pytest.approx(expected.p_value)


def test_tasks_are_corrected_together_and_base_is_described_and_not_tested(found) -> None:
    rows = rows_of(found)
    tasks = [row for row in rows if row.arm == "orpo" and row.task]
    single = [
        compare_macro(
            [
                Task(
                    name=task,
                    baseline=matrix(found, "sft", task),
                    treatment=matrix(found, "orpo", task),
                    chance=CHANCE,
                    clusters=[str(n // 2) for n in range(ITEMS)] if task == "colours" else None,
                )
            ],
            paired=False,
        ).p_value
        for task in ("days", "colours")
    ]
    base, sft = rows[0], rows[1]

    assert [row.p_adjusted for row in tasks] == pytest.approx(holm(single))
    assert base.p_adjusted is None
    assert base.difference_low < base.difference < base.difference_high
    assert sft.difference is None


def test_a_task_that_runs_answered_on_other_items_takes_no_part(found) -> None:
    changed = [
        one | {"items": ["other", *one["items"][1:]]}
        if one["task"] == "days" and one["seed"] == 2
        else one
        for one in found
    ]
    lacking = [one for one in found if (one["task"], one["arm"], one["seed"]) != ("days", "sft", 3)]

    for left in (changed, lacking):
        assert {row.n_items for row in rows_of(left)} == {ITEMS}
    assert rows_of([]) == ()


def test_one_seed_gives_scores_without_intervals(found) -> None:
    single = [one for one in found if one["seed"] in (0, 1)]
    orpo = rows_of(single)[2]

    assert (orpo.low, orpo.difference_low, orpo.p_adjusted) == (None, None, None)
    assert orpo.difference == pytest.approx(orpo.above_chance - rows_of(single)[1].above_chance)


def test_the_bases_interval_is_over_items_alone(found) -> None:
    base = rows_of(found)[0]
    scaled = [matrix(found, "base", task)[0] / (1 - CHANCE) for task in ("days", "colours")]
    passages = scaled[1].reshape(-1, 2).mean(axis=1)
    parts = np.array([scaled[0].var(ddof=1) / ITEMS, passages.var(ddof=1) / len(passages)]) / 4
    df = parts.sum() ** 2 / (parts**2 / [ITEMS - 1, len(passages) - 1]).sum()
    reach = stats.t.ppf(0.975, df) * parts.sum() ** 0.5

    assert (base.low, base.high) == pytest.approx(
        (base.above_chance - reach, base.above_chance + reach)
    )


def test_rows_say_all_that_a_table_prints(found) -> None:
    from paper.tables.benchmarks import benchmark

    findings = SimpleNamespace(benchmarks=rows_of(found), signature="x")
    table = benchmark(findings)
    printed = [row.cells[0].lines[0] for row in table.groups[0].rows]

    assert printed[:4] == ["Base, all tasks", "SFT, all tasks", "ORPO, all tasks", "Base, days"]
    assert all(len(row.cells) == len(table.columns) for row in table.groups[0].rows)
    assert sum(column.width for column in table.columns) == pytest.approx(1.0)
    assert dataclasses.is_dataclass(table)
