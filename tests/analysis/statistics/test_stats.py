"""Oracles: scipy, statsmodels, numbers worked by hand, and a simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.statistics import (
    NotTestableError,
    Verdict,
    compare_arms,
    compare_pooled,
    compare_with_fixed,
    mean_square_residual,
    pool_models,
    verdict,
)
from analysis.statistics.closed import holm
from analysis.statistics.verdicts import clopper_pearson
from analysis.statistics.wins import win_rate


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


@pytest.mark.parametrize("effect", [0.6, -0.6, 50.0])
@pytest.mark.parametrize("seed_sd", [0.0, 0.001])
def test_a_p_value_too_small_for_a_float_is_the_smallest_one(effect, seed_sd):
    rng = np.random.default_rng(3)
    prompts, runs = rng.normal(0, 0.01, 2000), rng.normal(0, seed_sd, (2, 60, 1))
    a, b = runs[0] + np.zeros(2000), runs[1] + effect + prompts
    found = compare_arms(a, b, paired=False, scope="population")

    assert found.p_value == 1e-300
    assert found.tost_p(0.01) == pytest.approx(1.0)


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


class Known:
    """A contrast of which only the intervals are known."""

    def __init__(self, outer, inner):
        self.bounds = {0.95: outer, 0.90: inner}

    def interval(self, level=0.95):
        return self.bounds[level]


@pytest.mark.parametrize(
    ("outer", "inner", "direction", "word"),
    [
        ((0.01, 0.09), (0.02, 0.08), True, Verdict.BETTER),
        ((0.01, 0.09), (0.02, 0.08), False, Verdict.WORSE),
        ((-0.09, -0.01), (-0.08, -0.02), True, Verdict.WORSE),
        ((-0.09, -0.01), (-0.08, -0.02), False, Verdict.BETTER),
        ((0.05, 0.09), (0.06, 0.08), True, Verdict.BETTER_BY_AT_LEAST),
        ((-0.09, -0.05), (-0.08, -0.06), True, Verdict.WORSE_BY_AT_LEAST),
        ((0.01, 0.09), (0.02, 0.08), None, Verdict.HIGHER),
        ((-0.09, -0.01), (-0.08, -0.02), None, Verdict.LOWER),
        ((-0.06, 0.06), (-0.04, 0.04), True, Verdict.EQUIVALENT),
        ((-0.06, 0.06), (-0.05, 0.04), True, Verdict.INCONCLUSIVE),
        ((0.01, 0.05), (0.02, 0.04), True, Verdict.NEGLIGIBLE),
        ((0.0, 0.09), (0.01, 0.08), True, Verdict.INCONCLUSIVE),
    ],
)
def test_the_verdict_follows_both_intervals_and_the_direction(outer, inner, direction, word):
    assert verdict(Known(outer, inner), sesoi=0.05, higher_is_better=direction) is word


def test_nothing_is_equivalent_without_a_smallest_effect_of_interest():
    tiny = Known((-1e-9, 1e-9), (-1e-10, 1e-10))

    assert verdict(tiny, sesoi=None) is Verdict.INCONCLUSIVE
    assert verdict(None, sesoi=0.1) is Verdict.NOT_TESTED


def test_equivalence_is_two_one_sided_tests_at_five_percent():
    rng = np.random.default_rng(11)
    words = []
    for shift in np.linspace(0, 0.05, 30):
        a, b = (rng.normal(mean, 0.01, (5, 40)) for mean in (0.0, shift))
        contrast = compare_arms(a, b, paired=False, scope="population")
        within = contrast.tost_p(0.02) < 0.05
        words.append(verdict(contrast, sesoi=0.02))

        assert within == (words[-1] in (Verdict.EQUIVALENT, Verdict.NEGLIGIBLE))
    assert {Verdict.NEGLIGIBLE, Verdict.BETTER, Verdict.BETTER_BY_AT_LEAST} <= set(words)


def test_holm_agrees_with_numbers_worked_by_hand():
    assert holm([0.03, 0.01, 0.02]) == pytest.approx((0.04, 0.03, 0.04))
    assert holm([0.2]) == (0.2,)
    assert holm([]) == ()


def test_a_test_that_could_not_run_stays_in_the_family():
    assert holm([0.01, None]) == pytest.approx((0.02, 1.0))
    with pytest.raises(ValueError, match="finite"):
        holm([float("nan"), 0.1])


@pytest.mark.parametrize(("n", "limit"), [(3, 0.71), (5, 0.52), (10, 0.31)])
def test_no_failure_in_a_few_runs_still_allows_many(n, limit):
    assert clopper_pearson(0, n) == pytest.approx((0.0, limit), abs=0.005)


def test_pooling_equal_models_keeps_the_estimate_and_narrows_the_seeds_part(arms):
    a, b = arms
    one = compare_arms(a, b, paired=False, scope="population")
    pooled = compare_pooled([a, a], [b, b], paired=False, scope="population")

    assert pooled.estimate == pytest.approx(one.estimate)
    assert pooled.v_seed == pytest.approx(one.v_seed / 2)
    assert pooled.df_seed == pytest.approx(2 * one.df_seed)
    assert pooled.n_models == 2


def test_prompts_that_models_share_do_not_average_out(arms):
    a, b = arms
    b = b + np.random.default_rng(8).normal(0, 0.3, 60)
    others = [f"other {i}" for i in range(60)], [str(i) for i in range(60)]
    one = compare_arms(a, b, paired=False, scope="population")
    shared = compare_pooled([a, a], [b, b], paired=False, scope="population")
    apart = compare_pooled([a, a], [b, b], paired=False, scope="population", clusters=others)

    assert shared.v_prompt + shared.v_residual == pytest.approx(one.v_prompt + one.v_residual)
    assert apart.v_prompt + apart.v_residual == pytest.approx(
        (one.v_prompt + one.v_residual) / 2, rel=0.01
    )


def test_pooling_on_these_prompts_is_welch_and_satterthwaite_over_all_runs(arms):
    a, b = arms
    rng = np.random.default_rng(5)
    c, d = rng.normal(0, 0.1, (3, 60)), rng.normal(0.3, 0.2, (5, 60))
    pooled = compare_pooled([a, c], [b, d], paired=False, scope="test_set")
    parts = [(x.mean(1).var(ddof=1) / len(x) / 4, len(x) - 1) for x in (a, b, c, d)]
    variance = sum(v for v, _ in parts)
    df = variance**2 / sum(v**2 / k for v, k in parts)
    t = (b.mean() - a.mean() + d.mean() - c.mean()) / 2 / np.sqrt(variance)

    assert pooled.p_value == pytest.approx(2 * scipy_stats.t.sf(abs(t), df), rel=1e-9)


def test_one_model_is_not_pooled(arms):
    contrast = compare_arms(*arms, paired=False, scope="population")
    with pytest.raises(NotTestableError, match="fewer than two models"):
        pool_models([contrast])
    with pytest.raises(ValueError, match="scope or pairing"):
        pool_models([contrast, compare_arms(*arms, paired=False, scope="test_set")])


def test_the_win_rate_is_the_share_of_pairs_of_answers(arms):
    a, b = arms
    by_hand = np.mean([(y > x) + 0.5 * (y == x) for x in a for y in b])
    wins = win_rate(a, b, paired=False)
    losses = win_rate(a, b, paired=False, higher_is_better=False)

    assert 0.5 + wins.estimate == pytest.approx(by_hand)
    assert losses.estimate == pytest.approx(-wins.estimate)
    assert losses.p_value == pytest.approx(wins.p_value)
    matched = win_rate(a, b[:3], paired=True)
    assert matched.estimate == pytest.approx(np.mean(b[:3] > a) - 0.5)


def test_win_rates_of_equal_arms_rarely_leave_one_half():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        a, b = (rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.08, (3, 100)) for _ in range(2))
        found.append(win_rate(a, b, paired=False).p_value < 0.05)

    assert np.mean(found) <= 0.09


def test_pingouin_agrees(arms):
    import pingouin

    a, b = arms
    for paired, treatment in ((False, b), (True, b[:3])):
        ours = compare_arms(a, treatment, paired=paired, scope="test_set")
        theirs = pingouin.ttest(treatment.mean(1), a.mean(1), paired=paired, correction=not paired)
        equal = pingouin.tost(
            treatment.mean(1), a.mean(1), bound=0.3, paired=paired, correction=not paired
        )

        assert ours.p_value == pytest.approx(theirs["p_val"].iloc[0], abs=1e-8)
        assert ours.tost_p(0.3) == pytest.approx(equal["pval"].iloc[0], abs=1e-8)


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance(arms):
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    a, b = (x[:3, :8] for x in arms)
    d = b - a
    rows = pd.DataFrame(
        [(s, i, d[s, i]) for s in range(3) for i in range(8)], columns=["seed", "prompt", "y"]
    )
    table = anova_lm(ols("y ~ C(seed) + C(prompt)", rows).fit())["mean_sq"]
    contrast = compare_arms(a, b, paired=True, scope="population")

    assert contrast.v_seed == pytest.approx(table["C(seed)"] / 24, rel=1e-8)
    assert contrast.v_residual == pytest.approx(table["Residual"] / 24, rel=1e-8)
    prompts = max(0.0, (table["C(prompt)"] - table["Residual"]) / 24)
    assert contrast.v_prompt == pytest.approx(prompts, rel=1e-8, abs=1e-12)
