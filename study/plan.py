"""The plan of a comparison: how it will be judged, written before its first run.

Which metric decides, from which effect on a difference matters and whether
runs are compared seed by seed must not depend on the scores. What is changed
later is kept beside what was first written, with the number of runs that had
finished by then.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.config import SCHEMA, Recipe, Settings, to_dict
from study.records import compare_folders, plan_path, read_json, write_sealed

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
    path = plan_path(runs, recipe.name)
    earlier = read_json(path)
    planned = sorted({*seeds, *(earlier["seeds"] if earlier else ())})
    plan: dict[str, Any] = {
        "schema": SCHEMA,
        **to_dict(recipe)["analysis"],
        "seeds": planned,
        "paired": len(planned) >= SEEDS_TO_PAIR,
        "arms": {arm: dict(settings) for arm, settings in arms.items()},
    }
    finished = sum(
        f.status() in ("ok", "diverged") for _, _, f in compare_folders(runs, recipe.name)
    )
    return write_amended(path, plan, n_finished=finished)


def write_amended(path: Path, plan: dict[str, Any], *, n_finished: int) -> dict[str, Any]:
    """Write a plan, keep what it was before below ``amended``, and return it.

    Args:
        path: file of the plan; left alone where it holds the same.
        plan: what is planned.
        n_finished: runs that had finished under the earlier plan.
    """
    earlier = read_json(path)
    if earlier is not None and plan == {name: earlier.get(name) for name in plan}:
        return earlier
    past = []
    if earlier is not None:
        kept = {name: value for name, value in earlier.items() if name != "amended"}
        past = [*earlier["amended"], {**kept, "finished_runs": n_finished}]
    written = {
        **plan,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "amended": past,
    }
    write_sealed(path, written)
    return written
