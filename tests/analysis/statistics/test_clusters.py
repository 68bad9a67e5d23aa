"""Oracles: clusters of equal size, a t-test over cluster means, numbers by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.statistics import NotTestableError, compare_arms
from analysis.statistics.clusters import cluster_variance, clusters_of, compare_clustered


@pytest.fixture
def arms():
    rng = np.random.default_rng(5)
    a = rng.normal(0, 0.1, (3, 60)) + rng.normal(0, 0.05, (3, 1))
    return a, a + rng.normal(0.1, 0.1, (3, 60)) + np.repeat(rng.normal(0, 0.1, 12), 5)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("size", [1, 5])
def test_with_clusters_of_equal_size_nothing_changes(arms, paired, size):
    labels = [str(place // size) for place in range(60)]
    ours = compare_clustered(*arms, paired=paired, clusters=labels)
    theirs = compare_arms(*arms, paired=paired, scope="population", clusters=labels)

    assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-9)
    assert ours.interval() == pytest.approx(theirs.interval(), rel=1e-9)
    assert ours.v_residual == pytest.approx(theirs.v_residual, rel=1e-9)
    assert ours.differences == pytest.approx(theirs.differences)


def test_the_variance_by_equal_clusters_is_that_of_their_means(arms):
    differences = (arms[1] - arms[0])[0]
    groups = clusters_of([str(place // 5) for place in range(60)], 60)
    theirs = scipy_stats.sem(differences.reshape(12, 5).mean(axis=1)) ** 2

    assert cluster_variance(differences, groups) == pytest.approx(theirs, rel=1e-12)
    assert groups.effective == pytest.approx(12)


def test_unequal_clusters_agree_with_numbers_worked_by_hand():
    """Sizes 1, 1, 2 of N = 4: G* = 16 / 6; influences (-1, 1, 0) / 4 for 0, 2, 1, 1."""
    groups = clusters_of(["a", "b", "c", "c"], 4)
    variance = cluster_variance(np.array([0.0, 2.0, 1.0, 1.0]), groups)

    assert groups.effective == pytest.approx(8 / 3)
    assert variance == pytest.approx(2 * (1 / 16) / 0.75)


def test_labels_that_fit_no_test_are_refused(arms):
    with pytest.raises(NotTestableError, match="share one prompt"):
        compare_clustered(*arms, paired=False, clusters=["one"] * 60)
    with pytest.raises(ValueError, match="3 cluster labels for 60 examples"):
        compare_clustered(*arms, paired=False, clusters=["a", "b", "c"])
