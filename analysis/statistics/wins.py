"""The share of prompts on which one arm's scores beat another's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from analysis.statistics.clusters import cluster_variance, clusters_of
from analysis.statistics.components import Array, checked_scores
from analysis.statistics.contrast import (
    Contrast,
    NotTestableError,
    compare_arms,
    compare_with_fixed,
)


def win_rate(
    baseline: Any,
    treatment: Any,
    *,
    paired: bool,
    higher_is_better: bool = True,
    clusters: Sequence[str] | None = None,
) -> Contrast:
    """Compare the share of prompts on which the treatment wins with one half.

    Ties count half; the share is averaged over pairs of seeds: matched ones when
    paired, else all of them, whose variance is that of a two-sample U-statistic
    (Hoeffding 1948). The estimate is the share minus 0.5. Null hypothesis,
    two-sided: over seeds and prompts like these the treatment wins half. Smallest
    n: two seeds per arm. A baseline of one run is taken as fixed.

    Raises:
        NotTestableError: fewer than two seeds, or no variance at all.
        ValueError: scores are not finite, or shapes do not fit.
    """
    sign = 1.0 if higher_is_better else -1.0
    a, b = sign * checked_scores(baseline), sign * checked_scores(treatment)
    if paired or len(a) == 1:
        half = np.full(b.shape[1], 0.5)
        fixed = compare_with_fixed(half, _wins(b, a), scope="population", clusters=clusters)
        return replace(fixed, n_seeds=(len(a), len(b)))
    wins = _wins(b[:, None], a[None, :])  # (S_b, S_a, N)
    share = wins.mean(axis=(0, 1))
    return compare_arms(
        share - wins.mean(axis=0),
        wins.mean(axis=1) - 0.5,
        paired=False,
        scope="population",
        clusters=clusters,
    )


def share_interval(
    scores: Any, clusters: Sequence[str], *, level: float = 0.95
) -> tuple[float | None, float | None]:
    """Return the interval of a mean of scores from 0 to 1 over prompts in clusters.

    Clopper and Pearson's (1934), with as many trials as would vary like the clusters
    (Korn and Graubard 1998), so that it stays within 0 and 1 and says something where
    all scores are equal. Two-sided; smallest n: two clusters, else (None, None).

    Args:
        scores: ``(N,)`` from 0 to 1.
        clusters: N labels of prompts that belong together.
        level: of confidence.
    """
    values = np.asarray(scores, dtype=np.float64)
    try:
        groups = clusters_of(clusters, len(values))
    except NotTestableError:
        return None, None
    mean, variance = float(values.mean()), float(cluster_variance(values, groups))
    n = min(mean * (1 - mean) / variance, len(values)) if variance else groups.effective
    tail = (1 - level) / 2
    events = mean * n
    low = float(stats.beta.ppf(tail, events, n - events + 1)) if events else 0.0
    high = float(stats.beta.ppf(1 - tail, events + 1, n - events)) if events < n else 1.0
    return low, high


def _wins(b: Array, a: Array) -> Array:
    return np.asarray((b > a) + 0.5 * (b == a))
