"""Which sampler finds good settings sooner, on replays of recorded trials.

``python -m study.search.replay`` searches a surrogate of each recipe and arm in
place of training: settings are told the objective that the nearest recorded
trials of ``study.search.evidence`` had. The sampler that a study uses is chosen
by what this prints, not by habit.
"""

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import optuna

from study.arms import Settings
from study.config.recipe import load_recipe
from study.records.files import read_jsonl
from study.search.objectives import validation_value
from study.search.sampling import STARTUP

OBJECTIVE, SEEDS, SHOWN = "nll+ranking", 8, (15, 20, 30, 40)
NEAREST = 3

Surrogate = Callable[[Settings], float | None]
Sampler = Callable[[int, bool], optuna.samplers.BaseSampler]

SAMPLERS: dict[str, Sampler] = {
    "random": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed, many: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=STARTUP, multivariate=many
    ),
    "gp": lambda seed, _: optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP),
}


def main() -> None:
    """Print each sampler's mean regret after some numbers of trials, and its seconds."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/published/objectives.jsonl")
    trials = list(read_jsonl(path))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    for recipe, arm in dict.fromkeys((trial["recipe"], trial["arm"]) for trial in trials):
        space = load_recipe(recipe).search.space[arm]
        mine = [trial for trial in trials if (trial["recipe"], trial["arm"]) == (recipe, arm)]
        surrogate = surrogate_of(mine, space)
        for name, sampler in SAMPLERS.items():
            began = time.perf_counter()
            regrets = [replay(surrogate, space, sampler, seed) for seed in range(SEEDS)]
            seconds = (time.perf_counter() - began) / SEEDS
            means = ", ".join(f"{n}: {fmean(r[n - 1] for r in regrets):.4f}" for n in SHOWN)
            click.echo(f"{recipe} {arm} {name}: regret after {means}; {seconds:.1f} s a search")


def surrogate_of(
    trials: Sequence[Mapping[str, Any]], space: Mapping[str, tuple[float, float]]
) -> Surrogate:
    """Return the objective as a function of settings, from trials near them.

    The mean of the ``NEAREST`` trials in the unit cube of log-settings, weighted
    by one over the squared distance, less the least recorded value. None, as of
    a trial that diverged, where the nearest one did.
    """
    at = np.array([_place(trial["settings"], space) for trial in trials])
    ended = [trial["status"] == "ok" for trial in trials]
    values = np.array(
        [validation_value(OBJECTIVE, trial["steps"][-1]) if ok else np.inf
         for trial, ok in zip(trials, ended, strict=True)]
    )  # fmt: skip
    least = values[ended].min()

    def value(settings: Settings) -> float | None:
        distance = ((at - _place(settings, space)) ** 2).sum(axis=1)
        order = [int(i) for i in np.argsort(distance)]
        if not ended[order[0]]:
            return None
        near = [i for i in order if ended[i]][:NEAREST]
        weights = 1 / (distance[near] + 1e-9)
        return float(weights @ values[near] / weights.sum() - least)

    return value


def replay(
    surrogate: Surrogate, space: Mapping[str, tuple[float, float]], sampler: Sampler, seed: int
) -> list[float]:
    """Return the best value so far after each of a search's trials."""
    optuna_study = optuna.create_study(sampler=sampler(seed, len(space) > 1))
    best, history = np.inf, []
    for _ in range(max(SHOWN)):
        trial = optuna_study.ask()
        settings = {
            name: trial.suggest_float(name, low, high, log=True)
            for name, (low, high) in space.items()
        }
        value = surrogate(settings)
        if value is None:  # as the search tells a trial that diverged
            optuna_study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            optuna_study.tell(trial, value)
            best = min(best, value)
        history.append(float(best))
    return history


def _place(settings: Settings, space: Mapping[str, tuple[float, float]]) -> npt.NDArray[np.float64]:
    """Return settings as a point of the unit cube of their log-ranges."""
    logs = [(np.log(settings[n]), np.log(low), np.log(high)) for n, (low, high) in space.items()]
    return np.array([(x - low) / (high - low) for x, low, high in logs])


if __name__ == "__main__":
    main()
