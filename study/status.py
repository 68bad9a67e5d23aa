"""What is finished, running, failed, interrupted and missing below a folder of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.compare import lock_path
from study.locks import is_held
from study.orphans import has_worker
from study.records import (
    BEST,
    CONFIG,
    TRIALS,
    RunFolder,
    compare_folders,
    read_json,
    read_jsonl,
    recipes_in,
    run_folder,
    search_faults,
    search_folder,
)

Row = dict[str, Any]


def status(runs: Path, recipes: Sequence[str] = ()) -> list[Row]:
    """List every search and run below ``runs``, one row each.

    A search counts its finished trials. A seed that one trained arm has and
    another lacks is listed as missing.

    Args:
        runs: folder of all records.
        recipes: names to list; none means all that have records.
    """
    names = list(recipes) or recipes_in(runs)
    return [row for name in names for row in (*_searches(runs, name), *_compared(runs, name))]


def _searches(runs: Path, recipe: str) -> list[Row]:
    rows = []
    for arm in ("sft", "orpo"):
        folder = search_folder(runs, recipe, arm)
        faults = search_faults(folder)
        n_trials = 0 if faults else len(list(read_jsonl(folder / TRIALS)))
        rows.append(
            {
                "recipe": recipe,
                "part": "search",
                "arm": arm,
                "seed": None,
                "state": _search_state(folder, n_trials),
                "detail": faults[0] if faults else f"{n_trials} finished trials" * bool(n_trials),
            }
        )
    return rows


def _search_state(folder: Path, n_trials: int) -> str:
    if has_worker(folder):
        return "running"
    if search_faults(folder):
        return "damaged"
    best = read_json(folder / BEST)
    if best is not None and best["n_trials"] == n_trials:
        return "finished"
    return "interrupted" if (folder / CONFIG).exists() else "missing"


def _compared(runs: Path, recipe: str) -> list[Row]:
    found = {(arm, seed): folder for arm, seed, folder in compare_folders(runs, recipe)}
    seeds: list[int | None] = [*sorted({seed for arm, seed in found if arm != "base"})] or [None]
    arms = dict.fromkeys(("sft", "orpo", *(arm for arm, _ in found if arm != "base")))
    wanted = [("base", 0), *((arm, seed) for arm in arms for seed in seeds)]
    return [
        {
            "recipe": recipe,
            "part": "compare",
            "arm": arm,
            "seed": seed,
            **_run(None if seed is None else run_folder(runs, recipe, arm, seed)),
        }
        for arm, seed in wanted
    ]


def _run(folder: RunFolder | None) -> Row:
    if folder is None:
        return {"state": "missing", "detail": "no seed was begun"}
    return {"state": _run_state(folder), "detail": _run_detail(folder)}


def _run_state(folder: RunFolder) -> str:
    if is_held(lock_path(folder)):
        return "running"
    state = folder.status()
    names = {"ok": "finished", "diverged": "failed", "unfinished": "interrupted"}
    return names.get(state, state)


def _run_detail(folder: RunFolder) -> str:
    if faults := folder.faults():
        return faults[0]
    record = folder.record()
    if record is None:
        return ""
    if record["divergence"] is not None:
        return f"diverged at step {record['divergence']['step']}"
    return "" if record["tuned"] or record["arm"] == "base" else "untuned"
