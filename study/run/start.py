"""The start of a run: another arm trained with its seed, made once and continued by many.

It is named by all that it depends on, and stands beside searches and comparisons:
runs of several arms, trials and processes that need the same start share it. The
first one that needs it makes it, the others wait; what was damaged is made again.
"""

import copy
import dataclasses
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from study.config.canonical import digest
from study.errors import RecordError
from study.model.jobs import Elsewhere, Report, do, resolved_facts
from study.records.layout import ADAPTER
from study.records.locks import hold
from study.records.processes import agree, is_main
from study.records.runs import RunFolder, lock_path, start_folder
from study.run.begin import begin, progress_of
from study.run.planned import PlannedRun, PlannedStart, Start, record_of

if TYPE_CHECKING:
    from study.model.workbench import Workbench

log = logging.getLogger(__name__)


def find_start(
    workbench: "Workbench | Elsewhere",
    report: Report,
    *,
    start: PlannedStart | None,
    seed: int,
) -> Start | None:
    """Return the start of a seed, made if need be; None for a run that continues nothing.

    The base is left with whatever adapter it had last.
    """
    if start is None:
        return None
    first = copy.copy(workbench)
    first.recipe = dataclasses.replace(
        workbench.recipe, training=workbench.recipe.training.first_stage()
    )
    run = plan_start(first, start, seed=seed)
    with hold(lock_path(run.folder), wait=True) if is_main() else nullcontext():
        if agree(is_main() and begin(run, faults=_faults(run.folder), warn=log.warning)):
            do(workbench, make_start, writes=run.folder.path, report=report, run=run)
    agree(True)  # the first process has written the record
    record = run.folder.record()
    assert record is not None
    return Start(folder=run.folder, record=record)


def whole_start(run: PlannedRun) -> Start | None:
    """Return the finished run of a ladder that another one continues, if it continues one.

    Raises:
        RecordError: it has not ended, or its weights are gone.
    """
    after = None if run.published is None else run.published.after
    if after is None:
        return None
    record = after.folder.record()
    if record is None or (record["status"] == "ok" and not (after.folder.path / ADAPTER).is_dir()):
        raise RecordError(
            f"{run.name} continues {after.name}, whose weights are not in {after.folder.path}; "
            "restore them, or set the old records aside with --fresh"
        )
    from study.model.adapter import scaling_of

    own, theirs = (scaling_of(one.recipe.adapter) for one in (run, after))
    return Start(folder=after.folder, record=record, scale=theirs / own)


def plan_start(workbench: "Workbench | Elsewhere", start: PlannedStart, *, seed: int) -> PlannedRun:
    """Name the run that makes a start; the workbench's recipe is that of the first stage."""
    recipe, facts = workbench.recipe, resolved_facts(workbench)
    unnamed = PlannedRun(
        recipe=recipe,
        arm=start.arm,
        settings=start.settings,
        seed=seed,
        tuned=start.tuned,
        folder=start_folder(start.runs, recipe.name, ""),
        facts=facts,
    )
    folder = start_folder(start.runs, recipe.name, digest(unnamed.config))
    return dataclasses.replace(unnamed, folder=folder)


def _faults(folder: RunFolder) -> list[str]:
    """Say what of a start is damaged; unlike other runs it cannot do without its weights."""
    if faults := folder.unusable():
        return faults
    record = folder.record()
    lost = record is not None and record["status"] == "ok" and not (folder.path / ADAPTER).is_dir()
    return [f"{ADAPTER} is missing"] if lost else []


def make_start(workbench: "Workbench", report: Report, run: PlannedRun) -> None:
    """Train a start, from where it was interrupted if it was, and leave its record."""
    from study.run.checkpoints import discard_checkpoints
    from study.run.train import train_run

    workbench = copy.copy(workbench)
    workbench.recipe = run.recipe
    outcome = train_run(
        workbench,
        arm=run.arm,
        settings=run.settings,
        seed=run.seed,
        folder=run.folder.path,
        on_validation=progress_of(
            report,
            workbench.recipe.training.max_steps,
            what=f"{run.arm} to continue from, ",
            counted=False,
        ),
    )
    if is_main():
        discard_checkpoints(run.folder.path)
        ended = outcome.status == "ok"
        scores = _last_validation(run.folder) if ended else {}
        run.folder.finish(record_of(workbench, run, outcome, scores, outcome.cost))


def _last_validation(folder: RunFolder) -> Mapping[str, float]:
    """Return a start's last validation scores; its record has them in place of test scores.

    They are read from the log, so that a start interrupted after its last update is not
    scored again.

    Raises:
        RecordError: none were logged.
    """
    rows = [row for row in folder.steps() if row["split"] == "validation"]
    if not rows:
        raise RecordError(f"{folder.path} logged no validation; set it aside and start again")
    return {name: rows[-1][name] for name in rows[-1] if name not in ("split", "step")}
