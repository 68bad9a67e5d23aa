"""Variance components of scores over runs and prompts, many studies at once.

Shapes: ``(..., S, N)`` holds scores of S training runs on the same N held-out
examples, for any leading axes of studies.
Sources: METHODS.md, section 2; Cochran and Cox (1950); Welch (1947).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SeedPart:
    """What the runs of one arm, or of paired arms, add to an estimate's variance."""

    variance: float
    df: float
    residual: float
    """Contained in ``variance``: the part that comes from single answers."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """Estimate and variances of many studies; fields have the leading axes."""

    estimate: Array
    seed: Array
    """``(..., P)`` variances of the estimate by the P groups of runs."""
    seed_dfs: tuple[float, ...]
    residual: Array
    """``(..., P)``, contained in ``seed``."""
    prompt: Array
    differences: Array
    """``(..., N)`` differences of every example, averaged over seeds."""


def components(a: Array, b: Array, *, paired: bool) -> Components:
    """Split the variance of mean(b) - mean(a) into runs, prompts and answers.

    ``var(differences) / N`` holds the residual too; it is subtracted, so that
    nothing is counted twice.
    """
    groups = (b - a,) if paired else (a, b)
    residual = np.stack([mean_square_residual(x) / (x.shape[-2] * x.shape[-1]) for x in groups], -1)
    differences: Array = b.mean(axis=-2) - a.mean(axis=-2)
    n = differences.shape[-1]
    spread = differences.var(axis=-1, ddof=1) / n if n > 1 else np.zeros(a.shape[:-2])
    return Components(
        estimate=differences.mean(axis=-1),
        seed=np.stack([seed_variance(x) for x in groups], -1),
        seed_dfs=tuple(float(x.shape[-2] - 1) for x in groups),
        residual=residual,
        prompt=np.maximum(0.0, spread - residual.sum(axis=-1)),
        differences=differences,
    )


def seed_variance(x: Array) -> Array:
    """Return the variance of the mean over runs; rounding errors count as zero."""
    means = x.mean(axis=-1)
    variance = means.var(axis=-1, ddof=1) / x.shape[-2]
    rounding = 1e-12 * np.abs(x).max(axis=(-2, -1), initial=0.0)
    return np.where(np.ptp(means, axis=-1) <= rounding, 0.0, variance)


def mean_square_residual(x: Array) -> Array:
    """Return the mean square of the two-way layout's interaction, 0 for one column."""
    n_seeds, n = x.shape[-2:]
    if n < 2:
        return np.zeros(x.shape[:-2])
    rest = x - x.mean(axis=-1, keepdims=True) - x.mean(axis=-2, keepdims=True)
    rest += x.mean(axis=(-2, -1), keepdims=True)
    return np.asarray((rest**2).sum(axis=(-2, -1)) / ((n_seeds - 1) * (n - 1)))


def welch_df(variances: Array, dfs: Sequence[float]) -> Array:
    """Return Welch's df of a sum of P variances, ``(..., P)``; all df where it is 0."""
    total = variances.sum(axis=-1)
    parts = (variances**2 / np.asarray(dfs)).sum(axis=-1)
    known = parts > 0
    return np.where(known, total**2 / np.where(known, parts, 1.0), float(sum(dfs)))


def critical_value(tail: Any, v_seed: Any, df_seed: Any, v_prompt: Any, df_prompt: Any) -> Any:
    """Return the variance-weighted mean of two t quantiles (Cochran and Cox)."""
    by_seed, by_prompt = -special.stdtrit(df_seed, tail), -special.stdtrit(df_prompt, tail)
    return (v_seed * by_seed + v_prompt * by_prompt) / (v_seed + v_prompt)


def by_cluster(x: Array, clusters: Sequence[str] | None) -> tuple[Array, tuple[str, ...]]:
    """Sum examples within clusters, scaled so that every run keeps its mean.

    The ratio estimator's influence: mean + C / N * sum over the cluster of
    (score - mean). With clusters of one example it is the scores themselves.

    Returns:
        ``(S, C)`` scores and the names of the C clusters.
    """
    if clusters is None:
        return x, tuple(str(place) for place in range(x.shape[1]))
    if len(clusters) != x.shape[1]:
        raise ValueError(f"{len(clusters)} cluster labels for {x.shape[1]} examples")
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    mean = x.mean(axis=1, keepdims=True)
    members = np.eye(len(names))[index]  # (N, C)
    scaled = mean + (x - mean) @ members * len(names) / x.shape[1]
    return scaled, tuple(str(name) for name in names)


def checked_scores(scores: Any) -> Array:
    """Return scores as an array of shape (seeds, examples).

    Raises:
        ValueError: they have another shape, hold nothing, or are not finite.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"scores must be (seeds, examples), not of shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("scores hold values that are not finite")
    return x
