"""Scores that need an estimator of their own: benchmarks, length, win rates.

Shapes: ``(S, N)`` holds the scores of S runs on N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.statistics.clusters import Clusters, cluster_variance, clusters_of, residual_variance
from analysis.statistics.components import Array, SeedPart
from analysis.statistics.contrast import Contrast, NotTestableError, compare_arms


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a benchmark, scored for both arms."""

    name: str
    baseline: Any
    """``(S_a, N)`` of 0 and 1."""
    treatment: Any
    """``(S_b, N)`` of 0 and 1, on the same items in the same order."""
    chance: float
    """Accuracy of a guess, at least 0 and below 1."""
    clusters: Sequence[str] | None = None
    """N names of the passages that items share, or None."""


def compare_macro(tasks: Sequence[Task], *, paired: bool) -> Contrast:
    """Compare two arms by the mean over tasks of accuracy above chance.

    Estimate: the mean over T fixed tasks of the difference in
    (accuracy - chance) / (1 - chance). V_seed is taken from the runs' macro
    averages; V_prompt sums over tasks T⁻² (var of the differences / N_t - residual),
    by passage where items share one. Its degrees of freedom are Satterthwaite's
    over the tasks, each with those of ``compare_clustered``.

    Null hypothesis, two-sided: over seeds, and over items like these within exactly
    these tasks, both arms have the same macro average. Smallest n: two seeds per
    arm and two passages per task. One macro test enters the family; tasks stand
    behind it with Holm. Source: METHODS.md, 10; Satterthwaite (1946).

    Raises:
        NotTestableError: there is no task, fewer than two seeds, or no variance.
        ValueError: a chance is not in [0, 1), or scores do not fit.
    """
    if not tasks:
        raise NotTestableError("there is no task to average")
    arms = [[_above_chance(task, scores) for task in tasks] for scores in ("baseline", "treatment")]
    groups = [
        clusters_of(task.clusters, a.shape[1]) for task, a in zip(tasks, arms[0], strict=True)
    ]
    a, b = (np.mean([x.mean(axis=1) for x in arm], axis=0) for arm in arms)
    runs = compare_arms(a[:, None], b[:, None], paired=paired, scope="test_set")
    split = [[y - x for x, y in zip(*arms, strict=True)]] if paired else arms
    scale = len(tasks) ** -2
    residuals = [
        scale * sum(float(residual_variance(x, one)) for x, one in zip(side, groups, strict=True))
        for side in split
    ]
    differences = [y.mean(axis=0) - x.mean(axis=0) for x, y in zip(*arms, strict=True)]
    spreads = np.array(
        [
            scale * float(cluster_variance(d, one))
            for d, one in zip(differences, groups, strict=True)
        ]
    )
    dfs = np.array([one.effective - 1 for one in groups])
    squares = float((spreads**2 / dfs).sum())
    return replace(
        runs,
        seed_parts=tuple(
            SeedPart(variance=part.variance, df=part.df, residual=residual)
            for part, residual in zip(runs.seed_parts, residuals, strict=True)
        ),
        v_prompt=max(0.0, float(spreads.sum()) - sum(residuals)),
        df_prompt=float(spreads.sum()) ** 2 / squares if squares else float(dfs.sum()),
        n_examples=sum(x.shape[1] for x in arms[0]),
        n_clusters=sum(len(one.names) for one in groups),
        scope="population",
        differences=_by_passage(tasks, differences, groups, runs.estimate),
    )


def _above_chance(task: Task, scores: str) -> Array:
    if not 0 <= task.chance < 1:
        raise ValueError(f"{task.name}: chance must be at least 0 and below 1, not {task.chance}")
    accuracy = np.asarray(getattr(task, scores), dtype=np.float64)
    return np.asarray((accuracy - task.chance) / (1 - task.chance))


def _by_passage(
    tasks: Sequence[Task], differences: Sequence[Array], groups: Sequence[Clusters], estimate: float
) -> dict[str, float]:
    """Return what every passage adds to the macro average, as differences of one sample."""
    n = sum(len(one.names) for one in groups)
    scale = np.sqrt(n * (n - 1)) / len(tasks)
    return {
        f"{task.name}: {name}": estimate + float(scale * share)
        for task, d, one in zip(tasks, differences, groups, strict=True)
        for name, share in zip(one.names, one.influences(d), strict=True)
    }
