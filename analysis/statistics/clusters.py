"""Prompts in clusters of unequal size: variance and degrees of freedom.

Shapes: ``(S, N)`` holds the scores of S runs on N examples; C clusters hold n_c
of the N examples each. With few large clusters among small ones, C - 1 degrees of
freedom promise too much: ten clusters of geometric sizes reject 8 % of true
nulls, Pareto sizes 15 to 20 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.statistics.components import Array
from analysis.statistics.contrast import Contrast, NotTestableError, compare_arms

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Which of C clusters every example is in."""

    names: tuple[str, ...]
    index: Indices
    """``(N,)`` place of every example's cluster in ``names``."""
    sizes: Array
    """``(C,)`` examples in every cluster."""

    @property
    def shares(self) -> Array:
        """``(C,)`` share of the examples that every cluster holds."""
        return np.asarray(self.sizes / self.sizes.sum())

    @property
    def effective(self) -> float:
        """Number of equal clusters that would carry as much: N² / Σ n_c²."""
        return float(1 / (self.shares**2).sum())

    def influences(self, scores: Array) -> Array:
        """Return what every cluster adds to a mean over examples, ``(..., C)``.

        They sum to zero. Those of a large cluster are drawn towards zero by the
        mean that it has made itself, so the squares are divided by 1 - n_c / N.
        """
        rest = scores - scores.mean(axis=-1, keepdims=True)
        sums = np.zeros((len(self.names), *rest.shape[:-1]))
        np.add.at(sums, self.index, np.moveaxis(rest, -1, 0))
        scale = rest.shape[-1] * np.sqrt(1 - self.shares)
        return np.asarray(np.moveaxis(sums, 0, -1) / scale)

    def as_differences(self, differences: Array) -> dict[str, float]:
        """Return one difference per cluster, whose plain variance is the clusters'.

        With clusters of equal size they are the clusters' mean differences; so
        ``pool_models`` finds the right variance from them for any sizes.
        """
        n = len(self.names)
        shares = self.influences(differences) * np.sqrt(n * (n - 1))
        values = differences.mean() + shares
        return dict(zip(self.names, values.tolist(), strict=True))


def clusters_of(labels: Sequence[str] | None, n_examples: int) -> Clusters:
    """Group examples by label; without labels every example is its own cluster.

    Raises:
        ValueError: the number of labels is not that of the examples.
        NotTestableError: all examples are in one cluster.
    """
    if labels is None:
        labels = [str(place) for place in range(n_examples)]
    if len(labels) != n_examples:
        raise ValueError(f"{len(labels)} cluster labels for {n_examples} examples")
    names, index, sizes = np.unique(
        np.asarray(labels, dtype=str), return_inverse=True, return_counts=True
    )
    if len(names) < 2:
        raise NotTestableError("all held-out pairs share one prompt")
    return Clusters(
        names=tuple(str(name) for name in names), index=index, sizes=sizes.astype(np.float64)
    )


def cluster_variance(differences: Array, clusters: Clusters) -> Array:
    """Return the variance of a mean of ``(..., N)`` differences by cluster.

    With clusters of equal size it is the variance of the mean of C cluster means.
    Source: Liang and Zeger (1986); the divisor is the first-order correction of
    Bell and McCaffrey (2002) for a mean.
    """
    return np.asarray((clusters.influences(differences) ** 2).sum(axis=-1))


def residual_variance(runs: Array, clusters: Clusters) -> Array:
    """Return the part of ``cluster_variance`` that comes from single answers.

    It is the two-way layout's interaction of S runs with clusters, per mean over S
    runs; with clusters of one example, the residual mean square / (S N).
    """
    n_seeds = runs.shape[-2]
    rest = runs - runs.mean(axis=-2, keepdims=True)
    squares = (clusters.influences(rest) ** 2).sum(axis=(-2, -1))
    return np.asarray(squares / (n_seeds * (n_seeds - 1)))


def compare_clustered(
    baseline: Any, treatment: Any, *, paired: bool, clusters: Sequence[str] | None
) -> Contrast:
    """Compare two arms over seeds and over clusters of prompts of any size.

    The statistic of ``compare_arms`` whose prompt part has G* - 1 degrees of
    freedom, G* = N² / Σ n_c², and squared influences divided by 1 - n_c / N. With
    clusters of equal size it is ``compare_arms``.

    Null hypothesis, two-sided: over seeds and prompts like these both arms have
    the same mean score. Smallest n: two seeds per arm and two clusters; below five
    effective clusters the interval is so wide that it decides little.
    Source: METHODS.md, 10; Carter, Schnepel and Steigerwald (2017) for G*.

    Args:
        baseline: ``(S_a, N)`` scores.
        treatment: ``(S_b, N)`` scores on the same examples in the same order.
        paired: seeds are matched row by row; settled before the runs.
        clusters: N labels of prompts that belong together, or None.

    Raises:
        NotTestableError: fewer than two seeds or clusters, or no variance at all.
        ValueError: scores are not finite, or shapes do not fit.
    """
    whole = compare_arms(baseline, treatment, paired=paired, scope="population")
    a, b = np.asarray(baseline, dtype=np.float64), np.asarray(treatment, dtype=np.float64)
    groups = clusters_of(clusters, a.shape[1])
    differences = b.mean(axis=0) - a.mean(axis=0)
    residual = [float(residual_variance(x, groups)) for x in ((b - a,) if paired else (a, b))]
    prompt = max(0.0, float(cluster_variance(differences, groups)) - sum(residual))
    return replace(
        whole,
        seed_parts=tuple(
            replace(part, residual=value)
            for part, value in zip(whole.seed_parts, residual, strict=True)
        ),
        v_prompt=prompt,
        df_prompt=groups.effective - 1,
        n_clusters=len(groups.names),
        differences=groups.as_differences(differences),
    )
