"""Where the next trial is drawn from, what is tried first and what is pruned."""

import math
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from study.arms import Settings
from study.config.canonical import digest
from study.config.recipe import Recipe
from study.config.training import own_training
from study.search.objectives import BY_VALIDATION_LOSS, settings_key
from study.search.trials import in_state, place_of

PRUNE_AFTER = 0.25
"""Share of a trial that is always trained; earlier scores say little about the last."""


STARTUP = 10
"""Trials at random settings, beside the published ones, before TPE guides."""


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


def pruner(recipe: Recipe, arm: str) -> optuna.pruners.BasePruner:
    """Return the pruner that a recipe names.

    It prunes on losses alone: early accuracy says nothing about the final one.
    """
    if recipe.search.pruning == "none" or recipe.search.objective not in BY_VALIDATION_LOSS:
        return optuna.pruners.NopPruner()
    first_steps = math.ceil(PRUNE_AFTER * own_training(recipe.training, arm).max_steps)
    if recipe.search.pruning == "halving":
        return _Halving(min_resource=first_steps, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first_steps)


class _Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Successive halving among trials that did not fail.

    Optuna's own counts what a trial had reached when it was given back, and its
    second try once more.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether a trial is worse than half of those that came as far."""
        return super().prune(_WithoutFailed(study), trial)  # type: ignore[arg-type]


class _WithoutFailed:
    """A search as a pruner reads it, without the trials that failed."""

    def __init__(self, optuna_study: optuna.Study) -> None:
        self._study = optuna_study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, *, deepcopy: bool) -> list[FrozenTrial]:
        everything = self._study.get_trials(deepcopy=deepcopy)
        return [trial for trial in everything if trial.state != TrialState.FAIL]


def queue_published(optuna_study: optuna.Study, recipe: Recipe, arm: str) -> None:
    """Queue the next published settings that lie in the space, unless a trial waits.

    One at a time, because Optuna takes what waits by number: a trial that has to
    be tried again keeps its place before the published settings that follow it.
    """
    everything = optuna_study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in everything):
        return
    known = {
        trial.user_attrs.get("published") for trial in everything if trial.state != TrialState.FAIL
    }
    for settings, source in published_settings(recipe, arm):
        if source not in known:
            optuna_study.enqueue_trial(dict(settings), user_attrs={"published": source})
            return


def sample_from(
    optuna_study: optuna.Study, recipe: Recipe, arm: str, seed: int, number: int
) -> None:
    """Set the sampler for one trial, seeded by the trial's place in the search.

    Among other workers places shift while one looks, and two could have the
    same; then the trial's number is the seed.
    """
    others = any(trial.number != number for trial in in_state(optuna_study, (TrialState.RUNNING,)))
    place = [place_of(optuna_study, number)] if not others else ["number", number]
    last = optuna_study.sampler
    optuna_study.sampler = _Sampler(
        last.space if isinstance(last, _Sampler) else IntersectionSearchSpace(include_pruned=True),
        seed=int(digest([seed, arm, *place])[:8], 16),
        n_startup_trials=startup(recipe, arm),
        multivariate=len(recipe.search.space[arm]) > 1,
    )


class _Sampler(optuna.samplers.TPESampler):
    """TPE that learns the space from the trials since its predecessor's.

    Optuna's own, made anew for each trial, goes through all of them each time.
    """

    def __init__(self, space: IntersectionSearchSpace, *, multivariate: bool, **how: Any) -> None:
        super().__init__(multivariate=multivariate, **how)
        self.space = space
        self._is_joint = multivariate

    def infer_relative_search_space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        """Return what all trials so far were drawn from, if hyperparameters are drawn jointly."""
        if not self._is_joint:
            return {}
        found = self.space.calculate(study)
        return {name: bounds for name, bounds in found.items() if not bounds.single()}


def startup(recipe: Recipe, arm: str) -> int:
    """Return how many finished trials it takes for TPE to guide the next one."""
    return STARTUP + len(published_settings(recipe, arm))
