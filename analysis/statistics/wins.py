"""The share of prompts on which one arm's scores beat another's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.statistics.components import Array, checked_scores
from analysis.statistics.contrast import (
    Contrast,
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


def _wins(b: Array, a: Array) -> Array:
    return np.asarray((b > a) + 0.5 * (b == a))
