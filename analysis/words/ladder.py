"""Sentences on how an article's published gap moves as its differences are mended."""

from collections.abc import Sequence
from itertools import pairwise

from analysis.judged_rows import LadderRow
from analysis.printing import capital, interval, number, percent, signed
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords


def ladder_remarks(records: StudyRecords, rows: Sequence[LadderRow]) -> tuple[str, ...]:
    """Say what the gap is as published and where the arms differ in the loss alone, and why."""
    if not rows:
        return ()
    widest = [row for row in rows if row.recipe == rows[0].recipe]
    by_metric = [
        [row for row in widest if row.metric == metric]
        for metric in dict.fromkeys(row.metric for row in widest)
    ]
    plans = records.ladders.values()
    return (
        *(_moved(of_metric) for of_metric in by_metric),
        *(_method(of_metric) for of_metric in by_metric),
        _one_seed(by_metric[0]),
        *dict.fromkeys(plan["chosen"] for plan in plans),
        *_changed(records),
    )


def _moved(rows: Sequence[LadderRow]) -> str:
    """Tell the way of one metric: as published, with the scoring mended, the loss alone."""
    label = capital(METRICS[rows[0].metric].label)
    scored = [row for row in rows if row.touches in ("", "scoring")]
    middle = (
        f", {_effect(scored[-1])} once the scoring is mended"
        if rows[0].metric == "rougeL" and len(scored) > 1
        else ""
    )
    changes = [(after.estimate - before.estimate, after) for before, after in pairwise(rows)]
    largest = ""
    if changes:
        change, rung = max(changes, key=lambda item: abs(item[0]))
        digits = METRICS[rung.metric].digits
        largest = f" The largest step is the rung “{rung.rung}”: {signed(change, digits)}."
    return (
        f"{label}, ORPO minus SFT ({rows[0].recipe}): {_effect(rows[0])} as published{middle}, "
        f"and {_effect(rows[-1])} where the arms differ in the loss alone.{largest}"
    )


def _method(rows: Sequence[LadderRow]) -> str:
    """Say how much of the gap of the published training is left where the loss alone differs."""
    label = capital(METRICS[rows[0].metric].label)
    first = next((row for row in rows if row.touches == "training"), None)
    if first is None:
        return f"{label}: no rung of training is finished."
    trained = rows[rows.index(first) - 1]
    top = rows[-1]
    if trained.low is None or trained.high is None or trained.low <= 0 <= trained.high:
        return (
            f"{label}: no gap is shown under the published training with the scoring mended, so "
            "no share of it can be given to the method."
        )
    share = top.estimate / trained.estimate
    if share < 0:
        return (
            f"{label}: none of the gap under the published training was the method: where the loss "
            "alone differs, its sign is the other one."
        )
    sure = (
        ""
        if top.low is None or top.high is None or not top.low <= 0 <= top.high
        else (", which cannot be told from none")
    )
    return (
        f"{label}: of the gap under the published training with the scoring mended, "
        f"{percent(share)} is left where the loss alone differs{sure}."
    )


def _one_seed(rows: Sequence[LadderRow]) -> str:
    """Say what the article's one seed could have shown."""
    label, digits = capital(METRICS[rows[0].metric].label), METRICS[rows[0].metric].digits
    told = " and ".join(
        f"from {number(min(row.by_seed), digits)} to {number(max(row.by_seed), digits)} {where}"
        for row, where in ((rows[0], "as published"), (rows[-1], "with the loss alone"))
    )
    return f"{label} of a single seed, as the article has it: gaps {told}."


def _effect(row: LadderRow) -> str:
    digits = METRICS[row.metric].digits
    bounds = "" if row.low is None else f" {interval(row.low, row.high, digits)}"
    return f"{signed(row.estimate, digits)}{bounds}"


def _changed(records: StudyRecords) -> list[str]:
    return [
        f"{recipe}: the ladder was changed after {past['finished_runs']} of its runs had finished."
        for recipe, plan in records.ladders.items()
        for past in plan["amended"]
        if past["finished_runs"] and past["steps"] != plan["steps"]
    ]
