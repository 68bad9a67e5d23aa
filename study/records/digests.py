"""The configuration that a digest names: of one run, of one search."""

from typing import Any

from study.arms import ARMS, Settings, check_settings, costly_arms
from study.config.canonical import to_dict
from study.config.recipe import PublishedSetting, Recipe
from study.records.schema import SCHEMA

PARTS = ("name", "model", "adapter", "data", "training", "evaluation")
"""Sections of a recipe that decide what a run computes."""

FIRST = ("sft", "orpo")
"""The arms of the first records, whose searches are described with the published
settings of both: those of another arm change nothing."""


def run_config(
    recipe: Recipe,
    *,
    arm: str,
    settings: Settings,
    seed: int,
    start: Settings | None = None,
) -> dict[str, Any]:
    """Describe one run completely; its digest names the run.

    Search space, description and the other arms' settings are left out: they
    do not change what this run computes. Of an arm that continues another,
    ``start`` is what that one is trained with.

    Raises:
        ConfigError: ``settings`` are not exactly those that the arm takes.
    """
    check_settings(f"settings of {arm}", arm, settings)
    return {
        "schema": SCHEMA,
        "arm": arm,
        **_budget(recipe, arm),
        **_start(recipe, arm, start),
        "settings": dict(settings),
        "seed": seed,
        "recipe": _parts(recipe),
    }


def search_config(
    recipe: Recipe, *, arm: str, seed: int, start: Settings | None = None
) -> dict[str, Any]:
    """Describe one arm's search completely, except for its number of trials.

    Sharding is left out: a trial has one process, and its settings serve several too.
    """
    parts, tree = _parts(recipe), to_dict(recipe)["search"]
    parts["training"].pop("sharding", None)
    search = {key: value for key, value in tree.items() if key != "trials"}
    search["space"] = tree["space"][arm]
    search["published"] = [to_dict(one) for one in published_of(recipe, arm)]
    return {
        "schema": SCHEMA,
        "arm": arm,
        **_start(recipe, arm, start),
        "seed": seed,
        "recipe": parts | {"search": search},
    }


def published_of(recipe: Recipe, arm: str) -> list[PublishedSetting]:
    """List the published settings that describe an arm's search."""
    theirs = FIRST if arm in FIRST else (arm,)
    return [one for one in recipe.search.published if one.arm in theirs]


def _budget(recipe: Recipe, arm: str) -> dict[str, Any]:
    """Name the arms of which an arm matched in tokens takes the dearest."""
    if ARMS[arm].budget == "updates":
        return {}
    dear = costly_arms(recipe.arms)
    if all(ARMS[name].starts_from is None for name in dear):
        return {"budget": {"tokens_of": dear[0]}}
    return {"budget": {"tokens_of": dear, "start_share": recipe.training.start_share}}


def _start(recipe: Recipe, arm: str, settings: Settings | None) -> dict[str, Any]:
    """Describe what an arm continues, and for which share of its updates that was trained."""
    name, share = ARMS[arm].starts_from, recipe.training.start_share
    assert (name is None) == (settings is None), f"{arm} continues {name}"
    if settings is None:
        return {}
    return {"start": {"arm": name, "settings": dict(settings), "share": share}}


def _parts(recipe: Recipe) -> dict[str, Any]:
    """Return what all arms of a comparison share.

    The share of starts concerns some alone, and GPUs say where, not what is computed.
    """
    tree = to_dict(recipe)
    for name in ("start_share", "gpus"):
        tree["training"].pop(name, None)
    return {part: tree[part] for part in PARTS}
