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


@dataclass(frozen=True, kw_only=True)
class JudgeVerdicts:
    """Wins of one arm against the fixed reference, with both orders averaged."""

    wins: Array
    """``(S, N)``: 1 won, 0 lost, 0.5 tied or turned."""
    turned: float
    """Share of comparisons whose winner changed with the order of the answers."""


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


def length_controlled(differences: Any, lengths: Any) -> Array:
    """Return differences in score as they would be at equal length.

    Per run, the difference is regressed on the difference in length; a row of the
    result is the intercept plus every item's influence on it, so that its mean is
    the intercept and its spread over prompts is the intercept's. The result goes
    where scores go, into ``compare_arms``. A null hypothesis is that function's,
    about means at equal length. Smallest n: three items. Assumes that score is
    linear in length. Source: Dubois et al. (2024) for the
    idea, there in a logistic model; Hampel (1974) for the influence.

    Args:
        differences: ``(S, N)`` score minus that of a fixed reference answer.
        lengths: ``(S, N)`` length minus that of the reference answer, in tokens.

    Raises:
        ValueError: shapes differ, or there are fewer than three items.
    """
    y, x = np.asarray(differences, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 2 or y.shape[1] < 3:
        raise ValueError(
            f"differences and lengths must be (runs, 3 items or more) alike, "
            f"not {y.shape} and {x.shape}"
        )
    mean = x.mean(axis=1, keepdims=True)
    around = x - mean
    spread = (around**2).mean(axis=1, keepdims=True)
    known = spread > 0
    inverse = np.where(known, 1 / np.where(known, spread, 1.0), 0.0)
    slope = (around * y).mean(axis=1, keepdims=True) * inverse
    intercept = y.mean(axis=1, keepdims=True) - slope * mean
    rest = y - intercept - slope * x
    return np.asarray(intercept + (1 - mean * around * inverse) * rest)


def judge_verdicts(shown_first: Any, shown_second: Any) -> JudgeVerdicts:
    """Average a judge's verdicts over both orders of the two answers.

    Every arm is judged against one fixed reference, the data's chosen answer, so
    that contrasts between arms are differences of ``wins`` and the same tests
    hold. A verdict that turns with the order counts one half. A judge that looks
    at places alone turns always.

    Args:
        shown_first: ``(S, N)`` 1 where the arm's answer wins, shown first; 0.5 tie.
        shown_second: the same with the arm's answer shown second.

    Raises:
        ValueError: shapes differ, or a verdict is not 0, 0.5 or 1.
    """
    first = np.asarray(shown_first, dtype=np.float64)
    second = np.asarray(shown_second, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"verdicts of both orders differ in shape: {first.shape}, {second.shape}")
    if not np.isin([first, second], (0.0, 0.5, 1.0)).all():
        raise ValueError("verdicts must be 0 (lost), 0.5 (tied) or 1 (won)")
    return JudgeVerdicts(
        wins=np.asarray((first + second) / 2), turned=float((np.abs(first - second) == 1).mean())
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
