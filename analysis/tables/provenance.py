"""Where findings come from: signature, commands, environment, departures."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.records.study import LOCAL, RunRecord, SearchRecord, StudyRecords
from study.arms import UNTRAINED
from study.config.canonical import digest, to_dict
from study.config.files import recipe_names
from study.config.recipe import load_recipe
from study.config.seeds import study_seed
from study.records.digests import published_of
from study.records.layout import REPRODUCE


def signature(records: StudyRecords) -> str:
    """Name models, data, budgets, configurations and code of all runs in one line."""
    first = [records.of(recipe)[0] for recipe in records.recipes]
    fields = {
        "model": [run.config["recipe"]["model"]["name"] for run in first],
        "data": [run.record["data"]["test"]["fingerprint"][:8] for run in first],
        "trials": [str(len(search.trials)) for search in records.searches] or ["0"],
        "seeds": [str(_n_seeds(records, recipe)) for recipe in records.recipes],
        "digest": [digest(sorted(str(run.record["digest"]) for run in _all_runs(records)))[:12]],
        "git": [str(run.record["git"])[:12] for run in _all_runs(records)],
    }
    return "|".join(f"{name}:{'+'.join(dict.fromkeys(values))}" for name, values in fields.items())


def commands(records: StudyRecords) -> tuple[str, ...]:
    """List the commands that make these records and this report again.

    Runs that are finished in the folder they name are kept; in an empty one all
    are made.
    """
    lines: dict[str, list[str]] = {}
    for recipe in records.recipes:
        for command, named, options in _commands_of(records, recipe):
            lines.setdefault(f"study {command}{{recipes}}{options}", []).append(named)
    ordered = sorted(lines.items(), key=lambda item: not item[0].startswith("study search"))
    runs = "" if records.folder == LOCAL else f" --runs {shlex.quote(str(records.folder))}"
    study = [
        line.replace("{recipes}", "".join(f" --recipe {shlex.quote(name)}" for name in named), 1)
        for line, named in ordered
    ]
    return tuple(f"{line}{runs}" for line in (*study, "study report"))


def environment(records: StudyRecords) -> dict[str, str]:
    """Collect versions and devices; where runs differ, all of them."""
    names = sorted({name for run in records.runs for name in run.record["versions"]})
    found = {
        name: [str(run.record["versions"].get(name, "none")) for run in records.runs]
        for name in names
    }
    found["device"] = [str(run.record["device"]) for run in records.runs]
    return {name: " / ".join(sorted(set(values))) for name, values in found.items()}


def run_digests(records: StudyRecords) -> tuple[dict[str, object], ...]:
    """List what names every run."""
    return tuple(
        {
            "recipe": run.recipe,
            "arm": run.arm,
            "seed": run.seed,
            "status": run.record["status"],
            "digest": run.record["digest"],
            "git": run.record["git"],
            "finished_at": run.record["finished_at"],
        }
        for run in _all_runs(records)
    )


def descriptions(records: StudyRecords) -> dict[str, str]:
    """Describe every recipe: a shipped one in its own words."""
    return {
        recipe: load_recipe(recipe).description
        if recipe in recipe_names()
        else _description(records.of(recipe)[0])
        for recipe in records.recipes
    }


def configurations(records: StudyRecords) -> dict[str, dict[str, object]]:
    """Return the resolved sections that all arms of a recipe share."""
    parts = ("model", "adapter", "data", "training", "evaluation")
    return {
        recipe: {part: records.of(recipe)[0].config["recipe"][part] for part in parts}
        for recipe in records.recipes
    }


def _all_runs(records: StudyRecords) -> tuple[RunRecord, ...]:
    return (*records.runs, *records.claim_runs)


def _n_seeds(records: StudyRecords, recipe: str) -> int:
    return len({run.seed for run in records.of(recipe) if run.arm != UNTRAINED})


ANALYSIS = ("primary_metrics", "secondary_metrics", "sesoi")
"""What a plan keeps of a recipe; an older one has no such metrics to repeat."""


def _commands_of(records: StudyRecords, recipe: str) -> list[tuple[str, str, str]]:
    """List (command, recipe as it is named, other options) of what made a recipe's records."""
    shared = records.of(recipe)[0].config["recipe"]
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    searches = [search for search in records.searches if search.recipe == recipe]
    if searches:
        trials = max(len(search.trials) for search in searches)
        seed, searched = searches[0].config["seed"], searches[0].config["recipe"]
        spaces = {search.arm: search.config["recipe"]["search"]["space"] for search in searches}
        told = {**searched["search"], "space": spaces}
        if _published_as_shipped(recipe, searches):
            del told["published"]
        searched = {**searched, "search": told}
        found.append(("search", f" --trials {trials}{_seed(seed)}", searched))
    seeds = sorted({run.seed for run in records.of(recipe) if run.arm != UNTRAINED})
    if seeds:
        n, seed = len(seeds), study_seed(seeds[0])
        plan: Mapping[str, Any] = records.plans[recipe]
        used = {
            **shared,
            "analysis": {name: plan[name] for name in ANALYSIS if name in plan},
            "arms": {
                run.arm: run.config["settings"]
                for run in records.of(recipe)
                if run.arm != UNTRAINED and not run.record["tuned"]
            },
        }
        found.append(("compare", f" --seeds {n}{_seed(seed)}", used))
    seeds = sorted({run.seed for run in records.claim_runs if run.recipe == recipe})
    if seeds:
        n, seed = len(seeds), study_seed(seeds[0])
        found.append(("claims", f" --seeds {n}{_seed(seed)}", shared))
    if recipe in records.ladders:
        ladder = records.ladders[recipe]
        n, seed = len(ladder["seeds"]), study_seed(ladder["seeds"][0])
        found.append((f"{REPRODUCE} {ladder['article']}", f" --seeds {n}{_seed(seed)}", shared))
    said = [
        (part, *_asked(records, recipe, part.partition(" ")[0], used), options)
        for part, options, used in found
    ]
    return [(part, named, options + overrides) for part, named, overrides, options in said]


def _published_as_shipped(recipe: str, searches: Sequence[SearchRecord]) -> bool:
    """Tell whether every search tried the published settings that its shipped recipe has."""
    if recipe not in recipe_names():
        return False
    shipped = load_recipe(recipe)
    return all(
        search.arm in shipped.search.space
        and search.config["recipe"]["search"]["published"]
        == [to_dict(one) for one in published_of(shipped, search.arm)]
        for search in searches
    )


def _seed(seed: int) -> str:
    return f" --seed {seed}" if seed else ""


def _asked(
    records: StudyRecords, recipe: str, part: str, used: Mapping[str, Any]
) -> tuple[str, str]:
    """Return a recipe's name or file, and ``--set`` for every field that was set over it."""
    asked = records.asked.get((recipe, part))
    if asked is not None:
        return asked["file"], _set(asked["set"])
    if recipe in recipe_names():
        return recipe, _set(_changed(to_dict(load_recipe(recipe)), used))
    return f"{recipe}.toml", ""  # records of a file, older than what they now keep


def _set(assignments: Sequence[str]) -> str:
    return "".join(f" --set {shlex.quote(assignment)}" for assignment in assignments)


def _changed(shipped: Mapping[str, Any], used: Mapping[str, Any], path: str = "") -> list[str]:
    """List assignments that turn the shipped fields into those that were used."""
    assignments = []
    for name, value in used.items():
        if isinstance(value, Mapping) and isinstance(shipped.get(name), Mapping):
            assignments += _changed(shipped[name], value, f"{path}{name}.")
        elif shipped.get(name) != value:
            text = value if isinstance(value, str) else _toml(value)
            assignments.append(f"{path}{name}={text}")
    return assignments


def _toml(value: Any) -> str:
    """Write plain data as one line of TOML."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name} = {_toml(item)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_toml, value))}]"
    return json.dumps(value)


def _description(run: RunRecord) -> str:
    recipe = run.config["recipe"]
    return f"{recipe['model']['name']} on {recipe['data']['name']}"
