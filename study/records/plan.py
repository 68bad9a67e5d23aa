"""The plan of a comparison: how it will be judged, written before its first run.

Which metric decides, from which effect on a difference matters and whether
runs are compared seed by seed must not depend on the scores. What is changed
later is kept beside what was first written, with the number of runs that had
finished by then: amendments below ``amended``, all else that was done after a look
below ``history``. Both outlive ``--fresh``.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.arms import Settings
from study.config.canonical import to_dict
from study.config.claims import load_claims
from study.config.recipe import Recipe
from study.config.seeds import SEARCH_BASE, compare_seeds
from study.records.files import read_json, write_sealed
from study.records.layout import RECORD, claims_path, plan_path
from study.records.locks import hold
from study.records.runs import RunFolder, claim_folders, compare_folders
from study.records.schema import SCHEMA

SEEDS_TO_PAIR = 5
"""From so many seeds on, runs are compared seed by seed: with fewer, pairing
costs more degrees of freedom than it gains."""


def seeds_of(runs: Path, recipe: str, *, seed: int, n: int) -> list[int]:
    """Return the seeds of a recipe's comparison and claims, which no other recipe has.

    Records that were begun when all recipes shared their seeds go on with those.
    """
    plans = [read_json(path(runs, recipe)) for path in (plan_path, claims_path)]
    planned = [known for plan in plans if plan for known in plan["seeds"]]
    is_shared = any(known < SEARCH_BASE for known in planned)
    return compare_seeds(seed, n, recipe="" if is_shared else recipe)


def write_plan(
    runs: Path, recipe: Recipe, *, seeds: Sequence[int], arms: dict[str, Settings]
) -> dict[str, Any]:
    """Write a comparison's ``config.json``, or amend it, and return it.

    Seeds are only ever added: runs that were planned stay planned.

    Args:
        runs: folder of all records.
        recipe: what is compared, and in ``analysis`` how it is judged.
        seeds: seeds of every trained arm.
        arms: arm -> settings that its runs are trained with.
    """
    plan = {
        **to_dict(recipe)["analysis"],
        "arms": {arm: dict(settings) for arm, settings in arms.items()},
    }
    return write_amended(
        plan_path(runs, recipe.name), plan, seeds=seeds, runs=compare_folders(runs, recipe.name)
    )


def write_amended(
    path: Path,
    plan: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    runs: Sequence[tuple[str, int, RunFolder]],
) -> dict[str, Any]:
    """Write a plan, keep what it was before below ``amended``, and return it.

    Two commands that plan at the same time take turns, so that neither loses
    the other's seeds.

    Args:
        path: file of the plan; left alone where it holds the same.
        plan: what is planned beside the seeds.
        seeds: seeds to plan for, beside those that are planned already.
        runs: the runs that the plan is for; the finished ones are counted.
    """
    earlier = read_json(path)
    if earlier is not None and _is_same(earlier, _with_seeds(plan, seeds, earlier)):
        return earlier
    with hold(path.with_name(f".{path.name}.lock"), wait=True):
        earlier = read_json(path)
        wanted = _with_seeds(plan, seeds, earlier)
        if earlier is not None and _is_same(earlier, wanted):
            return earlier
        past, events = _set_aside_before(path) if earlier is None else ([], [])
        if earlier is not None:
            n_finished = sum(folder.is_finished() for _, _, folder in runs)
            past = [*earlier["amended"], _as_past(earlier, n_finished)]
            events = earlier.get("history", [])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        written = {**wanted, "written_at": now, "amended": past, "history": events}
        write_sealed(path, written)
        return written


def note(runs: Path, recipe: str, what: str) -> bool:
    """Add to a plan's history what was done; False where there is no plan yet.

    Args:
        runs: folder of all records.
        recipe: whose comparison it concerns.
        what: one sentence without its full stop.
    """
    path = plan_path(runs, recipe)
    if not path.exists():
        return False
    with hold(path.with_name(f".{path.name}.lock"), wait=True):
        plan = read_json(path)
        assert plan is not None
        n_finished = sum(folder.is_finished() for _, _, folder in compare_folders(runs, recipe))
        events = [*plan.get("history", []), _event(what, n_finished)]
        write_sealed(path, {**plan, "history": events})
    return True


def _event(what: str, n_finished: int) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": now, "what": what, "finished_runs": n_finished}


def _as_past(plan: Mapping[str, Any], n_finished: int) -> dict[str, Any]:
    """Return a plan as it is kept once another has taken its place."""
    kept = {name: value for name, value in plan.items() if name not in ("amended", "history")}
    return {**kept, "finished_runs": n_finished}


def _set_aside_before(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the past and the history of the newest plan that ``--fresh`` set aside."""
    folder = path.parent
    for old in sorted(folder.parent.glob(f"{folder.name}.old-*"), reverse=True):
        plan = read_json(old / path.name)
        n_finished = sum(1 for _ in old.glob(f"*/*/{RECORD}"))
        if plan is not None and n_finished:
            what = f"finished runs ({folder.name}) were set aside and begun again"
            events = [*plan.get("history", []), _event(what, n_finished)]
            return [*plan["amended"], _as_past(plan, n_finished)], events
    return [], []


def _with_seeds(
    plan: Mapping[str, Any], seeds: Sequence[int], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    planned = sorted({*seeds, *(earlier["seeds"] if earlier else ())})
    return {
        "schema": SCHEMA,
        "seeds": planned,
        "paired": len(planned) >= SEEDS_TO_PAIR,
        **plan,
    }


def _is_same(earlier: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    return plan == {name: earlier.get(name) for name in plan}


def register(runs: Path, recipe: Recipe, *, seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Write the claims beside a recipe's records, or amend them, and return them.

    Args:
        runs: folder of all records.
        recipe: whose records will decide the claims.
        seeds: seeds of every setting; those of earlier calls stay planned.
    """
    registry = load_claims()
    name, scale = registry.scale_of(recipe)
    tree = to_dict(registry.within(recipe))
    plan = {
        "scale": name,
        "chosen": scale.chosen,
        "settings": tree["scales"][name]["settings"],
        "early": tree["early"],
        "costs": tree["costs"],
        "claims": tree["claims"],
    }
    folders = [*compare_folders(runs, recipe.name), *claim_folders(runs, recipe.name)]
    return write_amended(claims_path(runs, recipe.name), plan, seeds=seeds, runs=folders)
