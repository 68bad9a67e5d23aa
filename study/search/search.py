"""Search each arm's hyperparameters, then repeat the best and freeze the winner.

Optuna suggests; every trial trains with the same seed, so trials differ in
their settings alone. What is counted is the total of finished trials, over all
starts of the command and all workers that share the storage. An arm that continues
another is searched after that one, from what was found for it. A trial's
suggestion depends on the seed, its place in the search and the trials before
it: a search that was stopped goes on to what it would have found undisturbed.
"""

import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from study.arms import ARMS, arms_of
from study.config.canonical import digest
from study.config.recipe import Recipe
from study.config.seeds import search_seed
from study.config.training import own_training
from study.model.jobs import Elsewhere, Job, Report, do
from study.model.workbench import resolved_facts
from study.records.digests import search_config
from study.records.folders import check_folder, claim_folder, claim_resolved
from study.records.layout import BEST, search_folder
from study.records.locks import hold, leases
from study.records.notice import heed
from study.records.schema import Best, read_as
from study.records.searches import check_journal, mend_search, search_faults, start_settings
from study.records.sharing import WORKER, present
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


WAIT_S = 2.0
"""How often a process that waits for others looks whether they are done."""


def search(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    storage: str | None = None,
    workers: int = 1,
    arms: Sequence[str] = (),
    wait: bool = False,
    say: Callable[[str], None] = print,
) -> list[Best]:
    """Search all arms of the recipes and return what each ``best.json`` holds.

    Args:
        recipes: each is searched in the arms that its search space names.
        runs: folder of all records.
        trials: finished trials per arm in total; None takes the recipe's.
        seed: the study's seed; see ``study.config.seeds``.
        run_jobs: runs the searches, normally in worker processes.
        storage: Optuna storage URL; None is a journal file beside the records.
        workers: where there are more than arms, some share an arm's search; then the
            suggestions depend on which worker is faster.
        arms: search these alone, and what they continue; none means all.
        wait: for trials that other processes have, so that this one helps with what
            comes after them.
        say: told which searches are not at their total yet.

    Raises:
        RecordError: a folder belongs to another configuration, or another
            process uses it with one.
    """
    searches = _searches(recipes, arms)
    goal = functools.partial(_is_complete, runs=runs, trials=trials)
    ask = functools.partial(_jobs, runs=runs, trials=trials, seed=seed, storage=storage)
    check = functools.partial(_check_folder, runs=runs, seed=seed)
    check_searches(recipes, runs=runs, trials=trials, seed=seed, arms=arms)
    for continues in (False, True):
        stage = [one for one in searches if (ARMS[one[1]].starts_from is not None) is continues]
        if not stage:
            continue
        ready = [(recipe, arm) for recipe, arm in stage if _can_begin(recipe, arm, goal)]
        for recipe, arm in ready:
            check(recipe, arm)  # what the start's search found may be new
        missing = [(recipe, arm) for recipe, arm in ready if not goal(recipe, arm)]
        with present(runs, "search", [(recipe, arm, None) for recipe, arm in missing]):
            left, sharing = missing, math.ceil(workers / len(stage))
            while left:
                run_jobs(ask(left, sharing=sharing))
                left = _left_by_others(left, goal, runs) if wait else []
        for recipe, arm in stage:
            if not goal(recipe, arm):
                say(_why_unfinished(recipe, arm, goal))
    found = [
        read_as(search_folder(runs, recipe.name, arm) / BEST, Best) for recipe, arm in searches
    ]
    return [best for best in found if best is not None]


def check_searches(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    arms: Sequence[str] = (),
    fresh: bool = False,
) -> None:
    """Refuse what `search` would refuse before it trains; write nothing.

    Args:
        recipes: see `search`, as for the others.
        runs: folder of all records.
        trials: finished trials per arm in total.
        seed: the study's seed.
        arms: search these alone.
        fresh: their folders are to be set aside, so that it does not matter what is there.

    Raises:
        ConfigError: an arm has no search space, or the seed is out of range.
        RecordError: a folder belongs to another configuration.
    """
    search_seed(seed)
    goal = functools.partial(_is_complete, runs=runs, trials=trials)
    for recipe, arm in _searches(recipes, arms):
        is_old = not (fresh and (arm in arms or not arms))
        if is_old and _can_begin(recipe, arm, goal):
            _check_folder(recipe, arm, runs=runs, seed=seed)


def _searches(recipes: Sequence[Recipe], arms: Sequence[str]) -> list[tuple[Recipe, str]]:
    """List what is searched, what takes longest first."""
    searches = [
        (recipe, arm)
        for recipe in recipes
        for arm in _with_starts(
            recipe, arms_of(recipe.search.space, arms, f"search.space of {recipe.name}")
        )
    ]
    return sorted(searches, key=lambda item: list(ARMS).index(item[1]), reverse=True)


def _left_by_others(
    searches: Sequence[tuple[Recipe, str]], is_complete: Callable[[Recipe, str], bool], runs: Path
) -> list[tuple[Recipe, str]]:
    """Wait while living processes have trials; return the searches that none of them finished."""
    while left := [(recipe, arm) for recipe, arm in searches if not is_complete(recipe, arm)]:
        heed()
        time.sleep(WAIT_S)
        folders = [search_folder(runs, recipe.name, arm) for recipe, arm in left]
        if not any(one.held for folder in folders for one in leases(folder, WORKER)):
            break
    return left


def _with_starts(recipe: Recipe, arms: Sequence[str]) -> list[str]:
    """Add the arms that arms continue: their search comes first."""
    starts = {ARMS[arm].starts_from for arm in arms}
    return [arm for arm in recipe.search.space if arm in arms or arm in starts]


def _check_folder(recipe: Recipe, arm: str, *, runs: Path, seed: int) -> None:
    """Refuse a folder that belongs to another configuration, that of its start among it."""
    start = start_settings(recipe, arm, runs=runs)
    config = search_config(recipe, arm=arm, seed=seed, start=start)
    check_folder(search_folder(runs, recipe.name, arm), config)


def _can_begin(recipe: Recipe, arm: str, is_complete: Callable[[Recipe, str], bool]) -> bool:
    start = ARMS[arm].starts_from
    return start is None or is_complete(recipe, start)


def _why_unfinished(recipe: Recipe, arm: str, is_complete: Callable[[Recipe, str], bool]) -> str:
    others = "other workers have the last trials; the same command goes on when they are done"
    if not _can_begin(recipe, arm, is_complete):
        others = (
            f"it continues {ARMS[arm].starts_from}, whose search is not finished; the same command "
            "begins it when that one is"
        )
    return f"{recipe.name}/{arm} is not finished here: {others}"


def _jobs(
    missing: Sequence[tuple[Recipe, str]],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    storage: str | None,
    sharing: int,
) -> list[Job]:
    """List a job for each arm and each worker that shares its search."""
    return [
        Job(
            name=f"{recipe.name}/{arm}",
            recipe=recipe,
            kind="study.search.search:search_arm",
            given={
                "arm": arm,
                "runs": runs,
                "trials": trials or recipe.search.trials,
                "seed": seed,
                "storage": storage,
            },
        )
        for recipe, arm in missing
        for _ in range(sharing)
    ]


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


def _is_complete(recipe: Recipe, arm: str, *, runs: Path, trials: int | None) -> bool:
    folder = search_folder(runs, recipe.name, arm)
    best = None if search_faults(folder) else read_as(folder / BEST, Best)
    return best is not None and best["n_trials"] >= (trials or recipe.search.trials)


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
