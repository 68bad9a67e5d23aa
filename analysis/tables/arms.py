"""Rows of the findings, computed from the records of a study."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.records.load import score_matrix
from analysis.records.metrics import METRICS
from analysis.records.study import RunRecord, Scores, SearchRecord, StudyRecords, in_order
from analysis.rows import ArmRow, CostRow, DataRow, Sample, SearchRow, Summary
from analysis.statistics import trials as tuning

SAMPLES = 5
"""Prompts whose answers are printed: the first by example id, which is a hash."""


def arm_rows(records: StudyRecords) -> tuple[ArmRow, ...]:
    """Summarise every arm's scores over its seeds."""
    return tuple(
        _arm_row(records, recipe, arm) for recipe in records.recipes for arm in records.arms(recipe)
    )


def search_rows(records: StudyRecords) -> tuple[SearchRow, ...]:
    """Say what every finished search found."""
    return tuple(_search_row(search) for search in records.searches if search.best is not None)


def cost_rows(records: StudyRecords) -> tuple[CostRow, ...]:
    """Average what a run of every arm cost, over the runs that did not diverge."""
    searched = {
        (search.recipe, search.arm): sum(float(trial["seconds"]) for trial in search.trials)
        for search in records.searches
    }
    return tuple(
        _cost_row(records.ok(recipe, arm), searched.get((recipe, arm)))
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
        published=tuple(
            {**tried, "behind": _behind(tried, best)}
            for tried in tuning.published_tried(search.trials, search.confirmations)
        ),
        n_repeated=len(tuning.repeated(best["settings"], search.confirmations)),
        at_edge=tuning.at_edge(best["settings"], search.space),
    )


def _behind(tried: Mapping[str, Any], best: Mapping[str, Any]) -> float | None:
    """Return how much worse a published setting did than the chosen one repeated.

    Its own repetitions are taken where it has some, else its single trial;
    positive is worse, None is a trial that did not finish.
    """
    value = tried["value"] if tried["state"] == "complete" else None
    value = value if tried["repeated"] is None else tried["repeated"]
    if value is None:
        return None
    worse = value - best["value"]
    return float(worse if best["direction"] == "minimize" else -worse)


def _cost_row(runs: tuple[RunRecord, ...], search_s: float | None) -> CostRow:
    costs: list[Mapping[str, Any]] = [run.record["cost"] for run in runs]
    starts = [run.record.get("start", {}).get("cost", {}).get("train_s", 0.0) for run in runs]

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
        start_s=float(np.mean(starts)),
        reference_s=float(np.mean([cost.get("reference_s", 0.0) for cost in costs])),
        search_s=search_s,
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
