"""Oracles: scipy, statsmodels, numbers worked by hand, and a simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats import (
    NotTestableError,
    compare_arms,
    compare_with_fixed,
    mean_square_residual,
    verdict,
)


@pytest.fixture
def arms():
    rng = np.random.default_rng(7)
    prompts = rng.normal(0, 0.3, 60)
    a = prompts + rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 0.1, (3, 60))
    b = prompts + 0.2 + rng.normal(0, 0.08, (4, 1)) + rng.normal(0, 0.2, (4, 60))
    return a, b


def test_on_this_test_set_it_is_welchs_t(arms):
    a, b = arms
    ours = compare_arms(a, b, paired=False, scope="test_set")
    theirs = scipy_stats.ttest_ind(b.mean(1), a.mean(1), equal_var=False)
    low, high = theirs.confidence_interval(0.95)

    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-12)
    assert ours.df_seed == pytest.approx(theirs.df, abs=1e-10)
    assert ours.interval() == pytest.approx((low, high), abs=1e-12)
    assert ours.n_seeds == (3, 4)


def test_paired_on_this_test_set_it_is_the_paired_t(arms):
    a, b = arms[0], arms[1][:3]
    ours = compare_arms(a, b, paired=True, scope="test_set")
    theirs = scipy_stats.ttest_rel(b.mean(1), a.mean(1))
    low, high = theirs.confidence_interval(0.95)

    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-12)
    assert ours.interval() == pytest.approx((low, high), abs=1e-12)


def test_against_a_fixed_model_it_is_the_one_sample_t(arms):
    fixed, b = arms[0][0], arms[1]
    ours = compare_with_fixed(fixed, b, scope="test_set")
    theirs = scipy_stats.ttest_1samp(b.mean(1), fixed.mean())

    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-12)
    assert ours.n_seeds == (1, 4)


def test_identical_seeds_leave_the_paired_t_over_prompts(arms):
    a, b = (np.repeat(arm[:1], 3, axis=0) for arm in arms)
    ours = compare_arms(a, b, paired=False, scope="population")
    theirs = scipy_stats.ttest_rel(b[0], a[0])

    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-8)
    assert ours.interval() == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-10)


def test_the_residual_is_that_of_a_two_way_analysis_of_variance(arms):
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    x = arms[0][:, :8]
    rows = pd.DataFrame(
        [(s, i, x[s, i]) for s in range(len(x)) for i in range(x.shape[1])],
        columns=["seed", "prompt", "y"],
    )
    table = anova_lm(ols("y ~ C(seed) + C(prompt)", rows).fit())

    assert mean_square_residual(x) == pytest.approx(table.loc["Residual", "mean_sq"], rel=1e-8)


def test_two_one_sided_tests_agree_with_statsmodels():
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_paired

    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 0.02, (5, 1)), rng.normal(0.013, 0.03, (5, 1))
    unpaired = compare_arms(a, b, paired=False, scope="test_set")
    paired = compare_arms(a, b, paired=True, scope="test_set")
    means = CompareMeans(DescrStatsW(b[:, 0]), DescrStatsW(a[:, 0]))

    for margin in (0.01, 0.05, 0.1):
        theirs = means.ttost_ind(-margin, margin, usevar="unequal")[0]
        assert unpaired.tost_p(margin) == pytest.approx(theirs, abs=1e-10)
        theirs = ttost_paired(b[:, 0], a[:, 0], -margin, margin)[0]
        assert paired.tost_p(margin) == pytest.approx(theirs, abs=1e-10)


def test_numbers_worked_by_hand():
    a = [[1.0, 3.0], [3.0, 5.0]]  # run means 2 and 4, no residual
    b = [[6.0, 6.0], [8.0, 8.0]]  # run means 6 and 8, no residual
    contrast = compare_arms(a, b, paired=False, scope="population")

    assert contrast.estimate == 4.0
    assert contrast.v_seed == pytest.approx(2.0)  # 2 / 2 + 2 / 2
    assert contrast.df_seed == pytest.approx(2.0)
    assert contrast.v_prompt == pytest.approx(1.0)  # differences 5 and 3: variance 2, over 2
    assert contrast.shares == pytest.approx({"seed": 2 / 3, "prompt": 1 / 3, "residual": 0.0})


def test_the_residual_is_not_counted_twice(arms):
    a, b = arms
    b = b + np.random.default_rng(8).normal(0, 0.3, 60)
    contrast = compare_arms(a, b, paired=False, scope="population")
    residual = mean_square_residual(a) / (3 * 60) + mean_square_residual(b) / (4 * 60)
    differences = b.mean(0) - a.mean(0)

    assert residual > 0
    assert contrast.v_prompt == pytest.approx(differences.var(ddof=1) / 60 - residual)
    assert contrast.v_residual == pytest.approx(residual)
    assert sum(contrast.shares.values()) == pytest.approx(1.0)


def test_the_edge_of_the_interval_has_p_of_five_percent(arms):
    a, b = arms
    b = b + np.random.default_rng(8).normal(0, 0.3, 60)  # prompts that favour one arm
    contrast = compare_arms(a, b, paired=False, scope="population")
    low, _ = contrast.interval()
    moved = compare_arms(a + low, b, paired=False, scope="population")

    assert contrast.v_prompt > 0
    assert moved.p_value == pytest.approx(0.05, abs=1e-9)


@given(seed=st.integers(0, 10_000), paired=st.booleans(), scale=st.sampled_from([1.0, 100.0]))
def test_swapping_the_arms_flips_the_sign_alone(seed, paired, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (3, 9)), rng.normal(0.5, 2, (3, 9))
    one = compare_arms(a, b, paired=paired, scope="population")
    other = compare_arms(scale * b, scale * a, paired=paired, scope="population")

    assert other.estimate == pytest.approx(-scale * one.estimate)
    assert other.p_value == pytest.approx(one.p_value, rel=1e-6)


def test_clusters_keep_the_mean_and_count_as_the_prompts(arms):
    a, b = arms
    labels = [f"c{i // 3}" for i in range(60)]
    contrast = compare_arms(a, b, paired=False, scope="population", clusters=labels)

    assert contrast.n_clusters == 20
    assert contrast.n_examples == 60
    assert contrast.estimate == pytest.approx(b.mean() - a.mean())
    means = [arm.reshape(len(arm), 20, 3).mean(2) for arm in arms]
    by_hand = compare_arms(*means, paired=False, scope="population")
    assert contrast.p_value == pytest.approx(by_hand.p_value, rel=1e-9)


def test_clusters_of_unequal_size_keep_the_mean_too(arms):
    a, b = arms
    labels = ["big"] * 30 + [f"c{i}" for i in range(30)]
    contrast = compare_arms(a, b, paired=False, scope="population", clusters=labels)

    assert contrast.estimate == pytest.approx(b.mean() - a.mean())


def test_one_seed_is_not_tested():
    with pytest.raises(NotTestableError, match="one seed"):
        compare_arms([[1.0, 2.0]], [[1.0, 3.0]], paired=False, scope="population")


def test_no_variance_is_not_tested():
    same = np.full((3, 5), 0.1)
    with pytest.raises(NotTestableError, match="no variance"):
        compare_arms(same, same, paired=False, scope="population")
    with pytest.raises(NotTestableError, match="no variance"):
        compare_arms(same, same + 0.3, paired=False, scope="test_set")


def test_values_that_are_not_finite_are_refused():
    scores = np.zeros((3, 4))
    scores[1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        compare_arms(scores, np.ones((3, 4)), paired=False, scope="population")


def test_unequal_seeds_cannot_be_paired(arms):
    with pytest.raises(ValueError, match="3 and 4 seeds"):
        compare_arms(*arms, paired=True, scope="population")


@pytest.mark.parametrize(
    ("low", "high", "direction", "word"),
    [
        (0.1, 0.2, True, "better"),
        (-0.2, -0.1, True, "worse"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, False, "better"),
        (0.1, 0.2, None, "higher"),
        (-0.2, -0.1, None, "lower"),
        (-0.1, 0.1, True, "inconclusive"),
        (0.0, 0.1, True, "inconclusive"),
        (None, None, True, "not tested"),
    ],
)
def test_the_verdict_follows_interval_and_direction(low, high, direction, word):
    assert verdict(low, high, higher_is_better=direction) == word


def test_it_rarely_rejects_a_true_null_where_rows_as_replicates_often_do():
    rng = np.random.default_rng(2026)
    ours = rows = 0
    n_studies, n = 400, 200
    for _ in range(n_studies):
        a, b = (
            rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.08, (3, n)) for _ in range(2)
        )  # seeds dominate
        ours += compare_arms(a, b, paired=False, scope="population").p_value < 0.05
        rows += scipy_stats.ttest_ind(a.ravel(), b.ravel()).pvalue < 0.05

    assert ours / n_studies <= 0.09
    assert rows / n_studies > 0.40
