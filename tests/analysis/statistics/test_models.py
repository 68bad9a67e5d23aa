"""Oracles: pooling of independent runs, averaged matrices, statsmodels' Welch test."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.oneway import anova_oneway

from analysis.statistics import NotTestableError, compare_arms, pool_models
from analysis.statistics.clusters import compare_clustered
from analysis.statistics.models import average_models, heterogeneity, pool


@pytest.fixture
def studies():
    rng = np.random.default_rng(11)
    prompts = rng.normal(0, 0.05, 40)
    return [
        (
            rng.normal(0, 0.1, (3, 40)) + rng.normal(0, 0.05, (3, 1)),
            effect + prompts + rng.normal(0, 0.1, (3, 40)) + rng.normal(0, 0.05, (3, 1)),
        )
        for effect in (0.1, 0.3)
    ]


def contrasts_of(studies, *, paired=False, scope="population"):
    return [compare_arms(a, b, paired=paired, scope=scope) for a, b in studies]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("scope", ["population", "test_set"])
def test_models_that_share_all_seeds_are_one_model_with_averaged_scores(studies, paired, scope):
    contrasts = contrasts_of(studies, paired=paired, scope=scope)
    ours = average_models(contrasts, studies, seeds=[[1, 2, 3], [1, 2, 3]])
    a, b = (np.mean([study[arm] for study in studies], axis=0) for arm in (0, 1))
    theirs = compare_arms(a, b, paired=paired, scope=scope)

    assert ours.estimate == pytest.approx(theirs.estimate)
    assert ours.v_seed == pytest.approx(theirs.v_seed, rel=1e-9)
    assert ours.df_seed == pytest.approx(theirs.df_seed, rel=1e-9)
    assert ours.n_models == 2


def test_models_with_seeds_of_their_own_are_pooled_as_before(studies):
    contrasts = contrasts_of(studies)
    ours = average_models(contrasts, studies, seeds=[[1, 2, 3], [4, 5, 6]])

    assert ours == pool_models(contrasts)
    assert ours == pool(contrasts)


def test_one_shared_seed_is_enough_to_count_runs_of_one_model_alone(studies):
    ours = average_models(contrasts_of(studies), studies, seeds=[[1, 2, 3], [3, 4, 5]])

    assert [part.df for part in ours.seed_parts] == [2.0, 2.0]


def test_seeds_that_are_not_one_per_run_are_refused(studies):
    with pytest.raises(ValueError, match="2 seeds are named for 3 runs"):
        average_models(contrasts_of(studies), studies, seeds=[[1, 2], [1, 2]])


def test_pooled_clusters_have_no_more_degrees_of_freedom_than_the_worst_model():
    rng = np.random.default_rng(1)
    labels = ["big"] * 30 + [str(place) for place in range(10)]
    studies = [(rng.normal(0, 1, (3, 40)), rng.normal(0, 1, (3, 40))) for _ in range(2)]
    contrasts = [compare_clustered(a, b, paired=False, clusters=labels) for a, b in studies]
    a, b = (np.mean([study[arm] for study in studies], axis=0) for arm in (0, 1))
    averaged = compare_clustered(a, b, paired=False, clusters=labels)
    pooled = pool(contrasts)

    assert pooled.df_prompt == pytest.approx(contrasts[0].df_prompt)
    assert pooled.df_prompt == pytest.approx(40**2 / (30**2 + 10) - 1)
    assert averaged.differences == pytest.approx(pooled_differences(pooled, averaged))


def pooled_differences(pooled, averaged):
    """What prompts add to the pooled mean, as differences of one model."""
    scale = averaged.n_clusters
    return {name: averaged.estimate + scale * share for name, share in pooled.differences.items()}


def test_two_models_differ_by_welchs_t(studies):
    contrasts = contrasts_of(studies, paired=True, scope="test_set")
    first, second = ((b - a).mean(axis=1) for a, b in studies)
    theirs = scipy_stats.ttest_ind(first, second, equal_var=False)
    ours = heterogeneity(contrasts)

    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.f_value == pytest.approx(theirs.statistic**2, rel=1e-9)


def test_several_models_differ_by_welchs_analysis_of_variance(studies):
    rng = np.random.default_rng(2)
    studies = [*studies, (np.zeros((5, 40)), rng.normal(0.2, 0.1, (5, 40)))]
    contrasts = contrasts_of(studies, paired=True, scope="test_set")
    groups = [(b - a).mean(axis=1) for a, b in studies]
    theirs = anova_oneway(groups, use_var="unequal", welch_correction=True)
    ours = heterogeneity(contrasts)

    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.df == pytest.approx(theirs.df)
    assert not ours.signs_conflict


def test_prompts_that_favour_an_arm_in_all_models_do_not_hide_their_difference():
    rng = np.random.default_rng(4)
    prompts = rng.normal(0, 0.5, 40)
    prompts -= prompts.mean()
    studies = [
        (rng.normal(0, 0.01, (3, 40)), effect + prompts + rng.normal(0, 0.01, (3, 40)))
        for effect in (-0.03, 0.03)
    ]
    found = heterogeneity(contrasts_of(studies))

    assert found.found
    assert found.signs_conflict


def test_one_model_has_nothing_to_differ_from(studies):
    with pytest.raises(NotTestableError, match="fewer than two models"):
        heterogeneity(contrasts_of(studies[:1]))
