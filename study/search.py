"""Search each arm's hyperparameters, then repeat the best and freeze the winner.

Optuna suggests; every trial trains with the same seed, so trials differ in
their settings alone. What is counted is the total of finished trials, over all
starts of the command and all workers that share the storage. A trial's
suggestion depends on the seed, its place in the search and the trials before
it: a search that was stopped goes on to what it would have found undisturbed.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from study import orphans
from study.compare import resolved_facts
from study.config import Recipe, Settings, digest, search_config
from study.confirm import confirm, settings_key
from study.errors import ConfigError, RecordError
from study.jobs import Job, Report
from study.objectives import BY_VALIDATION_LOSS, DIRECTION, SCORES, score_trial, validation_value
from study.records import (
    BEST,
    JOURNAL,
    TRIALS,
    check_folder,
    check_journal,
    claim_folder,
    claim_resolved,
    mend_search,
    read_json,
    search_faults,
    search_folder,
    write_jsonl,
)
from study.seeds import search_seed

if TYPE_CHECKING:
    from study.workbench import Workbench

PRUNE_AFTER = 0.25
"""Share of a trial that is always trained: the median pruner then keeps the best."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def search(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    storage: str | None = None,
    sharing: int = 1,
) -> list[dict[str, Any]]:
    """Search all arms of the recipes and return what each ``best.json`` holds.

    Args:
        recipes: each is searched in the arms that its search space names.
        runs: folder of all records.
        trials: finished trials per arm in total; None takes the recipe's.
        seed: the study's seed; see ``study.seeds``.
        run_jobs: runs the searches, normally in worker processes.
        storage: Optuna storage URL; None is a journal file beside the records.
        sharing: workers that share each arm's search; above 1 the suggestions
            depend on which worker is faster.
    """
    searches = [(recipe, arm) for recipe in recipes for arm in recipe.search.space]
    searches.sort(key=lambda item: item[1] != "orpo")  # the longest first
    for recipe, arm in searches:
        check_folder(
            search_folder(runs, recipe.name, arm), search_config(recipe, arm=arm, seed=seed)
        )
    run_jobs(
        [
            Job(
                name=f"{recipe.name}/{arm}",
                recipe=recipe,
                work=functools.partial(
                    search_arm,
                    arm=arm,
                    runs=runs,
                    trials=trials or recipe.search.trials,
                    seed=seed,
                    storage=storage,
                ),
            )
            for recipe, arm in searches
            if not _is_complete(recipe, arm, runs, trials or recipe.search.trials)
            for _ in range(sharing)
        ]
    )
    found = [(read_json(search_folder(runs, recipe.name, arm) / BEST)) for recipe, arm in searches]
    return [best for best in found if best is not None]


def search_arm(
    workbench: "Workbench",
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
    """
    if run_trials(workbench, report, arm=arm, runs=runs, trials=trials, seed=seed, storage=storage):
        recipe = workbench.recipe
        confirm(
            workbench,
            report,
            arm=arm,
            folder=search_folder(runs, recipe.name, arm),
            config=search_config(recipe, arm=arm, seed=seed),
            seed=seed,
        )


def run_trials(
    workbench: "Workbench",
    report: Report,
    *,
    arm: str,
    runs: Path,
    trials: int,
    seed: int,
    storage: str | None = None,
) -> bool:
    """Bring one arm's search to ``trials`` finished trials.

    Returns:
        Whether that total is reached; other workers may still train a trial.
    """
    recipe = workbench.recipe
    folder = search_folder(runs, recipe.name, arm)
    config = search_config(recipe, arm=arm, seed=seed)
    claim_folder(folder, config)
    claim_resolved(folder, resolved_facts(workbench))
    known = mend_search(folder)
    optuna_study = open_optuna_study(folder, recipe, arm, digest(config), storage)
    check_journal(folder, known, trial_rows(optuna_study))
    orphans.retire(optuna_study, folder, shared=storage is not None)
    _enqueue_published(optuna_study, recipe, arm)
    with orphans.lease(folder) as worker:
        while (trial := _next_trial(optuna_study, trials, worker)) is not None:
            _sample_from(optuna_study, recipe, arm, seed, trial.number)
            _run_trial(workbench, report, trial, arm=arm, seed=seed, trials=trials)
            write_jsonl(folder / TRIALS, trial_rows(optuna_study))
    if len(_in_state(optuna_study, FINISHED)) < trials:
        return False
    write_jsonl(folder / TRIALS, trial_rows(optuna_study))
    return True


def open_optuna_study(
    folder: Path, recipe: Recipe, arm: str, digest: str, storage: str | None
) -> optuna.Study:
    """Open one arm's search in a storage, or begin it there.

    Raises:
        ConfigError: the storage cannot be opened.
        RecordError: the journal file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(
            study_name=f"{recipe.name}/{arm}/{digest[:16]}",
            storage=storage or _journal(folder / JOURNAL),
            direction=DIRECTION[recipe.search.objective],
            pruner=_pruner(recipe),
            load_if_exists=True,
        )
    except Exception as error:
        if storage is None:
            raise RecordError(
                f"{folder / JOURNAL} is damaged ({type(error).__name__}: {error}); restore it, or "
                "set the old search aside with --fresh"
            ) from error
        raise ConfigError(
            f"the search cannot use the storage {storage!r} ({error}); "
            "give an Optuna storage URL such as sqlite:///study.db, or leave --storage out"
        ) from error


def published_settings(recipe: Recipe, arm: str) -> list[tuple[Settings, str]]:
    """List the published settings that lie in an arm's space, with their sources.

    Settings that several sources share are one entry that names them all.
    """
    space = recipe.search.space[arm]
    sources: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for published in recipe.search.published:
        inside = published.arm == arm and all(
            low <= published.settings[name] <= high for name, (low, high) in space.items()
        )
        if inside:
            sources.setdefault(settings_key(published.settings), []).append(published.source)
    return [(dict(settings), "; ".join(names)) for settings, names in sources.items()]


def trial_rows(optuna_study: optuna.Study) -> list[dict[str, Any]]:
    """Return the finished trials as rows of ``trials.jsonl``."""
    return [_trial_row(trial) for trial in _in_state(optuna_study, FINISHED)]


def _is_complete(recipe: Recipe, arm: str, runs: Path, trials: int) -> bool:
    folder = search_folder(runs, recipe.name, arm)
    best = None if search_faults(folder) else read_json(folder / BEST)
    return best is not None and best["n_trials"] >= trials


def _journal(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _pruner(recipe: Recipe) -> optuna.pruners.BasePruner:
    """Prune on losses alone: early accuracy says nothing about the final one."""
    if recipe.search.pruning == "none" or recipe.search.objective not in BY_VALIDATION_LOSS:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=5, n_warmup_steps=math.ceil(PRUNE_AFTER * recipe.training.max_steps)
    )


def _enqueue_published(optuna_study: optuna.Study, recipe: Recipe, arm: str) -> None:
    known = {
        trial.user_attrs.get("published")
        for trial in optuna_study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL
    }
    for settings, source in published_settings(recipe, arm):
        if source not in known:
            optuna_study.enqueue_trial(dict(settings), user_attrs={"published": source})


def _next_trial(optuna_study: optuna.Study, trials: int, worker: str) -> optuna.Trial | None:
    """Begin another trial, or return None where the total is reached or under way.

    Several workers may see the same last vacancy. Trial numbers are unique, so
    whoever got a number beyond the total gives it back.
    """
    while len(_in_state(optuna_study, (*FINISHED, TrialState.RUNNING))) < trials:
        trial = optuna_study.ask()
        trial.set_user_attr("worker", worker)
        place = _place(optuna_study, trial.number)
        if place < trials and not _is_repeated(optuna_study, trial.number):
            return trial
        optuna_study.tell(trial, state=TrialState.FAIL)
    return None


def _place(optuna_study: optuna.Study, number: int) -> int:
    """Count the trials before this one that are finished, running or waiting."""
    return sum(
        trial.number < number and trial.state != TrialState.FAIL
        for trial in optuna_study.get_trials(deepcopy=False)
    )


def _is_repeated(optuna_study: optuna.Study, number: int) -> bool:
    """Tell whether two workers enqueued the same published settings."""
    everything = optuna_study.get_trials(deepcopy=False)
    source = everything[number].user_attrs.get("published")
    return source is not None and any(
        trial.user_attrs.get("published") == source and trial.state != TrialState.FAIL
        for trial in everything[:number]
    )


def _sample_from(
    optuna_study: optuna.Study, recipe: Recipe, arm: str, seed: int, number: int
) -> None:
    """Set the sampler for one trial, seeded by the trial's place in the search."""
    place = _place(optuna_study, number)
    optuna_study.sampler = optuna.samplers.TPESampler(
        seed=int(digest([seed, arm, place])[:8], 16),
        multivariate=len(recipe.search.space[arm]) > 1,
    )


def _run_trial(
    workbench: "Workbench",
    report: Report,
    trial: optuna.Trial,
    *,
    arm: str,
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
    n_finished = len(_in_state(optuna_study, FINISHED))
    intermediate: list[dict[str, float | None]] = []

    def on_validation(step: int, scores: Mapping[str, float]) -> bool:
        intermediate.append({"step": step, **_finite(scores)})
        share = step / recipe.training.max_steps
        report(n_finished + min(share, 0.99), trials, f"trial {trial.number}, step {step}")
        value = validation_value(recipe.search.objective, scores)
        if value is None or share >= 1:
            return False
        trial.report(value, step)
        return trial.should_prune()

    began = time.monotonic()
    try:
        status, value = score_trial(
            workbench, arm=arm, settings=settings, seed=search_seed(seed), follow=on_validation
        )
        trial.set_user_attr("status", status)
        trial.set_user_attr("intermediate", intermediate)
        trial.set_user_attr("seconds", round(time.monotonic() - began, 3))
        trial.set_user_attr("seed", search_seed(seed))
        if status == "complete":
            optuna_study.tell(trial, value)
        else:
            optuna_study.tell(trial, state=TrialState.PRUNED)
    except BaseException:
        orphans.give_back(optuna_study, trial.number)
        raise


def _trial_row(trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    diverged = attributes["status"] == "diverged"
    last = attributes["intermediate"][-1] if attributes["intermediate"] and not diverged else {}
    return {
        "number": trial.number,
        "state": attributes["status"],
        "settings": dict(trial.params),
        "value": None if diverged else trial.value,
        **{name: last.get(name) for name in SCORES},
        "published": attributes.get("published"),
        "intermediate": attributes["intermediate"],
        "seconds": attributes["seconds"],
        "seed": attributes["seed"],
    }


def _in_state(optuna_study: optuna.Study, states: Sequence[TrialState]) -> list[FrozenTrial]:
    return optuna_study.get_trials(deepcopy=False, states=states)


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}
