"""Compare two arms over training seeds and held-out prompts.

Shapes: ``(S, N)`` holds the scores of S training runs (seeds) on the same N
held-out examples. A run is the unit of replication; prompts are a second random
factor; rows of one run are never independent replicates.

Test: seeds-by-prompts t. T = (mean_B - mean_A) / sqrt(V_seed + V_prompt), with
the variance-weighted mean of two t quantiles as critical value (Cochran and
Cox 1957). With V_prompt = 0 it is Welch's t (1947) over seeds, or the paired t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Scope = Literal["population", "test_set"]
Array = npt.NDArray[np.float64]

SMALLEST_P = 1e-300
"""Below this a p-value is not told apart from zero."""


class NotTestableError(ValueError):
    """A comparison that no test can decide; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Treatment minus baseline, with what its uncertainty is made of."""

    estimate: float
    v_seed: float
    """Variance of the estimate that comes from training seeds."""
    df_seed: float
    v_prompt: float
    """Variance that comes from the choice of prompts; 0 in scope ``test_set``."""
    df_prompt: int
    v_residual: float
    """Variance of single answers, contained in ``v_seed``; for the shares."""
    n_seeds: tuple[int, int]
    """Runs of the baseline and of the treatment."""
    n_examples: int
    n_clusters: int
    paired: bool
    scope: Scope

    @property
    def se(self) -> float:
        """Standard error of the estimate."""
        return float(np.sqrt(self.v_seed + self.v_prompt))

    @property
    def p_value(self) -> float:
        """Two-sided p of: the arms have equal means in this scope."""
        return self._two_sided_p(abs(self.estimate) / self.se)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of ``se ** 2``: between seeds, between prompts, residual."""
        total = self.v_seed + self.v_prompt
        residual = min(self.v_residual, self.v_seed)
        parts = {"seed": self.v_seed - residual, "prompt": self.v_prompt, "residual": residual}
        return {name: part / total for name, part in parts.items()}

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided confidence interval that inverts the test."""
        reach = self._critical((1 - level) / 2) * self.se
        return self.estimate - reach, self.estimate + reach

    def tost_p(self, margin: float) -> float:
        """Return the p of: the arms differ by at least ``margin`` (two one-sided t)."""
        above = self._upper_p((self.estimate + margin) / self.se)
        below = self._upper_p((margin - self.estimate) / self.se)
        return max(above, below)

    def _critical(self, tail: float) -> float:
        """Return the critical value with probability ``tail`` beyond it."""
        total = self.v_seed + self.v_prompt
        parts = ((self.v_seed, self.df_seed), (self.v_prompt, self.df_prompt))
        return sum(v * float(stats.t.isf(tail, df)) for v, df in parts if v > 0) / total

    def _two_sided_p(self, t: float) -> float:
        """Return the p whose critical value is ``t``; it lies between both parts' p."""
        parts = ((self.v_seed, self.df_seed), (self.v_prompt, self.df_prompt))
        bounds = [2 * float(stats.t.sf(t, df)) for v, df in parts if v > 0]
        low, high = max(min(bounds), SMALLEST_P), max(bounds)
        if high <= low * (1 + 1e-12):
            return high
        root = optimize.brentq(
            lambda log_p: self._critical(np.exp(log_p) / 2) - t,
            np.log(low),
            np.log(high),
            xtol=1e-13,
        )
        return float(np.exp(root))

    def _upper_p(self, t: float) -> float:
        half = self._two_sided_p(abs(t)) / 2
        return half if t >= 0 else 1 - half


def compare_arms(
    baseline: Any,
    treatment: Any,
    *,
    paired: bool,
    scope: Scope,
    clusters: Sequence[str] | None = None,
) -> Contrast:
    """Compare the mean scores of two trained arms.

    Null hypothesis, two-sided: the means are equal, over seeds and prompts like
    these (``population``) or over seeds on exactly these prompts
    (``test_set``). Smallest n: two seeds per arm, and at two the interval is
    exploratory (it rejects up to 6 % of true nulls).

    Args:
        baseline: ``(S_a, N)`` scores.
        treatment: ``(S_b, N)`` scores on the same examples in the same order.
        paired: seeds are matched row by row; settled before the runs.
        scope: whether prompts are a random factor.
        clusters: N labels of prompts that belong together; None takes every
            example as its own.

    Raises:
        NotTestableError: fewer than two seeds, or no variance at all.
        ValueError: scores are not finite, or shapes do not fit.
    """
    a, b = _checked(baseline), _checked(treatment)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"arms are scored on {a.shape[1]} and {b.shape[1]} examples")
    if paired and len(a) != len(b):
        raise ValueError(f"paired arms have {len(a)} and {len(b)} seeds")
    if min(len(a), len(b)) < 2:
        raise NotTestableError("one seed per arm shows no variation between runs")
    n_examples = a.shape[1]
    a, b = _by_cluster(a, clusters), _by_cluster(b, clusters)
    if paired:
        v_seed, df_seed, v_residual = _one_sample_parts(b - a)
    else:
        v_seed, df_seed, v_residual = _welch_parts(a, b)
    return _contrast(
        b.mean(axis=0) - a.mean(axis=0),
        seed_part=(v_seed, df_seed, v_residual),
        n_seeds=(len(a), len(b)),
        n_examples=n_examples,
        paired=paired,
        scope=scope,
    )


def compare_with_fixed(
    baseline: Any,
    treatment: Any,
    *,
    scope: Scope,
    clusters: Sequence[str] | None = None,
) -> Contrast:
    """Compare a trained arm with a model that has no random part.

    One-sample t over the treatment's seeds. Null hypothesis, two-sided: the
    treatment's mean equals the fixed model's, in the scope of ``compare_arms``.
    Smallest n: two seeds.

    Args:
        baseline: ``(N,)`` scores of the fixed model.
        treatment: ``(S, N)`` scores.
        scope: as in ``compare_arms``.
        clusters: as in ``compare_arms``.

    Raises:
        NotTestableError: fewer than two seeds, or no variance at all.
        ValueError: scores are not finite, or shapes do not fit.
    """
    b = _checked(treatment)
    a = np.broadcast_to(_checked(np.atleast_2d(baseline)), b.shape)
    contrast = compare_arms(a, b, paired=True, scope=scope, clusters=clusters)
    return Contrast(**{**vars(contrast), "n_seeds": (1, len(b))})


def verdict(low: float | None, high: float | None, *, higher_is_better: bool | None) -> str:
    """Judge an interval of treatment minus baseline.

    Returns ``better`` or ``worse`` where the interval excludes zero and the
    score has a good direction, ``higher`` or ``lower`` where it has none,
    ``inconclusive`` where it contains zero, ``not tested`` without an interval.
    """
    if low is None or high is None:
        return "not tested"
    if low <= 0 <= high:
        return "inconclusive"
    if higher_is_better is None:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) == higher_is_better else "worse"


def _contrast(
    difference: Array,
    *,
    seed_part: tuple[float, float, float],
    n_seeds: tuple[int, int],
    n_examples: int,
    paired: bool,
    scope: Scope,
) -> Contrast:
    """Assemble a contrast from the seed-averaged difference of every cluster."""
    v_seed, df_seed, v_residual = seed_part
    n_clusters = len(difference)
    v_prompt = 0.0
    if scope == "population":
        if n_clusters < 2:
            raise NotTestableError("all held-out pairs share one prompt")
        v_prompt = max(0.0, float(difference.var(ddof=1)) / n_clusters - v_residual)
    if v_seed + v_prompt <= 0:
        raise NotTestableError("every run has the same score, so there is no variance to test by")
    return Contrast(
        estimate=float(difference.mean()),
        v_seed=v_seed,
        df_seed=df_seed,
        v_prompt=v_prompt,
        df_prompt=n_clusters - 1,
        v_residual=v_residual,
        n_seeds=n_seeds,
        n_examples=n_examples,
        n_clusters=n_clusters,
        paired=paired,
        scope=scope,
    )


def _welch_parts(a: Array, b: Array) -> tuple[float, float, float]:
    """Return variance of the difference, Welch's df and residual variance."""
    v_a, _, r_a = _one_sample_parts(a)
    v_b, _, r_b = _one_sample_parts(b)
    total = v_a + v_b
    if total == 0:
        return 0.0, float(len(a) + len(b) - 2), 0.0
    df = total**2 / (v_a**2 / (len(a) - 1) + v_b**2 / (len(b) - 1))
    return total, df, r_a + r_b


def _one_sample_parts(x: Array) -> tuple[float, float, float]:
    """Return variance of the mean over seeds, its df and the residual variance."""
    n_seeds, n = x.shape
    means = x.mean(axis=1)
    v_seed = float(means.var(ddof=1)) / n_seeds
    if np.ptp(means) <= 1e-12 * np.abs(x).max(initial=0.0):
        v_seed = 0.0
    return v_seed, float(n_seeds - 1), mean_square_residual(x) / (n_seeds * n)


def mean_square_residual(x: Array) -> float:
    """Return the mean square of the two-way layout's interaction, 0 for one column."""
    n_seeds, n = x.shape
    if n < 2:
        return 0.0
    rest: Array = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0, keepdims=True) + x.mean()
    return float(np.sum(rest**2) / ((n_seeds - 1) * (n - 1)))


def _by_cluster(x: Array, clusters: Sequence[str] | None) -> Array:
    """Sum examples within clusters, scaled so that every run keeps its mean.

    The ratio estimator's influence: mean + C / N * sum over the cluster of
    (score - mean). With clusters of one example it is the scores themselves.
    """
    if clusters is None:
        return x
    if len(clusters) != x.shape[1]:
        raise ValueError(f"{len(clusters)} cluster labels for {x.shape[1]} examples")
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    n_clusters = int(index.max()) + 1
    mean = x.mean(axis=1, keepdims=True)
    members = np.eye(n_clusters)[index]  # (N, C)
    return np.asarray(mean + (x - mean) @ members * n_clusters / x.shape[1])


def _checked(scores: Any) -> Array:
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"scores must be (seeds, examples), not of shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("scores hold values that are not finite")
    return x
