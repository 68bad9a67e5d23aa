"""What was done after results had been seen, one sentence each."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.judge.judged import Judged
from analysis.printing import (
    arm_name,
    percent,
    plain,
    settings,
)
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords


def history(records: StudyRecords, judged: Judged) -> tuple[str, ...]:
    """Tell what the plans keep of their own changes, and what the plan left open.

    Changes before the first run had finished are no part of it, but for those that an
    author wrote down because other runs' scores had been seen.
    """
    told: dict[str, list[str]] = {}  # what is the same of several recipes is told once
    for recipe, plan in records.plans.items():
        for event in _events(plan):
            told.setdefault(event, []).append(recipe)
    sentences = [
        f"Noted by the authors: {row['what'].rstrip('.')} ({row['at']})." for row in records.history
    ]
    sentences += [f"{' and '.join(recipes)}: {event}." for event, recipes in told.items()]
    sentences += [
        f"The plan lacks {METRICS[name].label} or its margin, {plain(judged.sesoi[name])}: it "
        "became a co-primary metric after the results had been seen."
        for name in judged.late
    ]
    if _cost_is_younger(records):
        share = percent(records.smallest_cost_share)
        sentences.append(
            f"Costs that differ by less than {share} are judged to be the same: this bound of the "
            "claims about costs was set after the results had been seen."
        )
    if judged.instead_of:
        sentences.append(
            f"No run is scored in {METRICS[judged.instead_of].label}, on which the plan rests; "
            "the verdict leaves it out or uses the next metric of answers."
        )
    return tuple(sentences)


def _cost_is_younger(records: StudyRecords) -> bool:
    """Tell whether claims about costs were registered before their smallest difference was."""
    about_costs = any(
        part["kind"] == "cost" for claim in records.registered_claims for part in claim["parts"]
    )
    plans = list(records.claims.values())
    past = [old for plan in plans for old in plan["amended"] if old["finished_runs"]]
    return about_costs and any("costs" not in plan for plan in (*plans, *past))


def _events(plan: Mapping[str, Any]) -> Iterator[str]:
    """Tell what one plan keeps: what its commands changed, then what its author noted."""
    for past, now in itertools.pairwise([*plan["amended"], plan]):
        n = past["finished_runs"]
        if n and (changes := list(_changes(past, now))):
            yield f"after {n} finished runs {'; '.join(changes)}"
    for event in plan.get("history", ()):
        n, date = event["finished_runs"], event["at"][:10]
        yield f"{event['what'].removesuffix('.')} ({date}, after {n} finished runs)"


def _changes(past: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Say what a plan's amendment changed."""
    if added := sorted(set(now["seeds"]) - set(past["seeds"])):
        yield f"seeds {', '.join(map(str, added))} were added"
    if past["paired"] != now["paired"]:
        yield f"the comparison changed to {'paired by seed' if now['paired'] else 'unpaired'}"
    metrics = [
        tuple(plan.get("primary_metrics") or [plan.get("primary_metric", "")])
        for plan in (past, now)
    ]
    if metrics[0] != metrics[1]:
        before, after = (" and ".join(names) for names in metrics)
        yield f"the deciding metric changed from {before} to {after}"
    if past.get("secondary_metrics", ()) != now.get("secondary_metrics", ()):
        yield "the secondary metrics changed"
    if past["sesoi"] != now["sesoi"]:
        before, after = (_sizes(plan["sesoi"]) for plan in (past, now))
        yield f"the smallest effects of interest changed from {before} to {after}"
    for arm in sorted({*past["arms"], *now["arms"]}):
        old, new = past["arms"].get(arm), now["arms"].get(arm)
        if old is None or new is None:
            yield f"{arm_name(arm)} was {'added' if old is None else 'dropped'}"
        elif old != new:
            yield f"{arm_name(arm)} changed from {settings(old)} to {settings(new)}"


def _sizes(sesoi: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {plain(size)}" for name, size in sorted(sesoi.items())) or "none"
