"""Search each arm's hyperparameters, then repeat the best and freeze the winner.

Optuna suggests; every trial trains with the same seed, so trials differ in
their settings alone. What is counted is the total of finished trials, over all
starts of the command and all workers that share the storage. A trial's
suggestion depends on the seed, its place in the search and the trials before
it: a search that was stopped goes on to what it would have found undisturbed.
"""

import contextlib
import functools
import math
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError

from study import orphans
from study.compare import resolved_facts
from study.config import Recipe, Settings, digest, search_config
from study.confirm import confirm, settings_key
from study.errors import ConfigError, RecordError
from study.jobs import Job, Report
from study.locks import hold
from study.objectives import (
    BY_VALIDATION_LOSS,
    DIRECTION,
    SCORES,
    discard_unfinished,
    score_trial,
    unfinished_folder,
    validation_value,
)
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
from study.sharing import WORKER, present

if TYPE_CHECKING:
    from study.workbench import Workbench

PRUNE_AFTER = 0.25
"""Share of a trial that is always trained; earlier scores say little about the last."""

STARTUP = 10
"""Trials at random settings, beside the published ones, before TPE guides."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

CLAIM_LOCK = ".claim.lock"

OPENINGS = 5
"""Tries to open a database: workers that make its tables at once get in each other's way."""


def search(
    recipes: Sequence[Recipe],
    *,
    runs: Path,
    trials: int | None,
    seed: int,
    run_jobs: Callable[[Sequence[Job]], list[Any]],
    storage: str | None = None,
    sharing: int = 1,
    say: Callable[[str], None] = print,
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
        say: told which searches are not at their total yet.

    Raises:
        RecordError: a folder belongs to another configuration, or another
            process uses it with one.
    """
    searches = [(recipe, arm) for recipe in recipes for arm in recipe.search.space]
    searches.sort(key=lambda item: item[1] != "orpo")  # the longest first
    for recipe, arm in searches:
        check_folder(
            search_folder(runs, recipe.name, arm), search_config(recipe, arm=arm, seed=seed)
        )
    missing = [
        (recipe, arm)
        for recipe, arm in searches
        if not _is_complete(recipe, arm, runs, trials or recipe.search.trials)
    ]
    jobs = [
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
        for recipe, arm in missing
        for _ in range(sharing)
    ]
    with present(runs, "search", [(recipe, arm, None) for recipe, arm in missing]):
        run_jobs(jobs)
    for recipe, arm in searches:
        if not _is_complete(recipe, arm, runs, trials or recipe.search.trials):
            say(
                f"{recipe.name}/{arm} is not finished here: other workers have the last trials; "
                "the same command goes on when they are done"
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

    Raises:
        ConfigError: the storage cannot be opened.
        RecordError: it was lost on the way, or records are damaged or of
            another configuration.
    """
    recipe = workbench.recipe
    folder = search_folder(runs, recipe.name, arm)
    config = search_config(recipe, arm=arm, seed=seed)
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
        _reachable(storage),
        orphans.working(optuna_study, folder, trials=trials, shared=shared) as worker,
    ):
        retire()
        with hold(folder / CLAIM_LOCK, wait=True):
            _enqueue_published(optuna_study, recipe, arm)
        while True:
            while (trial := _next_trial(optuna_study, recipe, arm, trials, worker)) is not None:
                _sample_from(optuna_study, recipe, arm, seed, trial.number)
                _run_trial(
                    workbench, report, trial, arm=arm, folder=folder, seed=seed, trials=trials
                )
                _write_trials(optuna_study, folder)
            if not retire():  # of a worker that died meanwhile
                break
        if len(_in_state(optuna_study, FINISHED)) >= trials:
            _write_trials(optuna_study, folder)
            confirm(workbench, report, arm=arm, folder=folder, config=config, seed=seed)
            discard_unfinished(folder)


def open_optuna_study(
    folder: Path, recipe: Recipe, arm: str, digest: str, storage: str | None
) -> optuna.Study:
    """Open one arm's search in a storage, or begin it there.

    Raises:
        ConfigError: the storage cannot be opened.
        RecordError: the journal file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for opening in range(1, OPENINGS + 1):
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
                    f"{folder / JOURNAL} is damaged ({type(error).__name__}: {error}); restore "
                    "it, or set the old search aside with --fresh"
                ) from error
            if opening == OPENINGS or not isinstance(error, (DBAPIError, StorageInternalError)):
                raise ConfigError(
                    f"the search cannot use the storage {_without_password(storage)!r} ({error}); "
                    "give an Optuna storage URL such as sqlite:///study.db, or leave --storage out"
                ) from error
            time.sleep(random.random())
    raise AssertionError


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


@contextlib.contextmanager
def _reachable(storage: str | None) -> Iterator[None]:
    """Say in one message that a database was lost while a search used it."""
    try:
        yield
    except (DBAPIError, StorageInternalError) as error:
        if storage is None:
            raise
        first = str(error).partition("\n")[0]
        raise RecordError(
            f"the storage {_without_password(storage)!r} was lost ({first}); finished trials are "
            "kept, the same command goes on once it is back"
        ) from error


def _without_password(storage: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage)


def _journal(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), _JournalLock(path)))


class _JournalLock(JournalFileOpenLock):
    """The lock for writing to a journal; it goes with its process.

    Optuna's own are files, which a kill leaves behind for half a minute.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._held = contextlib.ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock; then take away what a crash or a full disk cut short."""
        lock = self._journal.with_name(f".{self._journal.name}.lock")
        self._held.enter_context(hold(lock, wait=True))
        with self._journal.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and not _ends_line(file):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next writer in."""
        self._held.close()


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _pruner(recipe: Recipe) -> optuna.pruners.BasePruner:
    """Prune on losses alone: early accuracy says nothing about the final one."""
    if recipe.search.pruning == "none" or recipe.search.objective not in BY_VALIDATION_LOSS:
        return optuna.pruners.NopPruner()
    first_steps = math.ceil(PRUNE_AFTER * recipe.training.max_steps)
    if recipe.search.pruning == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first_steps, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first_steps)


def _enqueue_published(optuna_study: optuna.Study, recipe: Recipe, arm: str) -> None:
    known = {
        trial.user_attrs.get("published")
        for trial in optuna_study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL
    }
    for settings, source in published_settings(recipe, arm):
        if source not in known:
            optuna_study.enqueue_trial(dict(settings), user_attrs={"published": source})


def _next_trial(
    optuna_study: optuna.Study, recipe: Recipe, arm: str, trials: int, worker: str
) -> optuna.Trial | None:
    """Begin another trial, or return None where the total is reached or under way.

    Several workers may see the same last vacancy. Trial numbers are unique, so
    whoever got a number beyond the total gives it back.
    """
    while len(_in_state(optuna_study, (*FINISHED, TrialState.RUNNING))) < trials:
        trial = optuna_study.ask()
        trial.set_user_attr(WORKER, worker)
        if _is_repeated(optuna_study, trial.number):
            optuna_study.tell(trial, state=TrialState.FAIL)
        elif _place(optuna_study, trial.number) < trials:
            return trial
        else:
            orphans.give_back(optuna_study, trial.number, names=recipe.search.space[arm])
    return None


def _place(optuna_study: optuna.Study, number: int) -> int:
    """Count the trials before this one that are finished, running or waiting."""
    return sum(
        trial.number < number and trial.state != TrialState.FAIL
        for trial in optuna_study.get_trials(deepcopy=False)
    )


def _is_repeated(optuna_study: optuna.Study, number: int) -> bool:
    """Tell whether another worker has enqueued the same settings for the same reason."""
    everything = optuna_study.get_trials(deepcopy=False)
    reasons = ("published", orphans.RETRY_OF)
    own = {key: everything[number].user_attrs.get(key) for key in reasons}
    return any(
        own[key] is not None
        and trial.user_attrs.get(key) == own[key]
        and trial.state != TrialState.FAIL
        for trial in everything[:number]
        for key in reasons
    )


def _sample_from(
    optuna_study: optuna.Study, recipe: Recipe, arm: str, seed: int, number: int
) -> None:
    """Set the sampler for one trial, seeded by the trial's place in the search.

    Among other workers places shift while one looks, and two could have the
    same; then the trial's number is the seed.
    """
    others = any(trial.number != number for trial in _in_state(optuna_study, (TrialState.RUNNING,)))
    place = [_place(optuna_study, number)] if not others else ["number", number]
    optuna_study.sampler = optuna.samplers.TPESampler(
        seed=int(digest([seed, arm, *place])[:8], 16),
        n_startup_trials=_startup(recipe, arm),
        multivariate=len(recipe.search.space[arm]) > 1,
    )


def _startup(recipe: Recipe, arm: str) -> int:
    """Return how many finished trials it takes for TPE to guide the next one."""
    return STARTUP + len(published_settings(recipe, arm))


def _run_trial(
    workbench: "Workbench",
    report: Report,
    trial: optuna.Trial,
    *,
    arm: str,
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
    n_finished = len(_in_state(optuna_study, FINISHED))
    if "sampled" not in trial.user_attrs:  # a trial that is tried again keeps what it was
        guided = "random" if n_finished < _startup(recipe, arm) else "tpe"
        published = "published" in trial.user_attrs
        trial.set_user_attr("sampled", "published" if published else guided)
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
            workbench,
            arm=arm,
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


def _write_trials(optuna_study: optuna.Study, folder: Path) -> None:
    """Write ``trials.jsonl``; never an older state over a newer one."""
    with hold(folder / ".trials.lock", wait=True):
        write_jsonl(folder / TRIALS, trial_rows(optuna_study))


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
        "sampled": attributes.get("sampled"),
        "intermediate": attributes["intermediate"],
        "seconds": attributes["seconds"],
        "seed": attributes["seed"],
    }


def _in_state(optuna_study: optuna.Study, states: Sequence[TrialState]) -> list[FrozenTrial]:
    return optuna_study.get_trials(deepcopy=False, states=states)


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}
