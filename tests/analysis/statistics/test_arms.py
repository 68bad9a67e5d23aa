"""Oracles: single comparisons, Holm by hand, arms whose order is plain to see."""

import numpy as np
import pytest

from analysis.statistics import compare_arms, pool_models
from analysis.statistics.arms import against_baseline, all_pairs, best_set, pairs_by_seed
from analysis.statistics.closed import holm

EFFECTS = {"sft": 0.0, "orpo": 0.02, "dpo": 0.3, "simpo": 0.3}


@pytest.fixture
def arms():
    rng = np.random.default_rng(6)
    return {
        name: [effect + rng.normal(0, 0.05, (5, 80)) + rng.normal(0, 0.01, (5, 1))] * 1
        for name, effect in EFFECTS.items()
    }


def test_every_arm_is_compared_with_the_baseline_by_the_two_arms_alone(arms):
    found = against_baseline(arms, "sft")
    singles = [
        compare_arms(arms["sft"][0], arms[name][0], paired=False, scope="population").p_value
        for name in ("orpo", "dpo", "simpo")
    ]

    assert [one.treatment for one in found] == ["orpo", "dpo", "simpo"]
    assert [one.contrast.p_value for one in found] == pytest.approx(singles, rel=1e-9)
    assert [one.p_adjusted for one in found] == pytest.approx(holm(singles), rel=1e-9)


def test_arms_are_averaged_over_the_models(arms):
    double = {name: [scores[0], scores[0] + 0.1] for name, scores in arms.items()}
    found = against_baseline(double, "sft")[0].contrast
    single = compare_arms(arms["sft"][0], arms["orpo"][0], paired=False, scope="population")

    assert found.estimate == pytest.approx(pool_models([single, single]).estimate)
    assert found.n_models == 2


@pytest.mark.parametrize(
    ("higher_is_better", "best"), [(True, ("dpo", "simpo")), (False, ("sft", "orpo"))]
)
def test_the_best_set_holds_the_arms_that_none_beats(arms, higher_is_better, best):
    arms["orpo"] = [arms["sft"][0][::-1]]

    assert set(best_set(all_pairs(arms), higher_is_better=higher_is_better)) == set(best)


def test_all_pairs_of_four_arms_are_one_family_of_six(arms):
    found = all_pairs(arms)

    assert len(found) == 6
    assert [one.p_adjusted for one in found] == pytest.approx(
        holm([one.contrast.p_value for one in found])
    )


@pytest.mark.parametrize(
    ("planned", "n_arms", "n_seeds", "paired"),
    [
        (True, 2, 5, True),
        (True, 3, 5, False),
        (True, 3, 9, False),
        (True, 3, 10, True),
        (False, 3, 10, False),
        (False, 2, 10, False),
    ],
)
def test_several_arms_are_paired_from_ten_seeds_on(planned, n_arms, n_seeds, paired):
    assert pairs_by_seed(planned=planned, n_arms=n_arms, n_seeds=n_seeds) is paired


def test_an_unknown_baseline_is_refused(arms):
    with pytest.raises(ValueError, match="'kto' is not one of the arms sft, orpo"):
        against_baseline(arms, "kto")
