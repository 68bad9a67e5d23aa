"""Let a judge compare every run's answers with the chosen ones, and keep what it said."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from study.config.canonical import digest
from study.data.pairs import fingerprint
from study.errors import RecordError
from study.records.files import write_sealed
from study.records.layout import judge_path, judged_path
from study.records.released import JudgedAnswers, JudgeRecord, Verdicts
from study.records.schema import SCHEMA, read_as
from study.release.chosen import ChosenRun
from study.release.judge.client import OverBudgetError
from study.release.judge.endpoint import FLEETING
from study.release.judge.questions import (
    Ahead,
    Judge,
    Question,
    answers_of,
    held_out,
    splits_of,
    verdicts_of,
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is on record of one judge."""

    judge: JudgeRecord
    runs: list[JudgedAnswers]


def judge_runs(
    runs: Sequence[ChosenRun],
    judge: Judge,
    *,
    limit: int | None,
    n_pairs: int,
    confirm: Callable[[Ahead], None],
    say: Callable[[str], None],
) -> Judged:
    """Judge the answers of runs of one recipe; what is judged already is kept.

    The judge's own accuracy on held-out pairs comes first: without it no win rate
    means anything.

    Args:
        runs: of one recipe.
        judge: opened, not yet asked.
        limit: answers of every run at most; None for all.
        n_pairs: held-out pairs of which it is to tell chosen from rejected.
        confirm: told what asking takes before anything is sent; raises to stop.
        say: told what is going on.

    Raises:
        OverBudgetError: the budget ended it; what is judged is kept.
    """
    recipe, folder = runs[0].recipe, runs[0].runs
    splits = splits_of(recipe)
    pairs = splits.test
    of_here = judge.trained_on == fingerprint(splits.train)
    if judge.trained_on is not None and not of_here:
        say(
            f"{judge.name} was trained on other pairs than this recipe's, perhaps on its test pairs"
        )
    own = held_out(pairs, n_pairs)
    asked = {run.name: answers_of(run, pairs, limit) for run in runs}
    known_judge = _known_judge(judge_path(folder, recipe.name, judge.slug), judge, own)
    known = {run.name: _known_run(run, judge, asked[run.name]) for run in runs}
    left = [q for run in runs if known[run.name] is None for q in asked[run.name]]
    ahead = judge.ahead([*([] if known_judge else own), *left])
    if ahead is not None and ahead.calls:
        confirm(ahead)
    n_done = 0
    try:
        record = known_judge or _ask_own(runs[0], judge, own, of_here=of_here, say=say)
        found = []
        for run in runs:
            one = known[run.name]
            if one is None:
                say(f"{run.name}: {len(asked[run.name])} answers")
                one = _ask_run(run, judge, asked[run.name], limit)
            found.append(one)
            n_done += 1
    except OverBudgetError as error:
        raise OverBudgetError(
            f"{error}: {n_done} of {len(runs)} runs are judged. Every verdict is kept and costs "
            "nothing again; go on with the same command and more to spend"
        ) from error
    return Judged(judge=record, runs=found)


def _asked(judge: Judge, questions: Sequence[Question]) -> str:
    """Name what verdicts depend on: the judge, the way it is asked, the texts."""
    texts = [[q.example_id, q.first, q.second] for q in questions]
    return digest([judge.kind, judge.name if judge.kind == "endpoint" else "", judge.identity,
                   judge.settings, texts])  # fmt: skip


def _is_whole(verdicts: Verdicts) -> bool:
    """Tell whether nothing is missing that asking again may bring."""
    return not set(verdicts["missing"]) & set(FLEETING)


def _known_judge(path: Path, judge: Judge, own: Sequence[Question]) -> JudgeRecord | None:
    """Return what is on record of a judge, where it was asked the same."""
    try:
        found = read_as(path, JudgeRecord)
    except RecordError:
        return None  # damaged: it is asked again
    if found is None or found["asked"] != _asked(judge, own) or not _is_whole(found["held_out"]):
        return None
    return found


def _known_run(run: ChosenRun, judge: Judge, questions: Sequence[Question]) -> JudgedAnswers | None:
    """Return what is on record of a run's answers, where the same was asked."""
    try:
        found = read_as(judged_path(run.folder.path, judge.slug), JudgedAnswers)
    except RecordError:
        return None
    if found is None or found["digest"] != run.record["digest"]:
        return None
    if found["asked"] != _asked(judge, questions):
        return None
    return found if _is_whole(found["verdicts"]) else None


def _ask_own(
    run: ChosenRun,
    judge: Judge,
    own: Sequence[Question],
    *,
    of_here: bool,
    say: Callable[[str], None],
) -> JudgeRecord:
    say(f"{judge.name}: {len(own)} held-out pairs, chosen against rejected")
    before = judge.spent
    verdicts = verdicts_of(own, judge.compare(own))
    record: JudgeRecord = {
        "schema": SCHEMA,
        "recipe": run.recipe.name,
        "judge": judge.slug,
        "kind": judge.kind,
        "name": judge.name,
        "identity": judge.identity,
        "settings": judge.settings,
        "asked": _asked(judge, own),
        "held_out": verdicts,
        "spent": _spent(judge, before),
        "written_at": _now(),
    }
    if judge.trained_on is not None:
        record["trained_on"] = "training pairs" if of_here else "other pairs"
    write_sealed(judge_path(run.runs, run.recipe.name, judge.slug), record)
    return record


def _ask_run(
    run: ChosenRun, judge: Judge, questions: Sequence[Question], limit: int | None
) -> JudgedAnswers:
    before, began = judge.spent, time.perf_counter()
    verdicts = verdicts_of(questions, judge.compare(questions))
    record: JudgedAnswers = {
        "schema": SCHEMA,
        "recipe": run.recipe.name,
        "arm": run.arm,
        "seed": run.seed,
        "digest": run.record["digest"],
        "judge": judge.slug,
        "asked": _asked(judge, questions),
        "verdicts": verdicts,
        "lengths": [len(one.first) for one in questions],
        "reference_lengths": [len(one.second) for one in questions],
        "limit": limit,
        "spent": _spent(judge, before),
        "seconds": round(time.perf_counter() - began, 2),
        "written_at": _now(),
    }
    write_sealed(judged_path(run.folder.path, judge.slug), record)
    return record


def _spent(judge: Judge, before: dict[str, float]) -> dict[str, float]:
    return {name: round(value - before[name], 6) for name, value in judge.spent.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
