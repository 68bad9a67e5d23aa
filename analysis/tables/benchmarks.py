"""Benchmark scores of every arm: above chance, with intervals over seeds and items.

Null hypotheses, two-sided: over seeds, and items like these within exactly these
tasks, an arm and the baseline have the same average (``compare_macro``). Holm over
the treatments of one group; tasks stand behind it, with Holm over the tasks of one
treatment. No part of the study's verdict, whose plan does not name them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.judged_rows import BenchmarkRow
from analysis.records.study import StudyRecords
from analysis.statistics import Contrast, NotTestableError, holm
from analysis.statistics.clusters import cluster_variance, clusters_of
from analysis.statistics.macro import Task, compare_macro
from study.arms import BASELINE, UNTRAINED, arms_in_order
from study.records.released import BenchmarkScores

Scores = Mapping[str, Mapping[str, Sequence[BenchmarkScores]]]
"""Task -> arm -> runs."""


def benchmark_rows(records: StudyRecords) -> tuple[BenchmarkRow, ...]:
    """Summarise and compare what runs scored, group by group.

    Only tasks that every run of a group answered on the same items take part.
    """
    rows: list[BenchmarkRow] = []
    groups = dict.fromkeys(name for one in records.benchmarks for name in one["groups"])
    for recipe, form, group in product(records.recipes, ("adapter", "merged"), groups):
        found = [
            one
            for one in records.benchmarks
            if (one["recipe"], one["form"]) == (recipe, form) and group in one["groups"]
        ]
        rows += _group_rows((recipe, form, group), found)
    return tuple(rows)


def _group_rows(
    place: tuple[str, str, str], found: Sequence[BenchmarkScores]
) -> list[BenchmarkRow]:
    scores = _shared(found)
    arms = arms_in_order({one["arm"] for one in found})
    if not scores:
        return []
    tasks = list(scores)
    rows = [_row(place, "", arm, [scores[task] for task in tasks]) for arm in arms]
    rows = _adjusted(rows)
    if len(tasks) > 1:
        for arm in arms:
            rows += _adjusted([_row(place, task, arm, [scores[task]]) for task in tasks])
    return rows


def _shared(found: Sequence[BenchmarkScores]) -> Scores:
    """Return the tasks on which every run has scores of the same items."""
    runs = {(one["arm"], one["seed"]) for one in found}
    scores: dict[str, dict[str, list[BenchmarkScores]]] = {}
    for task in dict.fromkeys(one["task"] for one in found):
        mine = [one for one in found if one["task"] == task]
        alike = len({tuple(one["items"]) for one in mine}) == 1
        if alike and {(one["arm"], one["seed"]) for one in mine} == runs:
            for one in sorted(mine, key=lambda one: one["seed"]):
                scores.setdefault(task, {}).setdefault(one["arm"], []).append(one)
    return scores


def _row(
    place: tuple[str, str, str],
    task: str,
    arm: str,
    tasks: Sequence[Mapping[str, Sequence[BenchmarkScores]]],
) -> BenchmarkRow:
    recipe, form, group = place
    own = [_matrix(one[arm]) for one in tasks]
    against_chance = _compare(tasks, None, arm)
    beside, difference = None, None
    shares = [_share(one[arm]) for one in tasks]
    if arm != BASELINE and all(BASELINE in one for one in tasks):
        beside = _compare(tasks, BASELINE, arm)
        difference = float(np.mean(shares) - np.mean([_share(one[BASELINE]) for one in tasks]))
    low, high = _over_items(tasks, arm) if arm == UNTRAINED else _interval(against_chance)
    difference_low, difference_high = _interval(beside)
    return BenchmarkRow(
        recipe=recipe,
        form=form,
        group=group,
        task=task,
        arm=arm,
        n_seeds=len(tasks[0][arm]),
        n_items=sum(m.shape[1] for m in own),
        accuracy=float(np.mean([m.mean() for m in own])),
        above_chance=float(np.mean(shares)),
        low=low,
        high=high,
        difference=difference,
        difference_low=difference_low,
        difference_high=difference_high,
        p_adjusted=None if beside is None or arm == UNTRAINED else beside.p_value,
    )


def _compare(
    tasks: Sequence[Mapping[str, Sequence[BenchmarkScores]]], baseline: str | None, arm: str
) -> Contrast | None:
    """Compare an arm with another, or with guessing; None where nothing can be tested."""
    prepared = [
        Task(
            name=one[arm][0]["task"],
            baseline=_twice(_matrix(one[baseline]))
            if baseline
            else np.full((2, len(one[arm][0]["scores"])), one[arm][0]["chance"]),
            treatment=_twice(_matrix(one[arm])) if arm == UNTRAINED else _matrix(one[arm]),
            chance=one[arm][0]["chance"],
            clusters=one[arm][0]["passages"],
        )
        for one in tasks
    ]
    try:
        return compare_macro(prepared, paired=False)
    except NotTestableError:
        return None


def _share(runs: Sequence[BenchmarkScores]) -> float:
    """Return the mean accuracy of runs above chance."""
    chance = runs[0]["chance"]
    return float((_matrix(runs).mean() - chance) / (1 - chance))


def _over_items(
    tasks: Sequence[Mapping[str, Sequence[BenchmarkScores]]], arm: str
) -> tuple[float | None, float | None]:
    """Return the interval of a model that no seed changes: over items, clustered by passage."""
    variances, dfs = [], []
    for one in tasks:
        (run,) = one[arm]
        scores = np.array(run["scores"]) / (1 - run["chance"])
        groups = clusters_of(run["passages"], len(scores))
        variances.append(float(cluster_variance(scores, groups)) / len(tasks) ** 2)
        dfs.append(groups.effective - 1)
    total = sum(variances)
    if not total:
        return None, None
    df = total**2 / sum(v**2 / d for v, d in zip(variances, dfs, strict=True))
    reach = float(stats.t.ppf(0.975, df)) * total**0.5
    mean = float(np.mean([_share(one[arm]) for one in tasks]))
    return mean - reach, mean + reach


def _matrix(runs: Sequence[BenchmarkScores]) -> npt.NDArray[np.float64]:
    return np.array([one["scores"] for one in runs], dtype=np.float64)


def _twice(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the untrained base, which no seed changes, as two equal runs."""
    return np.repeat(scores, 2, axis=0) if len(scores) == 1 else scores


def _interval(contrast: Contrast | None) -> tuple[float | None, float | None]:
    return (None, None) if contrast is None else contrast.interval()


def _adjusted(rows: Sequence[BenchmarkRow]) -> list[BenchmarkRow]:
    """Correct the p-values of one family."""
    tested = [row for row in rows if row.p_adjusted is not None]
    corrected = dict(zip(map(id, tested), holm([r.p_adjusted for r in tested]), strict=True))
    return [replace(row, p_adjusted=corrected.get(id(row))) for row in rows]
