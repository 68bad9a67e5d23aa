"""Win rates at equal length: against other solvers, and against truths that were simulated."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize

from analysis.statistics.clusters import compare_clustered
from analysis.statistics.length import PRIOR_SD, fit_length_model, length_controlled_wins


def logistic(x):
    return 1 / (1 + np.exp(-x))


def simulated(rng, *, skill, bias, longer, n_runs=3, n=150, seed_sd=0.1, prompt=None):
    """Draw verdicts of a judge that likes length by ``bias`` on the logit scale."""
    prompt = rng.normal(0, 0.5, n) if prompt is None else prompt
    lengths = rng.normal(longer, 40, (n_runs, n)).round()
    run = rng.normal(0, seed_sd, (n_runs, 1))
    p = logistic(skill + run + prompt + bias * np.tanh(lengths / 40))
    return (rng.random((n_runs, n)) < p).astype(float), lengths


def test_the_model_is_that_of_a_general_solver() -> None:
    rng = np.random.default_rng(0)
    (wins,), (lengths,) = simulated(rng, skill=-0.5, bias=1.0, longer=20, n_runs=1)
    wins[:10] = 0.5
    x = np.tanh(lengths / lengths.std(ddof=1))

    def minus_log_posterior(beta):
        p = logistic(beta[0] + beta[1] * x)
        told = (wins * np.log(p) + (1 - wins) * np.log(1 - p)).sum()
        return -told + (np.square(beta) / np.square(PRIOR_SD)).sum() / 2

    found = fit_length_model(wins, lengths)
    slow = optimize.minimize(minus_log_posterior, [0, 0], tol=1e-12).x

    assert (found.intercept, found.slope) == pytest.approx(slow, abs=1e-5)


def test_with_many_prompts_it_is_the_binomial_glm_with_its_sandwich_error() -> None:
    rng = np.random.default_rng(1)
    wins, lengths = simulated(rng, skill=0.3, bias=0.8, longer=30, n_runs=1, n=20_000)
    x = sm.add_constant(np.tanh(lengths[0] / lengths[0].std(ddof=1)))
    glm = sm.GLM(wins[0], x, family=sm.families.Binomial()).fit(cov_type="HC0")
    found = length_controlled_wins(wins, lengths)[0]
    rate = logistic(glm.params[0])

    assert found.mean() == pytest.approx(rate, abs=1e-4)
    assert found.std() / 20_000**0.5 == pytest.approx(glm.bse[0] * rate * (1 - rate), rel=1e-3)


def test_without_a_difference_in_length_nothing_changes() -> None:
    wins = np.array([[1.0, 0.0, 0.5, 1.0, 0.0, 0.0]])

    found = length_controlled_wins(wins, np.zeros((1, 6)))

    assert found == pytest.approx(wins, abs=0.02)  # but for the weak prior


def test_answers_that_always_lose_or_that_length_tells_apart_stay_finite() -> None:
    lengths = np.array([[1.0, 2, 3, 40, 50, 60], [1.0, 2, 3, 40, 50, 60]])
    wins = np.array([[0.0] * 6, [1.0, 1, 1, 0, 0, 0]])

    never, by_length = length_controlled_wins(wins, lengths)

    assert 0 <= never.mean() < 0.05
    assert by_length.mean() > 0.5
    assert np.isfinite(by_length).all()


def test_a_win_rate_that_length_bought_is_taken_back() -> None:
    rng = np.random.default_rng(2)
    wins, lengths = simulated(rng, skill=0.0, bias=1.5, longer=60, n=4000, seed_sd=0.0)
    truth = 0.5  # by symmetry of the prompts' effects

    controlled = length_controlled_wins(wins, lengths).mean()

    assert wins.mean() > 0.7
    assert controlled == pytest.approx(truth, abs=0.03)


def test_arms_that_differ_in_length_alone_differ_raw_and_not_at_equal_length() -> None:
    rng = np.random.default_rng(3)
    rejected = {"raw": 0, "controlled": 0}
    n_studies = 200
    for _ in range(n_studies):
        prompt = rng.normal(0, 0.5, 150)
        plain, a = simulated(rng, skill=-0.4, bias=1.5, longer=0, prompt=prompt)
        wordy, b = simulated(rng, skill=-0.4, bias=1.5, longer=50, prompt=prompt)
        for name, pair in {
            "raw": (plain, wordy),
            "controlled": (length_controlled_wins(plain, a), length_controlled_wins(wordy, b)),
        }.items():
            p = compare_clustered(*pair, paired=False, clusters=None).p_value
            rejected[name] += p < 0.05

    assert rejected["raw"] > 0.9 * n_studies
    assert rejected["controlled"] <= 0.09 * n_studies  # 5 %, and chance


def test_intervals_cover_the_true_difference_at_equal_length() -> None:
    rng = np.random.default_rng(4)
    others = rng.normal(0, 0.5, 100_000) + rng.normal(0, 0.1, 100_000)
    truth = float(logistic(0.3 + others).mean() - logistic(-0.4 + others).mean())
    n_studies, covered = 200, 0
    for _ in range(n_studies):
        prompt = rng.normal(0, 0.5, 150)
        weak, a = simulated(rng, skill=-0.4, bias=1.0, longer=0, prompt=prompt)
        strong, b = simulated(rng, skill=0.3, bias=1.0, longer=-30, prompt=prompt)
        rows = length_controlled_wins(weak, a), length_controlled_wins(strong, b)
        low, high = compare_clustered(*rows, paired=False, clusters=None).interval()
        covered += low <= truth <= high

    assert covered >= 0.91 * n_studies


@pytest.mark.parametrize(
    ("wins", "lengths"),
    [
        (np.zeros((1, 3)), np.zeros((1, 4))),
        (np.zeros((1, 2)), np.zeros((1, 2))),
        (np.zeros(3), np.zeros(3)),
        (np.full((1, 3), 2.0), np.zeros((1, 3))),
        (np.zeros((1, 3)), np.full((1, 3), np.nan)),
    ],
)
def test_what_is_no_verdict_is_refused(wins, lengths) -> None:
    with pytest.raises(ValueError, match="wins"):
        length_controlled_wins(wins, lengths)
