"""Rows of the findings, computed from the records of a study."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import stats, tuning
from analysis.load import score_matrix
from analysis.metrics import METRICS
from analysis.records import RunRecord, Scores, SearchRecord, StudyRecords, in_order
from analysis.rows import ArmRow, ContrastRow, CostRow, DataRow, Sample, SearchRow, Summary

PAIRS_OF_ARMS = (("sft", "orpo"), ("base", "sft"), ("base", "orpo"))
"""(baseline, treatment) of every comparison, the study's question first."""

SAMPLES = 5
"""Prompts whose answers are printed: the first by example id, which is a hash."""

NULL_HYPOTHESIS = "over training seeds and prompts like these, both arms have the same mean score"
NULL_AGAINST_FIXED = (
    "over training seeds and prompts like these, the arm's mean score is that of the base model"
)


def arm_rows(records: StudyRecords) -> tuple[ArmRow, ...]:
    """Summarise every arm's scores over its seeds."""
    return tuple(
        _arm_row(records, recipe, arm) for recipe in records.recipes for arm in records.arms(recipe)
    )


def contrast_rows(records: StudyRecords) -> tuple[ContrastRow, ...]:
    """Compare the arms of every recipe in every metric."""
    return tuple(
        row
        for recipe in records.recipes
        for baseline, treatment in PAIRS_OF_ARMS
        for metric in METRICS
        if (row := _contrast_row(records, recipe, metric, baseline, treatment)) is not None
    )


def search_rows(records: StudyRecords) -> tuple[SearchRow, ...]:
    """Say what every finished search found."""
    return tuple(_search_row(search) for search in records.searches if search.best is not None)


def cost_rows(records: StudyRecords) -> tuple[CostRow, ...]:
    """Average what a run of every arm cost, over the runs that did not diverge."""
    return tuple(
        _cost_row(records.ok(recipe, arm))
        for recipe in records.recipes
        for arm in records.arms(recipe)
        if records.ok(recipe, arm)
    )


def sample_rows(records: StudyRecords) -> tuple[Sample, ...]:
    """Put every arm's answers to the same few prompts side by side."""
    return tuple(sample for recipe in records.recipes for sample in _samples_of(records, recipe))


def data_rows(records: StudyRecords) -> tuple[DataRow, ...]:
    """Describe the data of every recipe."""
    return tuple(_data_row(recipe, records.of(recipe)[0].record) for recipe in records.recipes)


def _arm_row(records: StudyRecords, recipe: str, arm: str) -> ArmRow:
    runs, ok = records.of(recipe, arm), records.ok(recipe, arm)
    matrices = {metric: score_matrix(records, recipe, arm, metric) for metric in METRICS}
    return ArmRow(
        recipe=recipe,
        arm=arm,
        settings=in_order(arm, runs[0].config["settings"]),
        tuned=all(bool(run.record["tuned"]) for run in runs),
        n_seeds=len(ok),
        n_diverged=len(runs) - len(ok),
        scores={
            metric: _summary(scores) for metric, scores in matrices.items() if scores is not None
        },
    )


def _summary(scores: Scores) -> Summary:
    means = scores.matrix.mean(axis=1)
    return Summary(
        mean=float(means.mean()),
        sd=float(means.std(ddof=1)) if len(means) > 1 else None,
        by_seed={seed: float(mean) for seed, mean in zip(scores.seeds, means, strict=True)},
    )


def _contrast_row(
    records: StudyRecords, recipe: str, metric: str, baseline: str, treatment: str
) -> ContrastRow | None:
    """Compare two arms in one metric, or return None where one has no score."""
    a = score_matrix(records, recipe, baseline, metric)
    b = score_matrix(records, recipe, treatment, metric)
    if a is None or b is None:
        return None
    common = {
        "recipe": recipe,
        "metric": metric,
        "baseline": baseline,
        "treatment": treatment,
        "estimate": float(b.matrix.mean() - a.matrix.mean()),
        "n_baseline": len(a.seeds),
        "n_treatment": len(b.seeds),
        "n_examples": a.matrix.shape[1],
    }
    n_diverged = sum(not run.ok for arm in (baseline, treatment) for run in records.of(recipe, arm))
    tested = _tested(a, b, metric=metric, fixed=baseline == "base")
    return ContrastRow(**{**common, **_given_convergence(tested, n_diverged)})


def _tested(a: Scores, b: Scores, *, metric: str, fixed: bool) -> dict[str, Any]:
    """Return the tested fields of a contrast, or the reason why it is not tested."""
    try:
        contrast = _contrast(a, b, fixed=fixed, scope="population")
    except stats.NotTestableError as reason:
        return {
            "low": None,
            "high": None,
            "p_value": None,
            "df": None,
            "test": f"not tested: {reason}",
            "verdict": "not tested",
        }
    low, high = contrast.interval()
    direction = METRICS[metric].higher_is_better
    return {
        "low": low,
        "high": high,
        "p_value": contrast.p_value,
        "df": contrast.df_seed,
        "test": _test_name(b, fixed=fixed),
        "verdict": stats.verdict(low, high, higher_is_better=direction),
        "null_hypothesis": NULL_AGAINST_FIXED if fixed else NULL_HYPOTHESIS,
        "shares": contrast.shares,
        **_test_set(a, b, fixed=fixed),
    }


def _contrast(a: Scores, b: Scores, *, fixed: bool, scope: stats.Scope) -> stats.Contrast:
    if fixed:
        return stats.compare_with_fixed(a.matrix[0], b.matrix, scope=scope, clusters=b.clusters)
    return stats.compare_arms(a.matrix, b.matrix, paired=False, scope=scope, clusters=b.clusters)


def _test_set(a: Scores, b: Scores, *, fixed: bool) -> dict[str, Any]:
    """Return the bounds that hold for these held-out pairs alone, if there are any."""
    try:
        contrast = _contrast(a, b, fixed=fixed, scope="test_set")
    except stats.NotTestableError:
        return {}
    low, high = contrast.interval()
    return {"test_set_low": low, "test_set_high": high, "test_set_p_value": contrast.p_value}


def _test_name(treatment: Scores, *, fixed: bool) -> str:
    name = (
        "one-sample seeds-by-prompts t over the treatment's seeds"
        if fixed
        else "seeds-by-prompts t (Welch's over seeds)"
    )
    return f"{name}, exploratory with 2 seeds" if len(treatment.seeds) == 2 else name


def _given_convergence(tested: dict[str, Any], n_diverged: int) -> dict[str, Any]:
    """Lower a verdict to ``inconclusive`` where runs diverged and were left out."""
    if n_diverged == 0:
        return tested
    noun = "run" if n_diverged == 1 else "runs"
    decided = tested["verdict"] != "not tested"
    return {
        **tested,
        "test": f"{tested['test']}; given convergence, {n_diverged} {noun} diverged",
        "verdict": "inconclusive" if decided else "not tested",
    }


def _search_row(search: SearchRecord) -> SearchRow:
    best = search.best
    assert best is not None
    return SearchRow(
        recipe=search.recipe,
        arm=search.arm,
        objective=best["objective"],
        direction=best["direction"],
        n_trials=best["n_trials"],
        n_pruned=best["n_pruned"],
        n_diverged=best["n_diverged"],
        settings=in_order(search.arm, best["settings"]),
        trial_value=best["trial_value"],
        value=best["value"],
        optimism=best["optimism"],
        space=search.space,
        published=tuning.published_tried(search.trials),
        at_edge=tuning.at_edge(best["settings"], search.space),
    )


def _cost_row(runs: tuple[RunRecord, ...]) -> CostRow:
    costs = [run.record["cost"] for run in runs]

    def mean(name: str) -> float:
        return float(np.mean([cost[name] for cost in costs]))

    train_s, train_tokens = mean("train_s"), mean("train_tokens")
    return CostRow(
        recipe=runs[0].recipe,
        arm=runs[0].arm,
        train_s=train_s,
        evaluate_s=mean("evaluate_s"),
        train_tokens=train_tokens,
        tokens_per_s=train_tokens / train_s if train_s > 0 and train_tokens > 0 else None,
        peak_memory_bytes=mean("peak_memory_bytes"),
        device=" / ".join(sorted({str(run.record["device"]) for run in runs})),
    )


def _samples_of(records: StudyRecords, recipe: str) -> list[Sample]:
    answers = {
        arm: {row["example_id"]: row for row in records.ok(recipe, arm)[0].generations}
        for arm in records.arms(recipe)
        if records.ok(recipe, arm)
    }
    shared = sorted(set.intersection(*(set(rows) for rows in answers.values()))) if answers else []
    return [
        Sample(
            recipe=recipe,
            example_id=example_id,
            prompt=next(iter(answers.values()))[example_id]["prompt"],
            reference=next(iter(answers.values()))[example_id]["reference"],
            answers={arm: rows[example_id]["text"] for arm, rows in answers.items()},
        )
        for example_id in shared[:SAMPLES]
    ]


def _data_row(recipe: str, record: Mapping[str, Any]) -> DataRow:
    splits = ("train", "validation", "test")
    data = record["data"]
    return DataRow(
        recipe=recipe,
        source=data["source"],
        splits={name: (data[name]["pairs"], data[name]["fingerprint"]) for name in splits},
    )
