"""One arm's search: ask Optuna, train a trial, tell; then repeat the best and freeze it."""

import functools
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from study.config.canonical import digest
from study.config.recipe import Recipe
from study.config.seeds import search_seed
from study.config.training import own_training
from study.model.jobs import Elsewhere, Report, do, resolved_facts
from study.records.digests import search_config
from study.records.folders import claim_folder, claim_resolved
from study.records.layout import search_folder
from study.records.locks import hold
from study.records.searches import check_journal, mend_search
from study.records.sharing import WORKER
from study.run.planned import PlannedStart, planned_start
from study.run.start import find_start
from study.search import orphans
from study.search.confirm import confirm
from study.search.objectives import (
    discard_unfinished,
    score_trial,
    unfinished_folder,
    validation_value,
)
from study.search.sampling import queue_published, sample_from, startup
from study.search.storage import open_optuna_study, reachable
from study.search.trials import (
    FINISHED,
    GrowingFile,
    in_state,
    is_repeated,
    place_of,
    trial_rows,
    write_trials,
)

if TYPE_CHECKING:
    from study.model.workbench import Workbench

CLAIM_LOCK = ".claim.lock"


def search_arm(
    workbench: "Workbench | Elsewhere",
    report: Report,
    *,
    arm: str,
    runs: Path,
    trials: int,
    seed: int,
    storage: str | None = None,
) -> None:
    """Bring one arm's search to ``trials`` finished trials and freeze the best.

    Returns early, without freezing, where other workers still train a trial:
    the last of them freezes.

    Raises:
        ConfigError: the storage cannot be opened.
        RecordError: it was lost on the way, or records are damaged or of
            another configuration.
    """
    recipe = workbench.recipe
    folder = search_folder(runs, recipe.name, arm)
    start = planned_start(recipe, arm, runs=runs)
    config = search_config(
        recipe, arm=arm, seed=seed, start=None if start is None else start.settings
    )
    shared = storage is not None
    claim_folder(folder, config)
    claim_resolved(folder, resolved_facts(workbench))
    known = mend_search(folder)
    optuna_study = open_optuna_study(folder, recipe, arm, digest(config), storage)
    check_journal(folder, known, trial_rows(optuna_study))
    retire = functools.partial(
        orphans.retire, optuna_study, folder, names=recipe.search.space[arm], shared=shared
    )
    with (
        reachable(storage),
        orphans.working(optuna_study, folder, trials=trials, shared=shared) as worker,
    ):
        retire()
        rows = GrowingFile(folder)
        begin = functools.partial(
            _next_trial, optuna_study, recipe, arm, trials, worker=worker, folder=folder
        )
        while True:
            while (trial := begin()) is not None:
                sample_from(optuna_study, recipe, arm, seed, trial.number)
                _run_trial(
                    workbench,
                    report,
                    trial,
                    arm=arm,
                    start=start,
                    folder=folder,
                    seed=seed,
                    trials=trials,
                )
                rows.add(optuna_study)
            if not retire():  # of a worker that died meanwhile
                break
        if len(in_state(optuna_study, FINISHED)) >= trials:
            write_trials(optuna_study, folder)
            confirm(
                workbench, report, arm=arm, start=start, folder=folder, config=config, seed=seed
            )
            discard_unfinished(folder)


def _next_trial(
    optuna_study: optuna.Study, recipe: Recipe, arm: str, trials: int, *, worker: str, folder: Path
) -> optuna.Trial | None:
    """Begin another trial, or return None where the total is reached or under way.

    Several workers may see the same last vacancy. Trial numbers are unique, so
    whoever got a number beyond the total gives it back.
    """
    while len(in_state(optuna_study, (*FINISHED, TrialState.RUNNING))) < trials:
        with hold(folder / CLAIM_LOCK, wait=True):
            queue_published(optuna_study, recipe, arm)
            trial = optuna_study.ask()
        trial.set_user_attr(WORKER, worker)
        if is_repeated(optuna_study, trial.number):
            optuna_study.tell(trial, state=TrialState.FAIL)
        elif place_of(optuna_study, trial.number) < trials:
            return trial
        else:
            orphans.give_back(optuna_study, trial.number, names=recipe.search.space[arm])
    return None


def _run_trial(
    workbench: "Workbench | Elsewhere",
    report: Report,
    trial: optuna.Trial,
    *,
    arm: str,
    start: PlannedStart | None,
    folder: Path,
    seed: int,
    trials: int,
) -> None:
    """Train one trial and tell Optuna.

    A trial that diverged is told as pruned: TPE ranks pruned trials below all
    complete ones, the sooner stopped the lower, and no penalty has to be made
    up that would then stand among the values.
    """
    recipe, optuna_study = workbench.recipe, trial.study
    settings = {
        name: trial.suggest_float(name, low, high, log=True)
        for name, (low, high) in recipe.search.space[arm].items()
    }
    kept = unfinished_folder(folder, settings, search_seed(seed))
    n_finished = len(in_state(optuna_study, FINISHED))
    if "sampled" not in trial.user_attrs:  # a trial that is tried again keeps what it was
        guided = "random" if n_finished < startup(recipe, arm) else "tpe"
        published = "published" in trial.user_attrs
        trial.set_user_attr("sampled", "published" if published else guided)
    intermediate: list[dict[str, float | None]] = []

    def on_validation(step: int, scores: Mapping[str, float]) -> bool:
        intermediate.append({"step": step, **_finite(scores)})
        share = step / own_training(recipe.training, arm).max_steps
        report(n_finished + min(share, 0.99), trials, f"trial {trial.number}, step {step}")
        value = validation_value(recipe.search.objective, scores)
        if value is None or share >= 1:
            return False
        trial.report(value, step)
        return trial.should_prune()

    try:
        begun_from = find_start(workbench, report, start=start, seed=search_seed(seed))
        began = time.monotonic()
        status, value = do(
            workbench,
            score_trial,
            writes=kept,
            arm=arm,
            start=begun_from,
            settings=settings,
            seed=search_seed(seed),
            follow=on_validation,
            folder=kept,
        )
        trial.set_user_attr("status", status)
        trial.set_user_attr("intermediate", intermediate)
        trial.set_user_attr("seconds", round(time.monotonic() - began, 3))
        trial.set_user_attr("seed", search_seed(seed))
        ended = {} if status == "complete" else {"state": TrialState.PRUNED}
        orphans.tell(optuna_study, trial.number, value, **ended)
        shutil.rmtree(kept, ignore_errors=True)
    except UpdateFinishedTrialError:  # taken for dead: another worker has it now
        return
    except BaseException:
        orphans.give_back(optuna_study, trial.number, names=settings)
        raise


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}
