"""Oracles: one task alone, statsmodels' robust regression, verdicts by hand."""

import numpy as np
import pytest

from analysis.statistics import compare_arms
from analysis.statistics.clusters import compare_clustered
from analysis.statistics.components import seed_variance
from analysis.statistics.macro import Task, compare_macro


def answers(rng, *, n, share=0.6, n_seeds=3):
    return (rng.random((n_seeds, n)) < share).astype(float)


def task(rng, name, *, n, chance=0.25, **others):
    pair = {"baseline": answers(rng, n=n), "treatment": answers(rng, n=n, share=0.7)}
    return Task(name=name, chance=chance, **pair, **others)


@pytest.mark.parametrize("paired", [False, True])
def test_one_task_without_guessing_is_a_comparison_of_its_items(paired):
    labels = [str(min(place // 4, 12)) for place in range(80)]
    one = task(np.random.default_rng(1), "one", n=80, chance=0.0, clusters=labels)
    ours = compare_macro([one], paired=paired)
    theirs = compare_clustered(one.baseline, one.treatment, paired=paired, clusters=labels)

    assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-9)
    assert ours.interval() == pytest.approx(theirs.interval(), rel=1e-9)
    assert ours.df_prompt == pytest.approx(theirs.df_prompt)
    assert ours.differences == pytest.approx(
        {f"one: {name}": value for name, value in theirs.differences.items()}
    )


def test_tasks_count_alike_whatever_their_size():
    rng = np.random.default_rng(2)
    tasks = [task(rng, "small", n=20), task(rng, "large", n=200, chance=0.5)]
    found = compare_macro(tasks, paired=False)
    gains = [(one.treatment.mean() - one.baseline.mean()) / (1 - one.chance) for one in tasks]

    assert found.estimate == pytest.approx(np.mean(gains))
    assert found.n_examples == 220
    # The small task has most of the variance, so its 19 degrees of freedom count most.
    assert 19 < found.df_prompt < 60


def test_the_variance_of_tasks_is_the_spelled_out_sum():
    rng = np.random.default_rng(3)
    tasks = [task(rng, name, n=n, chance=0.0) for name, n in (("a", 30), ("b", 50))]
    found = compare_macro(tasks, paired=False)
    singles = [
        compare_arms(one.baseline, one.treatment, paired=False, scope="population") for one in tasks
    ]
    total = sum((one.v_prompt) / 4 for one in singles if one.v_prompt > 0)
    runs = [
        np.mean([x.mean(axis=1) for x in side], axis=0)[:, None]
        for side in ([one.baseline for one in tasks], [one.treatment for one in tasks])
    ]

    assert found.v_seed == pytest.approx(sum(float(seed_variance(x)) for x in runs))
    assert found.v_residual == pytest.approx(sum(one.v_residual for one in singles) / 4)
    assert found.v_prompt <= total + 1e-12


@pytest.mark.parametrize("chance", [-0.1, 1.0])
def test_a_chance_that_leaves_nothing_to_gain_is_refused(chance):
    with pytest.raises(ValueError, match="chance must be"):
        compare_macro([task(np.random.default_rng(1), "one", n=9, chance=chance)], paired=False)
