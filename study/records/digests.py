"""The configuration that a digest names: of one run, of one search."""

from typing import Any

from study.arms import ARMS, Settings, check_settings, dearest_arm
from study.config.canonical import to_dict
from study.config.recipe import Recipe
from study.records.schema import SCHEMA


def run_config(recipe: Recipe, *, arm: str, settings: Settings, seed: int) -> dict[str, Any]:
    """Describe one run completely; its digest names the run.

    Search space, description and the other arms' settings are left out: they
    do not change what this run computes.

    Raises:
        ConfigError: ``settings`` are not exactly those that the arm takes.
    """
    check_settings(f"settings of {arm}", arm, settings)
    tree = to_dict(recipe)
    parts = ("name", "model", "adapter", "data", "training", "evaluation")
    matched = ARMS[arm].budget == "tokens"
    return {
        "schema": SCHEMA,
        "arm": arm,
        **({"budget": {"tokens_of": dearest_arm(recipe.arms)}} if matched else {}),
        "settings": dict(settings),
        "seed": seed,
        "recipe": {part: tree[part] for part in parts},
    }


def search_config(recipe: Recipe, *, arm: str, seed: int) -> dict[str, Any]:
    """Describe one arm's search completely, except for its number of trials."""
    tree = to_dict(recipe)
    search = {key: value for key, value in tree["search"].items() if key != "trials"}
    search["space"] = tree["search"]["space"][arm]
    parts = ("name", "model", "adapter", "data", "training", "evaluation")
    return {
        "schema": SCHEMA,
        "arm": arm,
        "seed": seed,
        "recipe": {part: tree[part] for part in parts} | {"search": search},
    }
