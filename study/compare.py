"""Compare the arms: every arm and seed under the same budget, on unseen pairs.

The experiment is ``make_run``: the arms share model, data, batches, optimiser,
schedule and number of updates, and differ in the loss and its settings alone.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.claims import register
from study.config import (
    ARM_SETTINGS,
    SCHEMA,
    Recipe,
    Settings,
    differences,
    digest,
    run_config,
    search_config,
)
from study.environment import environment
from study.errors import RecordError
from study.jobs import Job, Report
from study.launch import agree, is_main
from study.locks import hold, is_held
from study.plan import write_plan
from study.records import (
    BEST,
    CONFIG,
    STEPS,
    RunFolder,
    check_folder,
    claim_resolved,
    compare_folders,
    read_config,
    read_json,
    run_folder,
    search_faults,
    search_folder,
    set_aside,
    write_jsonl,
)
from study.seeds import compare_seeds
from study.sharing import present

if TYPE_CHECKING:
    from study.train import Outcome
    from study.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training of one arm with one seed, and where its record goes."""

    recipe: Recipe
    arm: str
    settings: Settings
    seed: int
    tuned: bool
    """The settings come from a search, not from the recipe."""
    folder: RunFolder

    @property
    def config(self) -> dict[str, Any]:
        """The run's complete description; its digest names the run."""
        return run_config(self.recipe, arm=self.arm, settings=self.settings, seed=self.seed)

    @property
    def part(self) -> str:
        """The arm, or the name of its setting where a claim rests on the run."""
        return self.folder.path.parent.name

    @property
    def name(self) -> str:
        """Recipe, part and seed, for messages."""
        return f"{self.recipe.name}/{self.part}/seed-{self.seed}"


def compare(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    seeds: int,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Make the runs of a comparison that are missing; return all their records.

    Args:
        recipes: the studies to compare arms in.
        runs: folder of all records.
        seeds: seeds per arm; ``base`` has no random part and is run once.
        seed: the study's seed; see ``study.seeds``.
        run_jobs: runs the jobs, normally in worker processes.
        say: told what a reader must know, such as untuned settings.

    Raises:
        RecordError: a folder holds a run of another configuration, or another
            process uses it with one; nothing was trained.
    """
    plan = [
        run for recipe in recipes for run in plan_runs(recipe, runs=runs, seeds=seeds, seed=seed)
    ]
    check_plan(plan, say)
    for line in _untuned(plan):
        say(line)
    for recipe in recipes:
        mine = [run for run in plan if run.recipe is recipe]
        write_plan(
            runs,
            recipe,
            seeds=compare_seeds(seed, seeds),
            arms={run.arm: run.settings for run in mine},
        )
        register(runs, recipe)
    make_missing(plan, runs=runs, command="compare", run_jobs=run_jobs, say=say)
    records = [record for run in plan if (record := run.folder.record()) is not None]
    for line in dict.fromkeys(filter(None, map(_left_out, records))):
        say(line)
    return records


def check_plan(plan: Sequence[PlannedRun], say: Callable[[str], None]) -> None:
    """Say which runs of a plan are damaged, and refuse those of another configuration.

    Raises:
        RecordError: a folder holds a run of another configuration.
    """
    for run in plan:
        if faults := _faults(run):
            say(
                f"{run.name} is damaged and is made again; its files are kept beside it: "
                f"{faults[0]}"
            )
        else:
            check_folder(run.folder.path, run.config)


def make_missing(
    plan: Sequence[PlannedRun],
    *,
    runs: Path,
    command: str,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    say: Callable[[str], None],
) -> None:
    """Make the runs of a plan that no process has finished or is making."""
    wanted = agree([run.name for run in plan if not run.folder.is_finished()])
    missing = [run for run in plan if run.name in wanted]
    missing.sort(key=lambda run: list(ARM_SETTINGS).index(run.arm), reverse=True)  # longest first
    with present(runs, command, [(run.recipe, run.part, run.seed) for run in missing]):
        run_jobs([_job(run) for run in missing])
        left = [run for run in missing if not run.folder.is_finished()]
        dropped = agree([run.name for run in left if not is_held(lock_path(run.folder))])
        # By another process that died meanwhile:
        run_jobs([_job(run) for run in missing if run.name in dropped])
    for run in plan:
        if run in left and not run.folder.is_finished():
            say(
                f"{run.name} is being made by another process and is not in this table; "
                "the same command shows it when it is done"
            )
        check_folder(run.folder.path, run.config)  # another study may have begun meanwhile


def plan_runs(recipe: Recipe, *, runs: Path, seeds: int, seed: int) -> list[PlannedRun]:
    """List the runs of one recipe's comparison at its frozen settings.

    Raises:
        RecordError: the settings were tuned under another configuration.
    """
    plan = []
    for arm in [arm for arm in ARM_SETTINGS if arm == "base" or arm in recipe.arms]:
        settings, tuned = arm_settings(recipe, arm, runs=runs)
        for run_seed in [0] if arm == "base" else compare_seeds(seed, seeds):
            folder = run_folder(runs, recipe.name, arm, run_seed)
            plan.append(
                PlannedRun(
                    recipe=recipe,
                    arm=arm,
                    settings=settings,
                    seed=run_seed,
                    tuned=tuned,
                    folder=folder,
                )
            )
    return plan


def arm_settings(recipe: Recipe, arm: str, *, runs: Path) -> tuple[Settings, bool]:
    """Return an arm's frozen settings and True, or else the recipe's and False.

    Raises:
        RecordError: the search was made with another model, data or budget.
    """
    folder = search_folder(runs, recipe.name, arm)
    if arm != "base" and (faults := search_faults(folder)):
        raise RecordError(f"{faults[0]}; `study search` with the same options mends it")
    best = read_json(folder / BEST)
    if arm == "base" or best is None:
        return recipe.arms.get(arm, {}), False
    _check_same_study(recipe, arm, folder)
    return best["settings"], True


def make_run(workbench: "Workbench", report: Report, *, run: PlannedRun) -> None:
    """Train, score and record one run; nothing where another process makes it."""
    with hold(lock_path(run.folder)) if is_main() else nullcontext(True) as free:
        if not agree(free and (not is_main() or _begin(workbench, run))):
            return
        outcome = _train(workbench, report, run)
        if not is_main():
            return
        report(1, 1, "scoring held-out pairs")
        began = time.perf_counter()
        scores = {} if outcome.status == "diverged" else _evaluate(workbench, run)
        cost = {**outcome.cost, "evaluate_s": round(time.perf_counter() - began, 3)}
        _discard_checkpoints(run)
        run.folder.finish(_record(workbench, run, outcome, scores, cost))


def lock_path(folder: RunFolder) -> Path:
    """Return the lock that a process holds while it makes a run.

    It stands beside the run's folder, whose files are all part of the record.
    """
    return folder.path.with_name(f".{folder.path.name}.lock")


def _begin(workbench: "Workbench", run: PlannedRun) -> bool:
    """Claim a run's folder, free of damaged records; False where it is finished."""
    if run.folder.faults() or (run.folder.record() is None and not run.folder.can_resume()):
        set_aside(run.folder.path, "damaged")
    if run.folder.record() is not None:
        return False
    comparison = run.folder.path.parent.parent
    claim_resolved(comparison, resolved_facts(workbench), _facts_of_others(comparison))
    run.folder.claim(run.config)
    return True


def resolved_facts(workbench: "Workbench") -> dict[str, Any]:
    """Return what a run depends on beyond its configuration: weights, pairs, device."""
    return _facts(workbench.base.resolved, workbench.data_summary, str(workbench.device))


def _facts(model: Any, data: Mapping[str, Any], device: str) -> dict[str, Any]:
    fingerprints = {
        name: part["fingerprint"]
        for name, part in data.items()
        if isinstance(part, Mapping) and "fingerprint" in part
    }
    kind = "cpu" if device.casefold().startswith("cpu") else "gpu"
    return {"model": dict(model), "data": fingerprints, "device": kind}


def _facts_of_others(comparison: Path) -> list[dict[str, Any]]:
    """Return the facts of the finished runs of a comparison."""
    folders = compare_folders(comparison.parent.parent, comparison.parent.name)
    records = [folder.record() for _, _, folder in folders if not folder.faults()]
    return [
        _facts(record["model"], record["data"], record["device"])
        for record in records
        if record is not None
    ]


def _left_out(record: Mapping[str, Any]) -> str:
    """Say which rows of the data a run could not use, or nothing."""
    dropped = record["data"].get("dropped", {})
    listed = ", ".join(f"{reason} {n}" for reason, n in dropped.items() if n)
    return (
        f"{record['recipe']}: rows left out of the data: {listed}; `study data check` names them"
        if listed
        else ""
    )


def _faults(run: PlannedRun) -> list[str]:
    """Say what is damaged in a run that nobody is making."""
    return [] if is_held(lock_path(run.folder)) else run.folder.faults()


def _job(run: PlannedRun) -> Job:
    return Job(
        name=run.name,
        recipe=run.recipe,
        work=functools.partial(make_run, run=run),
    )


def _train(workbench: "Workbench", report: Report, run: PlannedRun) -> "Outcome":
    from study.train import train_run

    if run.arm == "base":
        return _untrained(workbench, run)

    max_steps = run.recipe.training.max_steps

    def follow(step: int, scores: Mapping[str, float]) -> bool:
        report(step, max_steps, f"step {step}/{max_steps}, validation NLL {scores['nll']:.3f}")
        return False

    return train_run(
        workbench,
        arm=run.arm,
        settings=run.settings,
        seed=run.seed,
        folder=run.folder.path,
        on_validation=follow,
    )


def _untrained(workbench: "Workbench", run: PlannedRun) -> "Outcome":
    """Leave the base with a fresh adapter, which changes none of its outputs."""
    from study.model import fresh_adapter
    from study.train import Outcome, peak_memory_bytes, reset_peak_memory

    reset_peak_memory(workbench.device)
    fresh_adapter(workbench.base, run.recipe.adapter, seed=run.seed)
    scores = workbench.initial_validation()
    if is_main():
        write_jsonl(run.folder.path / STEPS, [{"split": "validation", "step": 0, **scores}])
    return Outcome(
        validation=scores,
        cost={
            "train_s": 0.0,
            "steps": 0,
            "train_tokens": 0,
            "peak_memory_bytes": peak_memory_bytes(workbench.device),
        },
        parameters={**workbench.base.n_parameters(), "trainable": 0},
    )


def _discard_checkpoints(run: PlannedRun) -> None:
    from study.train import discard_checkpoints

    discard_checkpoints(run.folder.path)


def _evaluate(workbench: "Workbench", run: PlannedRun) -> dict[str, float]:
    from study.evaluate import evaluate_run

    return evaluate_run(workbench, folder=run.folder.path)


def _record(
    workbench: "Workbench",
    run: PlannedRun,
    outcome: "Outcome",
    scores: Mapping[str, float],
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    config = run.config
    return {
        "schema": SCHEMA,
        "status": outcome.status,
        "digest": digest(config),
        "recipe": run.recipe.name,
        "arm": run.arm,
        "settings": config["settings"],
        "seed": run.seed,
        "tuned": run.tuned,
        "scores": dict(scores),
        "divergence": outcome.divergence,
        "data": workbench.data_summary,
        "cost": dict(cost),
        "parameters": outcome.parameters,
        "model": workbench.base.resolved,
        "out_of_memory": outcome.out_of_memory,
        **environment(str(workbench.device)),
    }


def _untuned(plan: Sequence[PlannedRun]) -> list[str]:
    """Say which arms no search has tuned, one line each."""
    pairs = dict.fromkeys(
        (run.recipe.name, run.arm) for run in plan if not run.tuned and run.arm != "base"
    )
    return [
        f"{recipe}/{arm} is untuned: no search has frozen its settings, so the recipe's own "
        "are used and recorded as untuned; run `study search` first, with the same --runs, to "
        "tune it"
        for recipe, arm in pairs
    ]


def _check_same_study(recipe: Recipe, arm: str, folder: Path) -> None:
    """Refuse settings that were tuned under another model, data or budget."""
    found = read_config(folder)
    if found is None:
        raise RecordError(f"{folder} has a {BEST} but no {CONFIG}; move it away and search again")
    wanted = search_config(recipe, arm=arm, seed=found["seed"])
    lines = [
        line
        for part, value in wanted["recipe"].items()
        if part != "search"
        for line in differences(found["recipe"][part], value, part)
    ]
    if lines:
        listed = "\n  ".join(lines)
        raise RecordError(
            f"{folder} was searched under another configuration:\n  {listed}\n"
            "give compare the same --set as search, or another --runs; nothing was changed"
        )
