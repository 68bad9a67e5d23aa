"""Short runs of every simulated kind of study, and what they are drawn from."""

import numpy as np
import pytest

from analysis.statistics import simulate


@pytest.fixture(scope="module")
def rows():
    return list(simulate.calibrate_verdicts(n_studies=20, seed=1))


def test_a_short_run_stays_near_the_promises(rows):
    sizes = [row.value for row in rows if row.quantity == "type I error"]
    coverages = [row.value for row in rows if row.quantity == "coverage"]

    # With 20 studies at 5 % more than 5 rejections happen once in 3,000 times.
    assert max(sizes) <= 0.30
    assert min(coverages) >= 0.75


def test_every_band_of_the_specification_is_among_the_checks(rows):
    bands = {row.quantity: (row.low, row.high) for row in rows if "heterogeneity" not in row.test}

    assert bands["type I error"] == (None, 0.065)
    assert bands["coverage"] == (0.935, None)
    assert bands["best arm kept"] == (0.95, None)


def test_the_seed_is_honoured():
    first, second, other = (
        simulate.models_of_one_study(np.random.default_rng(seed), (0.0,))[0][0]
        for seed in (3, 3, 4)
    )

    assert (first == second).all()
    assert not np.allclose(first, other)


def test_a_value_outside_its_band_does_not_pass(monkeypatch):
    kind = ("a kind", lambda rng: {"a test": True}, {"a test": simulate.SIZE})
    monkeypatch.setattr(simulate, "KINDS", (kind,))

    assert [row.passed for row in simulate.calibrate_verdicts(n_studies=3, seed=1)] == [False]


def test_runs_that_share_a_seed_correlate_over_models_as_asked():
    rng = np.random.default_rng(5)
    means = np.array(
        [
            [arms[0].mean(axis=1) for arms in simulate.models_of_one_study(
                rng, (0.0, 0.0), correlation=0.8, n_seeds=200, n_examples=2000
            )]
            for _ in range(5)
        ]
    )  # fmt: skip

    assert np.mean([np.corrcoef(one)[0, 1] for one in means]) == pytest.approx(0.78, abs=0.05)
