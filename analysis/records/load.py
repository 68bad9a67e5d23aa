"""Read the records of a study, and refuse what cannot be compared.

Everything the analysis computes starts from a ``StudyRecords``. What is wrong
with records is said by naming recipe, arm and seed; nothing is left out or
averaged over in silence.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from analysis.records import checks
from analysis.records.checks import require
from analysis.records.metrics import GENERATED
from analysis.records.study import RunRecord, Scores, SearchRecord, StudyRecords
from study.arms import UNTRAINED
from study.config.canonical import digest
from study.errors import RecordError
from study.records.asked import read_asked
from study.records.files import read_jsonl
from study.records.folders import read_config
from study.records.layout import (
    BENCH,
    BENCHMARKS,
    BEST,
    CONFIRMATIONS,
    EXAMPLES,
    GENERATIONS,
    HISTORY,
    JUDGED,
    JUDGES,
    REPRODUCE,
    TRIALS,
    answers_name,
    claims_path,
    ladder_path,
    plan_path,
    recipes_in,
    search_folder,
)
from study.records.released import BenchmarkScores, JudgedAnswers, JudgeRecord
from study.records.runs import (
    RunFolder,
    claim_folders,
    compare_folders,
    reproduce_folders,
    run_folder,
)
from study.records.schema import (
    Bench,
    Best,
    ClaimsPlan,
    Confirmation,
    LadderPlan,
    Plan,
    Record,
    Trial,
    read_as,
    rows_as,
)
from study.records.searches import search_faults, searched_arms
from study.records.texts import has_texts, known_texts, restore

__all__ = [
    "RecordError",
    "RunRecord",
    "SearchRecord",
    "StudyRecords",
    "is_complete",
    "load_study",
    "score_matrix",
    "scores_of",
]


LOG_PROBABILITIES = ("chosen_logp_sum", "chosen_tokens", "rejected_logp_sum", "rejected_tokens")


def load_study(runs: Path) -> StudyRecords:
    """Read all finished runs and all searches below a folder.

    Raises:
        RecordError: there is no finished run, or the records are damaged or
            cannot be compared with each other.
    """
    finished: list[RunRecord] = []
    claim_runs: list[RunRecord] = []
    ladder_runs: list[RunRecord] = []
    unfinished: list[tuple[str, str, int]] = []
    searches: list[SearchRecord] = []
    for recipe in recipes_in(runs):
        for arm, seed, folder in compare_folders(runs, recipe):
            _require_sound(folder, f"{recipe}, {arm}, seed {seed}", "study compare")
            record = folder.record()
            if record is None:
                unfinished.append((recipe, arm, seed))
            else:
                finished.append(_load_run(folder, record, recipe, arm, seed))
        for setting, seed, folder in claim_folders(runs, recipe):
            _require_sound(folder, f"{recipe}, {setting}, seed {seed}", "study claims")
            record = folder.record()
            if record is not None:
                claim_runs.append(_load_run(folder, record, recipe, setting, seed))
        for set_up, seed, folder in reproduce_folders(runs, recipe):
            _require_sound(folder, f"{recipe}, {set_up}, seed {seed}", "study reproduce")
            record = folder.record()
            if record is not None:
                ladder_runs.append(_load_run(folder, record, recipe, set_up, seed))
        searches += _load_searches(runs, recipe)
    if not finished:
        raise RecordError(f"{runs} holds no finished run; make some with `study compare`")
    recipes = tuple(sorted({run.recipe for run in finished}))
    checks.check_distinct(finished)
    checks.check_distinct(claim_runs)
    checks.check_distinct(ladder_runs)
    for recipe in recipes:
        checks.check_comparable([run for run in (*finished, *claim_runs) if run.recipe == recipe])
    return StudyRecords(
        recipes=recipes,
        runs=tuple(finished),
        searches=tuple(search for search in searches if search.recipe in recipes),
        unfinished=tuple(row for row in unfinished if row[0] in recipes),
        plans=_load_plans(runs, recipes),
        bench=read_as(runs / BENCH, Bench),
        folder=runs,
        history=_load_history(runs),
        claims=_load_claims(runs, recipes),
        asked={
            (recipe, part): asked
            for recipe in recipes
            for part in ("search", "compare", "claims", REPRODUCE)
            if (asked := read_asked(runs, recipe, part)) is not None
        },
        claim_runs=tuple(run for run in claim_runs if run.recipe in recipes),
        ladders={
            recipe: plan
            for recipe in recipes
            if (plan := read_as(ladder_path(runs, recipe), LadderPlan)) is not None
        },
        ladder_runs=tuple(run for run in ladder_runs if run.recipe in recipes),
        benchmarks=_load_benchmarks(runs, finished),
        judges=_load_judges(runs, recipes),
        judged=_load_judged(runs, finished),
    )


def is_complete(runs: Path) -> bool:
    """Tell whether the comparison of at least one recipe is finished.

    That is: every arm of its plan has runs, all trained arms the same seeds, and
    no run that was begun is unfinished.
    """
    return any(_is_recipe_complete(runs, recipe) for recipe in recipes_in(runs))


def score_matrix(records: StudyRecords, recipe: str, arm: str, metric: str) -> Scores | None:
    """Return an arm's scores of one metric, seeds by examples, or None without any."""
    key = (recipe, arm, metric)
    if key not in records.matrices:  # a table, a test and a figure ask for the same ones
        records.matrices[key] = scores_of(records.ok(recipe, arm), metric)
        if (found := records.matrices[key]) is not None:
            found.matrix.flags.writeable = False
    return records.matrices[key]


def scores_of(runs: Sequence[RunRecord], metric: str) -> Scores | None:
    """Return the scores of runs that did not diverge, or None without any."""
    if not runs:
        return None
    columns = [run.scores.get(metric) for run in runs]
    if any(column is None or column.isna().all() for column in columns):
        return None  # no answers, or some records are older than the score
    present = columns[0].notna().to_numpy()
    return Scores(
        seeds=tuple(run.seed for run in runs),
        clusters=tuple(runs[0].examples["cluster_id"][present]),  # type: ignore[index]
        matrix=np.stack([column.to_numpy(dtype=float)[present] for column in columns]),
    )


def _load_history(runs: Path) -> tuple[dict[str, str], ...]:
    """Read what came before the records, where an author wrote it down."""
    path = runs / HISTORY
    rows = list(read_jsonl(path)) if path.exists() else []
    for row in rows:
        require(
            all(isinstance(row.get(name), str) and row[name].strip() for name in ("at", "what")),
            f"{path}: a row lacks 'at' or 'what'",
            'write one row per thing: {"at": "2026-11-20", "what": "one sentence"}',
        )
    return tuple({"at": row["at"], "what": row["what"]} for row in rows)


def _is_recipe_complete(runs: Path, recipe: str) -> bool:
    folders = compare_folders(runs, recipe)
    plan = read_as(plan_path(runs, recipe), Plan)
    arms = {UNTRAINED, *(plan["arms"] if plan else ())}
    seeds = {arm: {seed for name, seed, _ in folders if name == arm} for arm in arms}
    trained = [found for arm, found in seeds.items() if arm != UNTRAINED]
    return (
        len(trained) > 0
        and all(seeds.values())
        and all(found == trained[0] for found in trained)
        and all(folder.status() in ("ok", "diverged") for _, _, folder in folders)
    )


def _require_sound(folder: RunFolder, who: str, command: str) -> None:
    faults = folder.faults()
    require(
        not faults,
        f"{who}: {'; '.join(faults)}",
        f"restore it, or let `{command}` make this run again",
    )


def _load_run(folder: RunFolder, record: Record, recipe: str, arm: str, seed: int) -> RunRecord:
    who = f"{recipe}, {arm}, seed {seed}"
    config = folder.config()
    assert config is not None
    ok = record["status"] == "ok"
    run = RunRecord(
        recipe=recipe,
        arm=arm,
        seed=seed,
        record=record,
        config=config,
        steps=tuple(folder.steps()),
        examples=_load_examples(folder.path / EXAMPLES, who) if ok else None,
        generations=_load_answers(folder.path / GENERATIONS, record),
        answers={
            rung: _load_answers(folder.path / answers_name(rung), record)
            for rung in config.get("answers", {})
            if ok
        },
    )
    if ok:
        checks.check_scores(run, who)
    return run


def _load_benchmarks(runs: Path, finished: Sequence[RunRecord]) -> tuple[BenchmarkScores, ...]:
    """Read what finished runs scored on benchmarks; of a run that was made again, nothing."""
    found = []
    for run in finished:
        folder = run_folder(runs, run.recipe, run.arm, run.seed).path
        for path in sorted((folder / BENCHMARKS).glob("*/*.json")):
            scores = read_as(path, BenchmarkScores)
            if scores is not None and scores["digest"] == run.record["digest"]:
                found.append(scores)
    return tuple(found)


def _load_judges(runs: Path, recipes: Sequence[str]) -> tuple[JudgeRecord, ...]:
    """Read what is known of the judges of each recipe's answers."""
    paths = (path for name in recipes for path in sorted((runs / name / JUDGES).glob("*.json")))
    return tuple(found for path in paths if (found := read_as(path, JudgeRecord)) is not None)


def _load_judged(runs: Path, finished: Sequence[RunRecord]) -> tuple[JudgedAnswers, ...]:
    """Read the verdicts on finished runs; of a run that was made again, nothing."""
    return tuple(
        verdicts
        for run in finished
        for path in sorted(
            (run_folder(runs, run.recipe, run.arm, run.seed).path / JUDGED).glob("*.json")
        )
        if (verdicts := read_as(path, JudgedAnswers)) is not None
        and verdicts["digest"] == run.record["digest"]
    )


def _load_answers(path: Path, record: Record) -> tuple[Mapping[str, Any], ...]:
    """Read a run's answers, with the texts that a publication left out where they are known."""
    rows = tuple(read_jsonl(path))
    if has_texts(rows):
        return rows
    return restore(rows, known_texts(record["data"]["test"]["fingerprint"]))


def _load_plans(runs: Path, recipes: Sequence[str]) -> dict[str, Plan]:
    """Read how each comparison was to be judged; all must be judged alike."""
    plans: dict[str, Plan] = {}
    for recipe in recipes:
        plan = read_as(plan_path(runs, recipe), Plan)
        require(
            plan is not None,
            f"{recipe}: {plan_path(runs, recipe)}, the plan of the comparison, is missing",
            "restore it, or start `study compare` again, which writes it",
        )
        assert plan is not None
        plans[recipe] = plan
    for name in ("primary_metric", "primary_metrics", "secondary_metrics", "sesoi"):
        said = [f"{recipe} by {_listed(plan.get(name))}" for recipe, plan in plans.items()]
        require(
            len({digest(plan.get(name)) for plan in plans.values()}) == 1,
            f"the recipes differ in {name}, by which they are judged: {', '.join(said)}",
            "keep them in separate folders and name one with --runs",
        )
    return plans


def _listed(value: Any) -> str:
    """Print what a plan says, of today or older."""
    if value is None:
        return "none"
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _load_claims(runs: Path, recipes: Sequence[str]) -> dict[str, ClaimsPlan]:
    """Read the claims that were registered with each recipe's records, if any were."""
    found = {recipe: read_as(claims_path(runs, recipe), ClaimsPlan) for recipe in recipes}
    claims = {recipe: plan for recipe, plan in found.items() if plan is not None}
    require(
        _are_alike(list(claims.values())),
        f"{' and '.join(claims)} were registered with different claims",
        "start `study compare` again for all of them, which registers the present ones",
    )
    return {**claims}


def _are_alike(plans: Sequence[ClaimsPlan]) -> bool:
    """Tell whether claims differ at most where a study does not train their arms."""
    shared = [[plan["early"], plan.get("costs"), len(plan["claims"])] for plan in plans]
    if len({digest(one) for one in shared}) > 1:
        return False
    for versions in zip(*(plan["claims"] for plan in plans), strict=True):
        told = {digest({**one, "parts": [], "not_testable": ""}) for one in versions}
        judged = {digest(one) for one in versions if one["parts"]}
        if len(told) > 1 or len(judged) > 1:
            return False
    return True


def _load_searches(runs: Path, recipe: str) -> list[SearchRecord]:
    found = []
    for arm in searched_arms(runs, recipe):
        folder = search_folder(runs, recipe, arm)
        faults = search_faults(folder)
        require(
            not faults,
            f"{recipe}, search of {arm}: {'; '.join(faults)}",
            "restore it, or let `study search` mend it",
        )
        config = read_config(folder)
        if config is not None and (folder / TRIALS).exists():
            found.append(
                SearchRecord(
                    recipe=recipe,
                    arm=arm,
                    config=config,
                    trials=tuple(
                        sorted(
                            rows_as(folder / TRIALS, Trial, growing=True),
                            key=lambda row: row["number"],
                        )
                    ),
                    confirmations=tuple(rows_as(folder / CONFIRMATIONS, Confirmation)),
                    best=read_as(folder / BEST, Best),
                )
            )
    return found


def _load_examples(path: Path, who: str) -> pd.DataFrame:
    """Read a run's scored pairs, sorted by example, free of gaps and duplicates."""
    require(path.exists(), f"{who}: {path.name} is missing", "restore it or run again")
    table = pq.read_table(path)
    for name in LOG_PROBABILITIES:
        column = table[name]
        require(
            column.null_count == 0 and bool(np.isfinite(column.to_numpy()).all()),
            f"{who}: {name} holds scores that are not finite",
            "a run without scores must have status diverged; run it again",
        )
    for name in set(GENERATED) & set(table.column_names):
        values = np.array([float(value) for value in table[name].drop_null().to_pylist()])
        require(
            bool(np.isfinite(values).all()),
            f"{who}: {name} holds scores that are not finite",
            "null marks an answer that was not generated; run it again",
        )
    frame = table.to_pandas().sort_values("example_id", ignore_index=True)
    twice = frame["example_id"][frame["example_id"].duplicated()]
    require(
        twice.empty,
        f"{who}: {len(twice)} examples are scored twice, {', '.join(twice[:3])} among them",
        "run it again",
    )
    return frame
