"""Train a search's best settings again with fresh seeds, and freeze the winner.

The best of many noisy trials looks better than it is. What its repetitions
lose against the trial is the search's optimism, which ``best.json`` records.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from study.config.canonical import digest
from study.config.seeds import confirmation_seeds, search_seed
from study.config.training import own_training
from study.errors import StudyError
from study.model.jobs import Elsewhere, Report, do
from study.records.files import read_jsonl, write_jsonl, write_sealed
from study.records.layout import BEST, CONFIRMATIONS, JOURNAL, TRIALS
from study.records.locks import hold
from study.records.searches import sealed_journal
from study.run.planned import PlannedStart, Start
from study.run.start import find_start
from study.search.objectives import DIRECTION, SCORES, score_trial, settings_key, unfinished_folder

if TYPE_CHECKING:
    from study.model.workbench import Workbench

Row = dict[str, Any]


def confirm(
    workbench: "Workbench | Elsewhere",
    report: Report,
    *,
    arm: str,
    start: PlannedStart | None,
    folder: Path,
    config: Mapping[str, Any],
    seed: int,
) -> Row:
    """Repeat the best settings of a finished search and write ``best.json``.

    Repetitions on file are kept. The settings with the best mean win; settings
    of which a repetition diverged can only win where every other's did too.

    Raises:
        StudyError: no trial, or no repetition, ended with a value.
    """
    search = workbench.recipe.search
    seeds = confirmation_seeds(seed, search.confirm_seeds)
    trials = list(read_jsonl(folder / TRIALS))
    candidates = best_trials(trials, objective=search.objective, n=search.confirm_top)
    if not candidates:
        raise StudyError(
            f"none of the {len(trials)} trials of {workbench.recipe.name}/{arm} ended with a "
            f"value; lower the bounds of search.space.{arm} and search in another --runs"
        )
    with hold(folder / ".confirm.lock", wait=True):
        _repeat(
            workbench,
            report,
            arm=arm,
            start=start,
            folder=folder,
            candidates=candidates,
            seeds=seeds,
        )
        repeats = list(read_jsonl(folder / CONFIRMATIONS))
        best = {
            "recipe": workbench.recipe.name,
            "arm": arm,
            "digest": digest(config),
            "search_seed": search_seed(seed),
            "confirmation_seeds": seeds,
            **choose(
                trials,
                candidates,
                repeats,
                objective=search.objective,
            ),
            "rows": {
                TRIALS: [len(trials), digest(trials)],
                CONFIRMATIONS: [len(repeats), digest(repeats)],
            },
        }
        if start is not None:
            best["starts"] = [
                {"seed": one, "digest": found.record["digest"], "cost": found.record["cost"]}
                for one in (search_seed(seed), *seeds)
                if (found := find_start(workbench, report, start=start, seed=one))
            ]
        if (folder / JOURNAL).exists():
            best["journal"] = sealed_journal(folder)
        write_sealed(folder / BEST, best)
    return best


def best_trials(trials: Sequence[Row], *, objective: str, n: int) -> list[Row]:
    """Return the best complete trials with distinct settings, the best first."""
    distinct: dict[Any, Row] = {}
    for row in sorted(
        (row for row in trials if row["state"] == "complete"),
        key=lambda row: (_loss(objective, row["value"]), row["number"]),
    ):
        distinct.setdefault(settings_key(row["settings"]), row)
    return list(distinct.values())[:n]


def choose(
    trials: Sequence[Row],
    candidates: Sequence[Row],
    confirmations: Sequence[Row],
    *,
    objective: str,
) -> Row:
    """Choose the candidate with the best mean over its repetitions.

    Raises:
        StudyError: every candidate diverged in every repetition.
    """
    ranked = []
    for trial in candidates:
        key = settings_key(trial["settings"])
        repeats = [row for row in confirmations if settings_key(row["settings"]) == key]
        values = [row["value"] for row in repeats if row["status"] == "ok"]
        if values:
            n_diverged = len(repeats) - len(values)
            ranked.append(((n_diverged, _loss(objective, fmean(values))), fmean(values), trial))
    if not ranked:
        raise StudyError(
            f"the best {len(candidates)} settings all diverged when trained with other seeds; "
            "lower the bounds of search.space and search in another --runs"
        )
    _, best_mean, best_trial = ranked[0]  # not the winner, whose repetitions were chosen too
    _, value, trial = min(ranked, key=lambda item: item[0])
    states = [row["state"] for row in trials]
    return {
        "objective": objective,
        "direction": DIRECTION[objective],
        "settings": trial["settings"],
        "trial": trial["number"],
        "trial_value": trial["value"],
        "value": value,
        "optimism": _loss(objective, best_mean) - _loss(objective, best_trial["value"]),
        "n_trials": len(trials),
        "n_pruned": states.count("pruned"),
        "n_diverged": states.count("diverged"),
        "n_candidates": len(candidates),
    }


def _repeat(
    workbench: "Workbench | Elsewhere",
    report: Report,
    *,
    arm: str,
    start: PlannedStart | None,
    folder: Path,
    candidates: Sequence[Row],
    seeds: Sequence[int],
) -> None:
    """Train what is missing of candidates x seeds; write each one as it ends."""
    rows = list(read_jsonl(folder / CONFIRMATIONS))
    kept = {(settings_key(row["settings"]), row["seed"]) for row in rows}
    wanted = [(trial, seed) for trial in candidates for seed in seeds]
    for number, (trial, seed) in enumerate(wanted):
        if (settings_key(trial["settings"]), seed) not in kept:
            last = own_training(workbench.recipe.training, arm).max_steps
            part = _part_of(report, number, len(wanted), last)
            begun_from = find_start(workbench, report, start=start, seed=seed)
            rows.append(
                _train_again(
                    workbench,
                    part,
                    arm=arm,
                    start=begun_from,
                    folder=folder,
                    trial=trial,
                    seed=seed,
                )
            )
            write_jsonl(folder / CONFIRMATIONS, rows)


def _part_of(report: Report, number: int, n: int, max_steps: int) -> Report:
    def part(step: float, _: float, note: str) -> None:
        report(number + min(step / max_steps, 0.99), n, note)

    return part


def _train_again(
    workbench: "Workbench | Elsewhere",
    report: Report,
    *,
    arm: str,
    start: Start | None,
    folder: Path,
    trial: Row,
    seed: int,
) -> Row:
    last: dict[str, float] = {}

    def follow(step: int, scores: Mapping[str, float]) -> bool:
        last.update(scores)
        report(step, 0, f"repeating trial {trial['number']}, step {step}")
        return False

    folder = unfinished_folder(folder, trial["settings"], seed)
    status, value = do(
        workbench,
        score_trial,
        writes=folder,
        arm=arm,
        settings=trial["settings"],
        seed=seed,
        follow=follow,
        start=start,
        folder=folder,
    )
    ok = status == "complete"
    return {
        "trial": trial["number"],
        "settings": trial["settings"],
        "seed": seed,
        "status": "ok" if ok else "diverged",
        "value": value,
        **{name: last.get(name) if ok else None for name in SCORES},
    }


def _loss(objective: str, value: float) -> float:
    """Return an objective value with its sign turned so that less is better."""
    return value if DIRECTION[objective] == "minimize" else -value
