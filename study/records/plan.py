"""The plan of a comparison: how it will be judged, written before its first run.

Which metric decides, from which effect on a difference matters and whether
runs are compared seed by seed must not depend on the scores. What is changed
later is kept beside what was first written, with the number of runs that had
finished by then.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.arms import Settings
from study.config.canonical import to_dict
from study.config.claims import load_claims
from study.config.recipe import Recipe
from study.records.files import read_json, write_sealed
from study.records.layout import claims_path, plan_path
from study.records.locks import hold
from study.records.runs import RunFolder, claim_folders, compare_folders
from study.records.schema import SCHEMA

SEEDS_TO_PAIR = 5
"""From so many seeds on, runs are compared seed by seed: with fewer, pairing
costs more degrees of freedom than it gains."""


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
        past = []
        if earlier is not None:
            n_finished = sum(folder.is_finished() for _, _, folder in runs)
            kept = {name: value for name, value in earlier.items() if name != "amended"}
            past = [*earlier["amended"], {**kept, "finished_runs": n_finished}]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        written = {**wanted, "written_at": now, "amended": past}
        write_sealed(path, written)
        return written


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
    tree = to_dict(registry)
    plan = {
        "scale": name,
        "chosen": scale.chosen,
        "settings": tree["scales"][name]["settings"],
        "early": tree["early"],
        "claims": tree["claims"],
    }
    folders = [*compare_folders(runs, recipe.name), *claim_folders(runs, recipe.name)]
    return write_amended(claims_path(runs, recipe.name), plan, seeds=seeds, runs=folders)
