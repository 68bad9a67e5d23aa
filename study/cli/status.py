"""What is finished, running, queued, failed, interrupted and missing below a folder of runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from study.arms import ARMS, UNTRAINED, arms_in_order
from study.config.files import recipe_names
from study.config.recipe import load_recipe
from study.errors import RecordError, UnreadableError
from study.records.files import checksum, read_jsonl
from study.records.layout import (
    BENCHMARKS,
    BEST,
    CONFIG,
    JUDGED,
    REPRODUCE,
    TRIALS,
    claims_path,
    ladder_path,
    plan_path,
    recipes_in,
    search_folder,
)
from study.records.locks import Lease, is_held, leases
from study.records.released import BenchmarkScores, JudgedAnswers, Release
from study.records.runs import (
    Look,
    RunFolder,
    claim_folders,
    compare_folders,
    lock_path,
    reproduce_folders,
    run_folder,
    set_up_folder,
    setting_folder,
)
from study.records.schema import Best, ClaimsPlan, LadderPlan, Plan, read_as
from study.records.searches import search_faults, searched_arms
from study.records.sharing import WORKER, in_use, planned
from study.workers import slurm

Row = dict[str, Any]
T = TypeVar("T")


def status(runs: Path, recipes: Sequence[str] = ()) -> list[Row]:
    """List every search and run below ``runs``, one row each.

    A search counts its finished trials. What a living command will come to is
    queued. A seed that one trained arm has and another lacks is missing, and so
    is one that the claims' plan names.

    Args:
        runs: folder of all records.
        recipes: names to list; none means all that have records, or will soon.
    """
    names = list(recipes) or sorted({*recipes_in(runs), *in_use(runs)})
    jobs = [row for row in slurm.tasks(runs) if {*names} & {*row["recipe"].split()} or not recipes]
    return jobs + [
        row
        for name in names
        for arms in [_trained_arms(runs, name)]
        for row in (
            *_searches(runs, name, arms),
            *_compared(runs, name, arms),
            *_claimed(runs, name),
            *_reproduced(runs, name),
            *_benchmarked(runs, name),
            *_judged(runs, name),
            *_released(runs, name),
        )
    ]


def _searches(runs: Path, recipe: str, arms: Sequence[str]) -> list[Row]:
    rows = []
    queued = planned(runs, recipe, "search")
    for arm in arms:
        if arm in ARMS and ARMS[arm].tuned_as is not None:
            continue  # another arm's search finds its settings
        folder = search_folder(runs, recipe, arm)
        try:
            faults, flaw = search_faults(folder), "damaged"
        except UnreadableError as error:
            faults, flaw = [str(error)], "unreadable"
        n_trials = 0 if faults else len(list(read_jsonl(folder / TRIALS, growing=True)))
        workers = leases(folder, WORKER)
        rows.append(
            {
                "recipe": recipe,
                "part": "search",
                "arm": arm,
                "seed": None,
                "state": _search_state(
                    folder,
                    n_trials,
                    workers,
                    flaw=flaw if faults else "",
                    queued=(arm, None) in queued,
                ),
                "detail": faults[0] if faults else _search_detail(n_trials, workers),
            }
        )
    return rows


def _trained_arms(runs: Path, recipe: str) -> list[str]:
    """List the arms that a study trains: those of its plan, its searches and its shipped recipe."""
    try:
        plan = read_as(plan_path(runs, recipe), Plan)
    except RecordError:  # the plan's own row says so
        plan = None
    shipped = load_recipe(recipe).arms if recipe in recipe_names() else {}
    arms = (plan["arms"] if plan else None) or shipped
    return arms_in_order({*arms, *searched_arms(runs, recipe)} - {UNTRAINED})


def _search_state(
    folder: Path, n_trials: int, workers: Sequence[Lease], *, flaw: str, queued: bool
) -> str:
    if any(worker.held for worker in workers):
        return "running"
    if flaw:
        return flaw
    best = read_as(folder / BEST, Best)
    if best is not None and best["n_trials"] == n_trials:
        return "finished"
    if queued:
        return "queued"
    return "interrupted" if (folder / CONFIG).exists() else "missing"


def _search_detail(n_trials: int, workers: Sequence[Lease]) -> str:
    alive = [worker.content["trials"] for worker in workers if worker.held]
    n_dead = len(workers) - len(alive)
    of = f" of {max(alive)}" if alive else ""
    parts = [f"{n_trials}{of} finished trials"] if n_trials or alive else []
    if alive and n_trials >= max(alive):
        parts.append("repeating the best")
    if n_dead:
        parts.append(f"{n_dead} killed while running, tried again at the next start")
    return ", ".join(parts)


def _compared(runs: Path, recipe: str, trained: Sequence[str]) -> list[Row]:
    found = {(arm, seed): folder for arm, seed, folder in compare_folders(runs, recipe)}
    queued = planned(runs, recipe, "compare")
    known = {*found, *queued}
    seeds: list[int | None] = [
        *sorted({s for arm, s in known if arm != UNTRAINED and s is not None})
    ]
    arms = arms_in_order({*trained, *(arm for arm, _ in known)} - {UNTRAINED})
    wanted = [(UNTRAINED, 0), *((arm, seed) for arm in arms for seed in seeds or [None])]
    return [
        {
            "recipe": recipe,
            "part": "compare",
            "arm": arm,
            "seed": seed,
            **_run(
                None if seed is None else run_folder(runs, recipe, arm, seed),
                queued=(arm, seed) in queued,
            ),
        }
        for arm, seed in wanted
    ]


def _claimed(runs: Path, recipe: str) -> list[Row]:
    """List the runs that decide claims; the setting stands in the arm's place."""
    plan, rows = _plan_of(claims_path(runs, recipe), ClaimsPlan, recipe, "claims")
    wanted = [(name, seed) for name in plan["settings"] for seed in plan["seeds"]] if plan else []
    begun, folder_of = claim_folders(runs, recipe), setting_folder
    return [
        *rows,
        *_named(runs, recipe, "claims", wanted=wanted, begun=begun, folder_of=folder_of),
    ]


def _reproduced(runs: Path, recipe: str) -> list[Row]:
    """List the runs of a reproduction; the set-up stands in the arm's place."""
    plan, rows = _plan_of(ladder_path(runs, recipe), LadderPlan, recipe, REPRODUCE)
    wanted = [(name, seed) for name in plan["set_ups"] for seed in plan["seeds"]] if plan else []
    begun, folder_of = reproduce_folders(runs, recipe), set_up_folder
    return [
        *rows,
        *_named(runs, recipe, REPRODUCE, wanted=wanted, begun=begun, folder_of=folder_of),
    ]


def _plan_of(path: Path, kind: type[T], recipe: str, part: str) -> tuple[T | None, list[Row]]:
    """Read what is planned, or else say in a row why it cannot be read."""
    try:
        return read_as(path, kind), []
    except RecordError as error:
        found = {"state": "damaged", "detail": str(error)}
        return None, [{"recipe": recipe, "part": part, "arm": "plan", "seed": None, **found}]


def _named(
    runs: Path,
    recipe: str,
    part: str,
    *,
    wanted: Sequence[tuple[str, int]],
    begun: Sequence[tuple[str, int, RunFolder]],
    folder_of: Callable[[Path, str, str, int], RunFolder],
) -> list[Row]:
    """List planned and begun runs that lie by a name of their own; all are untuned."""
    queued = planned(runs, recipe, part)
    rows: list[Row] = []
    for name, seed in dict.fromkeys((*wanted, *((name, seed) for name, seed, _ in begun))):
        state = _run(folder_of(runs, recipe, name, seed), queued=(name, seed) in queued)
        detail = state["detail"].replace("untuned", "")
        about = {"recipe": recipe, "part": part, "arm": name, "seed": seed}
        rows.append(about | state | {"detail": detail})
    return rows


def _benchmarked(runs: Path, recipe: str) -> list[Row]:
    """List which runs were scored on benchmarks, and on how many tasks."""
    rows = []
    for arm, seed, folder in compare_folders(runs, recipe):
        for form in sorted((folder.path / BENCHMARKS).glob("*")):
            paths = sorted(form.glob("*.json"))
            try:
                found = [read_as(path, BenchmarkScores) for path in paths]
                n_items = sum(len(one["items"]) for one in found if one is not None)
                tasks = "1 task" if len(paths) == 1 else f"{len(paths)} tasks"
                state, detail = "finished", f"{form.name}: {tasks}, {n_items} items"
            except RecordError as error:
                state, detail = "damaged", str(error)
            about = {"recipe": recipe, "part": "benchmark", "arm": arm, "seed": seed}
            rows.append({**about, "state": state, "detail": detail})
    return rows


def _judged(runs: Path, recipe: str) -> list[Row]:
    """List which runs' answers were judged, and by whom."""
    rows = []
    for arm, seed, folder in compare_folders(runs, recipe):
        for path in sorted((folder.path / JUDGED).glob("*.json")):
            about = {"recipe": recipe, "part": "judge", "arm": arm, "seed": seed}
            try:
                found = read_as(path, JudgedAnswers)
                assert found is not None
                verdicts = found["verdicts"]
                n_missing = sum(verdicts["missing"].values())
                detail = f"{path.stem}: {len(verdicts['items'])} answers"
                detail += f", {n_missing} without a verdict" if n_missing else ""
                state = "finished"
            except RecordError as error:
                state, detail = "damaged", str(error)
            rows.append({**about, "state": state, "detail": detail})
    return rows


def _released(runs: Path, recipe: str) -> list[Row]:
    """List what was exported; a folder that was moved or changed since is damaged."""
    rows = []
    for path in sorted((runs / recipe / "release").glob("*/seed-*/*.json")):
        state, detail = "finished", ""
        try:
            record = read_as(path, Release)
            assert record is not None
            folder = Path(record["folder"])
            where = f", pushed to {record['pushed']}" if record["pushed"] else ""
            forced = ", forced" if record["forced"] else ""
            detail = f"{record['form']}{forced}, in {folder}{where}"
            changed = [
                name
                for name, expected in record["files"].items()
                if not (folder / name).is_file() or checksum(folder / name) != expected
            ]
            if changed:
                state, detail = "damaged", f"{folder / changed[0]} was changed or is gone"
        except (RecordError, OSError) as error:
            state, detail = "damaged", str(error)
        arm, seed = path.parent.parent.name, int(path.parent.name.removeprefix("seed-"))
        rows.append(
            {
                "recipe": recipe,
                "part": "release",
                "arm": arm,
                "seed": seed,
                "state": state,
                "detail": detail,
            }
        )
    return rows


def _run(folder: RunFolder | None, *, queued: bool) -> Row:
    if folder is None:
        return {"state": "missing", "detail": "no seed was begun"}
    running = is_held(lock_path(folder))
    look = folder.look()
    return {"state": "running" if running else _state(look, queued=queued), "detail": _detail(look)}


def _state(look: Look, *, queued: bool) -> str:
    if queued and look.status in ("missing", "unfinished", "damaged"):
        return "queued"
    names = {"ok": "finished", "diverged": "failed", "unfinished": "interrupted"}
    return names.get(look.status, look.status)


def _detail(look: Look) -> str:
    if look.faults:
        return look.faults[0]
    record = look.record
    if record is None:
        return ""
    if record["divergence"] is not None:
        return f"diverged at step {record['divergence']['step']}"
    return "" if record["tuned"] or record["arm"] == UNTRAINED else "untuned"
