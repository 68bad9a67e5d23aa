"""What a registered part of a claim predicts, in words."""

from collections.abc import Mapping
from typing import Any

from analysis.printing import arm_name, plain, settings
from analysis.records.metrics import METRICS
from analysis.records.study import in_order
from study.config.claims import SETTINGS_OF

PlannedPart = Mapping[str, Any]

COSTS = {
    "train_s": "seconds of training",
    "train_tokens": "tokens trained on",
    "peak_memory_bytes": "peak memory",
}


def prediction(part: PlannedPart, plan: Mapping[str, Any]) -> str:
    """Say in words what a part predicts."""
    who = side_name(part["treatment"], plan)
    if part["kind"] == "cost":
        return f"{COSTS[part['metric']]}, {who} over {side_name(part['baseline'], plan)}"
    label = METRICS[part["metric"]].label
    than = "below" if part["direction"] == "lower" else "above"
    early = plan["early"]
    if part["kind"] == "curve":
        share = plain(early["share_of_updates"])
        return f"share of the change in {label} after {share} of the updates, {than} {share}"
    if part["kind"] == "rank":
        return (
            f"rank correlation over trials of {label} after {plain(early['share_of_updates'])} of "
            f"the updates with the final one, {than} {plain(early['rank_correlation'])}"
        )
    if part["kind"] == "ladder":
        return f"{label}, trained and scored as published: {_comparison(part, plan)}"
    if part["kind"] == "ladder_share":
        return (
            f"{label}: {who} minus {side_name(part['baseline'], plan)} with the loss alone, {than} "
            "half of the same under the published training"
        )
    scored = ", scored as published" if part["kind"] == "as_published" else ""
    return f"{label}{scored}: {_comparison(part, plan)}"


def _comparison(part: PlannedPart, plan: Mapping[str, Any]) -> str:
    """Say which side is predicted to be higher or lower, with what sets them apart."""
    sides = [part["treatment"], part["baseline"]]
    than = f"{part['direction']} than"
    if not all(name in plan["settings"] for name in sides):
        return f"{side_name(sides[0], plan)} {than} {side_name(sides[1], plan)}"
    a, b = (in_order(SETTINGS_OF, plan["settings"][name]) for name in sides)
    shared = {name: value for name, value in a.items() if b[name] == value}
    one, other = (
        settings({name: value for name, value in side.items() if name not in shared})
        for side in (a, b)
    )
    fixed = f" ({settings(shared)})" if shared else ""
    return f"{arm_name(SETTINGS_OF)} with {one} {than} with {other}{fixed}"


def side_name(name: str, plan: Mapping[str, Any]) -> str:
    """Name an arm, or ORPO at a setting with its values."""
    if name not in plan["settings"]:
        return arm_name(name)
    return f"{arm_name(SETTINGS_OF)} ({settings(in_order(SETTINGS_OF, plan['settings'][name]))})"
