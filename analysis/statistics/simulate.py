"""Simulate studies of several models, arms and metrics, and judge the verdicts.

The second half of ``analysis.calibration``: error rates and coverage of what a
study's answer rests on, beside the bands that they must keep. The model is that
of ``calibration.simulate``: score = prompt + prompt x arm + run + answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from analysis.rows import CalibrationRow
from analysis.statistics.arms import against_baseline, all_pairs, best_set
from analysis.statistics.closed import behind_gate
from analysis.statistics.clusters import compare_clustered
from analysis.statistics.components import Array
from analysis.statistics.contrast import Contrast, compare_arms
from analysis.statistics.decision import CoPrimary, Outcome, decide
from analysis.statistics.macro import Task, compare_macro
from analysis.statistics.models import average_models, heterogeneity, pool

MOST_REJECTED, LEAST_COVERED, LEAST_KEPT = 0.065, 0.935, 0.95
PROMPT_MAIN_SD, RESIDUAL_SD = 0.15, 0.08
SEED_SD, PROMPT_SD = 0.01, 0.04
SESOI: Final = 0.03

Flags = dict[str, bool]
Study = tuple[Array, Array]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One quantity of a simulated kind of study, with its band."""

    quantity: str
    low: float | None = None
    high: float | None = None


SIZE = Check(quantity="type I error", high=MOST_REJECTED)
COVERAGE = Check(quantity="coverage", low=LEAST_COVERED)
SHOWN = Check(quantity="share of studies")


def calibrate_verdicts(*, n_studies: int, seed: int) -> Iterator[CalibrationRow]:
    """Simulate every kind of study with a generator of its own."""
    for place, (regime, study, checks) in enumerate(KINDS):
        rng = np.random.default_rng([seed, 4, place])
        found = [study(rng) for _ in range(n_studies)]
        for test, check in checks.items():
            value = float(np.mean([one[test] for one in found]))
            yield CalibrationRow(
                regime=regime,
                test=test,
                quantity=check.quantity,
                value=value,
                low=check.low,
                high=check.high,
                n_studies=n_studies,
                passed=(check.low is None or value >= check.low)
                and (check.high is None or value <= check.high),
            )


def models_of_one_study(
    rng: np.random.Generator,
    effects: tuple[float, ...],
    *,
    correlation: float = 0.0,
    n_seeds: int = 3,
    n_examples: int = 200,
) -> list[Study]:
    """Draw both arms of several models on the same prompts.

    Args:
        rng: source of randomness.
        effects: of the treatment, for every model.
        correlation: between models of the runs of one arm with the same seed.
        n_seeds: runs per arm and model.
        n_examples: held-out prompts.
    """
    prompts = rng.normal(0, PROMPT_MAIN_SD, n_examples)
    shared = rng.normal(0, SEED_SD * np.sqrt(correlation), (2, n_seeds, 1))

    def arm(place: int, mean: float) -> Array:
        own = rng.normal(0, SEED_SD * np.sqrt(1 - correlation), (n_seeds, 1))
        favour = rng.normal(0, PROMPT_SD, n_examples)
        answers = rng.normal(0, RESIDUAL_SD, (n_seeds, n_examples))
        return np.asarray(mean + prompts + favour + shared[place] + own + answers)

    return [(arm(0, 0.0), arm(1, effect)) for effect in effects]


def _contrasts(studies: list[Study]) -> list[Contrast]:
    return [compare_arms(a, b, paired=False, scope="population") for a, b in studies]


def _shared_seeds(n_models: int, n_seeds: int) -> Callable[[np.random.Generator], Flags]:
    def study(rng: np.random.Generator) -> Flags:
        studies = models_of_one_study(
            rng, (0.0,) * n_models, correlation=0.8, n_seeds=n_seeds, n_examples=1000
        )
        contrasts = _contrasts(studies)
        within = average_models(contrasts, studies, seeds=[range(n_seeds)] * n_models)
        low, high = within.interval()
        return {
            "pooled within seed": within.p_value <= 0.05,
            "interval within seed": low <= 0 <= high,
            "taken for independent": pool(contrasts).p_value <= 0.05,
        }

    return study


def _models_that(effects: tuple[float, ...]) -> Callable[[np.random.Generator], Flags]:
    def study(rng: np.random.Generator) -> Flags:
        contrasts = _contrasts(models_of_one_study(rng, effects, n_examples=400))
        found = heterogeneity(contrasts)
        metric = CoPrimary(contrast=pool(contrasts), sesoi=SESOI, heterogeneity=found)
        low, high = metric.contrast.interval()
        return {
            "heterogeneity at 10 %": found.found,
            "average": low <= float(np.mean(effects)) <= high,
            "better on average": decide([metric]) is Outcome.BETTER,
            "depends on the model": decide([metric]) is Outcome.DEPENDS,
        }

    return study


def _closed(effects: tuple[float, ...]) -> Callable[[np.random.Generator], Flags]:
    def study(rng: np.random.Generator) -> Flags:
        contrasts = _contrasts(models_of_one_study(rng, effects))
        singles = {str(place): one.p_value for place, one in enumerate(contrasts)}
        adjusted = behind_gate(pool(contrasts).p_value, singles)
        rejected = [p <= 0.05 for p in adjusted.values()]
        return {
            "closed testing": any(
                one for one, effect in zip(rejected, effects, strict=True) if effect == 0
            ),
            "models found": rejected[0],
        }

    return study


def _unequal_clusters(sizes: list[int]) -> Callable[[np.random.Generator], Flags]:
    labels = [str(place) for place, size in enumerate(sizes) for _ in range(size)]
    index = np.array([int(label) for label in labels])

    def study(rng: np.random.Generator) -> Flags:
        a, b = models_of_one_study(rng, (0.0,), n_examples=len(labels))[0]
        b = b + rng.normal(0, 0.06, len(sizes))[index]
        found = compare_clustered(a, b, paired=False, clusters=labels)
        plain = compare_arms(a, b, paired=False, scope="population", clusters=labels)
        low, high = found.interval()
        return {
            "effective clusters": found.p_value <= 0.05,
            "interval by clusters": low <= 0 <= high,
            "clusters counted": plain.p_value <= 0.05,
        }

    return study


def stand_in_arms(
    rng: np.random.Generator, effects: dict[str, float], *, n_seeds: int, n_examples: int = 400
) -> dict[str, list[Array]]:
    """Draw records of methods that no one has trained: arm -> scores of one model."""
    prompts = rng.normal(0, PROMPT_MAIN_SD, n_examples)
    return {
        name: [
            effect
            + prompts
            + rng.normal(0, PROMPT_SD, n_examples)
            + rng.normal(0, SEED_SD, (n_seeds, 1))
            + rng.normal(0, RESIDUAL_SD, (n_seeds, n_examples))
        ]
        for name, effect in effects.items()
    }


def _several_arms(n_seeds: int) -> Callable[[np.random.Generator], Flags]:
    effects = {"sft": 0.0, "a": 0.0, "b": 0.0, "c": 0.0, "d": 0.04, "e": 0.04}

    def study(rng: np.random.Generator) -> Flags:
        arms = stand_in_arms(rng, effects, n_seeds=n_seeds)
        found = {one.treatment: one for one in against_baseline(arms, "sft")}
        pairs = all_pairs(arms)
        kept = best_set(pairs)
        return {
            "five arms, Holm": any(found[name].p_adjusted <= 0.05 for name in "abc"),
            "power per arm": found["d"].p_adjusted <= 0.05,
            "best arm kept": "d" in kept,
            "best set of two": set(kept) == {"d", "e"},
            "all pairs, Holm": any(
                one.p_adjusted <= 0.05
                for one in pairs
                if effects[one.baseline] == effects[one.treatment]
            ),
        }

    return study


def _trade_off(ranking: float, answers: float) -> Callable[[np.random.Generator], Flags]:
    """Draw two metrics of the same runs and prompts, which favour an arm alike."""

    def study(rng: np.random.Generator) -> Flags:
        outcomes = decide(
            [
                CoPrimary(contrast=_contrasts([pair])[0], sesoi=SESOI)
                for pair in _two_metrics(rng, ranking, answers)
            ]
        )
        return {outcome.value: outcomes is outcome for outcome in Outcome} | {
            "not inconclusive or equivalent": outcomes
            not in (Outcome.INCONCLUSIVE, Outcome.EQUIVALENT)
        }

    return study


def _two_metrics(rng: np.random.Generator, ranking: float, answers: float) -> list[Study]:
    """Draw two metrics whose errors correlate by a half."""
    first, second, common = (
        models_of_one_study(rng, (0.0,), n_seeds=5, n_examples=400)[0] for _ in range(3)
    )
    half = np.sqrt(0.5)
    return [
        (half * (own[0] + common[0]), half * (own[1] + common[1]) + effect)
        for own, effect in ((first, ranking), (second, answers))
    ]


def _added_seeds(rng: np.random.Generator) -> Flags:
    """Look after three seeds, and after five where that was not enough."""
    a, b = models_of_one_study(rng, (0.0,), n_seeds=5)[0]
    looks = [compare_arms(a[:n], b[:n], paired=False, scope="population").p_value for n in (3, 5)]
    return {
        "second look at 5 %": min(looks) <= 0.05,
        "each of two looks at 2.5 %": min(looks) <= 0.025,
    }


def _macro(rng: np.random.Generator) -> Flags:
    """Draw a benchmark of six tasks; what a run gains, it gains in all of them."""
    sizes, chances = (100, 200, 400, 800, 1500, 5000), (0.25, 0.5, 0.25, 0.0, 0.25, 0.5)
    runs = rng.normal(0, SEED_SD, (2, 3, 1))
    tasks = []
    for place, (n, chance) in enumerate(zip(sizes, chances, strict=True)):
        share = chance + (1 - chance) * rng.uniform(0.1, 0.9, n)
        favour = rng.normal(0, PROMPT_SD, (2, n))
        chances_to_win = np.clip(share + favour[:, None] + runs, 0, 1)
        won = (rng.random((2, 3, n)) < chances_to_win).astype(np.float64)
        tasks.append(Task(name=str(place), baseline=won[0], treatment=won[1], chance=chance))
    found = compare_macro(tasks, paired=False)
    low, high = found.interval()
    return {"macro average": found.p_value <= 0.05, "interval": low <= 0 <= high}


GEOMETRIC = [1, 2, 3, 5, 8, 13, 20, 32, 50, 80]
PARETO = [2, 2, 2, 3, 3, 4, 6, 10, 25, 143]
DECIDED = dict.fromkeys((outcome.value for outcome in Outcome), SHOWN)

KINDS: Final = (
    *(
        (
            f"{n_models} models share {n_seeds} seeds",
            _shared_seeds(n_models, n_seeds),
            {
                "pooled within seed": SIZE,
                "interval within seed": COVERAGE,
                "taken for independent": SHOWN,
            },
        )
        for n_models, n_seeds in ((2, 3), (2, 5), (4, 5))
    ),
    (
        "two models alike",
        _models_that((0.03, 0.03)),
        {
            "heterogeneity at 10 %": Check(quantity="type I error", high=0.12),
            "average": COVERAGE,
            "better on average": SHOWN,
        },
    ),
    (
        "two models, +.06 and -.02",
        _models_that((0.06, -0.02)),
        {
            "average": COVERAGE,
            "better on average": Check(quantity="share of studies", high=MOST_REJECTED),
            "depends on the model": SHOWN,
        },
    ),
    (
        "four models alike",
        _models_that((0.02,) * 4),
        {
            "heterogeneity at 10 %": Check(quantity="type I error", high=0.12),
            "average": COVERAGE,
        },
    ),
    ("two models, no effect", _closed((0.0, 0.0)), {"closed testing": SIZE}),
    ("two models, one effect", _closed((0.04, 0.0)), {"closed testing": SIZE}),
    (
        "three models, one effect",
        _closed((0.06, 0.0, 0.0)),
        {"closed testing": SIZE, "models found": SHOWN},
    ),
    *(
        (
            f"ten clusters, {name} sizes",
            _unequal_clusters(sizes),
            {
                "effective clusters": SIZE,
                "interval by clusters": COVERAGE,
                "clusters counted": SHOWN,
            },
        )
        for name, sizes in (("geometric", GEOMETRIC), ("Pareto", PARETO))
    ),
    *(
        (
            f"six arms, {n_seeds} seeds",
            _several_arms(n_seeds),
            {
                "five arms, Holm": SIZE,
                "all pairs, Holm": SIZE,
                "best arm kept": Check(quantity="best arm kept", low=LEAST_KEPT),
                "best set of two": SHOWN,
                "power per arm": Check(quantity="power"),
            },
        )
        for n_seeds in (3, 5)
    ),
    (
        "two metrics (0, 0)",
        _trade_off(0.0, 0.0),
        DECIDED | {"not inconclusive or equivalent": SIZE},
    ),
    (
        "two metrics (+, 0)",
        _trade_off(0.05, 0.0),
        DECIDED | {"worse": Check(quantity="type I error", high=MOST_REJECTED)},
    ),
    (
        "two metrics (+, -)",
        _trade_off(0.05, -SESOI),
        DECIDED | {"better": Check(quantity="type I error", high=MOST_REJECTED)},
    ),
    (
        "seeds added after a look",
        _added_seeds,
        {"second look at 5 %": SHOWN, "each of two looks at 2.5 %": SIZE},
    ),
    ("six tasks of 100 to 5,000 items", _macro, {"macro average": SIZE, "interval": COVERAGE}),
)
"""Kind of study, how one is drawn and judged, and the bands of what it shows."""
