"""One run: train an arm with a seed, score it, leave its record."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.arms import ARMS, UNTRAINED
from study.config.training import own_training
from study.model.jobs import Elsewhere, Job, Report, do, resolved_facts
from study.records.files import write_jsonl
from study.records.folders import check_folder, claim_resolved, facts_of
from study.records.layout import STEPS
from study.records.locks import hold, is_held
from study.records.processes import agree, is_main
from study.records.runs import compare_folders, lock_path
from study.records.sharing import present
from study.run.begin import begin, progress_of
from study.run.planned import PlannedRun, Start, record_of
from study.run.start import find_start, whole_start

if TYPE_CHECKING:
    from study.model.workbench import Workbench
    from study.run.watch import Outcome

log = logging.getLogger(__name__)


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
    missing.sort(key=lambda run: list(ARMS).index(run.arm), reverse=True)  # longest first
    with present(runs, command, [(run.study, run.part, run.seed) for run in missing]):
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


def make_run(workbench: "Workbench | Elsewhere", report: Report, *, run: PlannedRun) -> None:
    """Train, score and record one run; nothing where another process makes it."""
    with hold(lock_path(run.folder)) if is_main() else nullcontext(True) as free:
        if agree(free and (not is_main() or _begin(workbench, run))):
            start = find_start(workbench, report, start=run.start, seed=run.seed)
            start = start or whole_start(run)
            do(workbench, carry_out, writes=run.folder.path, report=report, run=run, start=start)


def carry_out(workbench: "Workbench", report: Report, run: PlannedRun, start: Start | None) -> None:
    """Make a run whose folder is this process's alone."""
    from study.run.trained import forget_trained, keep_trained, recall_trained

    outcome = recall_trained(workbench, run.folder.path, seed=run.seed)
    if outcome is None:
        outcome = _train(workbench, report, run, start)
        if is_main() and run.arm != UNTRAINED and outcome.status == "ok":
            keep_trained(run.folder.path, outcome)  # scoring may fail
    if not (is_main() or workbench.base.is_shared):
        return  # else all processes score together, because each has a part of the base
    report(1, 1, "scoring held-out pairs")
    began = time.perf_counter()
    scores = _scores(workbench, run, outcome)
    cost = {**outcome.cost, "evaluate_s": round(time.perf_counter() - began, 3)}
    if is_main():
        _discard_checkpoints(run)
        run.folder.finish(record_of(workbench, run, outcome, scores, cost))
        forget_trained(run.folder.path)


def _begin(workbench: "Workbench | Elsewhere", run: PlannedRun) -> bool:
    """Claim a run's folder, if its comparison is of the same model and data."""
    return begin(
        run,
        faults=run.folder.unusable(),
        warn=log.warning,
        check=lambda: claim_resolved(
            run.alike, resolved_facts(workbench), lambda: _facts_of_others(run)
        ),
    )


def _facts_of_others(run: PlannedRun) -> list[dict[str, Any]]:
    """Return the facts of the finished runs of a comparison; a ladder's runs say their own."""
    if run.published is not None:
        return []
    folders = compare_folders(run.alike.parent.parent, run.alike.parent.name)
    records = [folder.record() for _, _, folder in folders if not folder.faults()]
    return [
        facts_of(record["model"], record["data"], record["device"])
        for record in records
        if record is not None
    ]


def _faults(run: PlannedRun) -> list[str]:
    """Say what is damaged in a run that nobody is making."""
    return [] if is_held(lock_path(run.folder)) else run.folder.faults()


def _job(run: PlannedRun) -> Job:
    return Job(name=run.name, recipe=run.recipe, kind="study.run.make:make_run", given={"run": run})


def _train(
    workbench: "Workbench", report: Report, run: PlannedRun, start: Start | None
) -> "Outcome":
    from study.run.budget import budget_of
    from study.run.train import train_run

    if run.arm == UNTRAINED:
        return _untrained(workbench, run)

    training, _ = budget_of(workbench, arm=run.arm, seed=run.seed)
    max_steps = own_training(training, run.arm).max_steps

    return train_run(
        workbench,
        arm=run.arm,
        settings=run.settings,
        seed=run.seed,
        folder=run.folder.path,
        on_validation=progress_of(report, max_steps),
        start=start,
    )


def _untrained(workbench: "Workbench", run: PlannedRun) -> "Outcome":
    """Leave the base with a fresh adapter, which changes none of its outputs."""
    from study.model.adapter import fresh_adapter
    from study.run.memory import peak_memory_bytes, reset_peak_memory
    from study.run.scores import initial_validation
    from study.run.watch import Outcome

    reset_peak_memory(workbench.device)
    fresh_adapter(workbench.base, run.recipe.adapter, seed=run.seed)
    scores = initial_validation(workbench)
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
    from study.run.checkpoints import discard_checkpoints

    discard_checkpoints(run.folder.path)


def _scores(workbench: "Workbench", run: PlannedRun, outcome: "Outcome") -> Mapping[str, float]:
    """Score a run on the held-out pairs; nothing where it diverged."""
    from study.run.evaluate import evaluate_run
    from study.run.published import answer_as_published

    if outcome.status == "diverged":
        return {}
    try:
        folder = run.folder.path if is_main() else None
        scores = evaluate_run(workbench, folder=folder)
        if run.published is not None:
            answer_as_published(workbench, run.published.answers, seed=run.seed, folder=folder)
    except Exception as error:
        if run.arm != UNTRAINED:
            error.add_note(f"the training of {run.name} is kept: the same command only scores it")
        raise
    return scores
