"""Oracles: SciPy's bounded minimiser, a solution by hand, and limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from study.run.ranking import calibrated_ranking_loss

MARGINS = st.lists(st.floats(-100, 100), min_size=1, max_size=20)


@given(margins=MARGINS)
def test_it_lies_between_nothing_and_a_coin_in_any_unit(margins):
    loss = calibrated_ranking_loss(margins)

    assert 0 <= loss <= np.log(2) + 1e-15
    assert calibrated_ranking_loss([8 * margin for margin in margins]) == pytest.approx(
        loss, abs=1e-10
    )


def test_it_agrees_with_scipy():
    rng = np.random.default_rng(3)
    for _ in range(20):
        x = rng.normal(0.5, 1.0, 200)
        theirs = optimize.minimize_scalar(
            lambda a, x=x: np.logaddexp(0, -a * x).mean(), bounds=(0, 50), options={"xatol": 1e-12}
        )

        assert calibrated_ranking_loss(x) == pytest.approx(theirs.fun, abs=1e-10)


def test_equal_margins_are_worth_the_entropy_of_their_signs():
    """Margins +1 in three of four pairs: the best forecast is 3/4, a = log 3."""
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))

    assert calibrated_ranking_loss([1, 1, 1, -1]) == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize(
    ("margins", "loss"),
    [
        ([1.0, 0.001], 0.0),
        ([1.0, 0.0], np.log(2) / 2),
        ([0.0, 0.0], np.log(2)),
        ([-1.0, -2.0], np.log(2)),
        ([1.0, -1.0], np.log(2)),
        ([1e300, 1e-300], 0.0),
    ],
)
def test_margins_without_a_best_scale_have_the_limit(margins, loss):
    assert calibrated_ranking_loss(margins) == pytest.approx(loss, abs=1e-10)


def test_one_pair_ranked_hardly_wrongly_costs_hardly_more_than_none():
    assert calibrated_ranking_loss([1.0, 1.0, -1e-9]) < calibrated_ranking_loss([1.0, 1.0, -1e-3])
    assert calibrated_ranking_loss([1.0, 1.0, -1e-300]) == pytest.approx(np.log(2) / 3, abs=1e-10)


@pytest.mark.parametrize("margins", [[], [1.0, np.nan], [np.inf]])
def test_margins_that_are_no_numbers_are_refused(margins):
    with pytest.raises(ValueError, match="finite numbers, at least one"):
        calibrated_ranking_loss(margins)
