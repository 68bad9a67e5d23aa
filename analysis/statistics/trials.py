"""What a search showed: pure functions of its trials and its frozen best."""

import math
import warnings
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any, Final

import numpy as np
from scipy import stats as scipy_stats

from analysis.search_rows import BestOf, Early

Trial = Mapping[str, Any]


EDGE_SHARE = 0.05
"""A best value within this share of the range's end (in log) lies at its edge."""


FEWEST_RANDOM: Final = 5
"""Random trials below which no expected best is computed."""


BAND: Final = 0.8
"""Confidence of the band around the best of several random trials."""


FEWEST_FINISHED: Final = 10
"""Complete trials below which neither importance nor rank correlations are computed."""


WEIGHTS: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights of the second loss beside NLL under which the winner is looked for."""


def best_so_far(trials: Sequence[Trial], *, direction: str) -> list[tuple[int, float]]:
    """Return (number, best value up to it) for every finished trial.

    Only complete trials set a best; the series begins at the first of them.
    """
    better = min if direction == "minimize" else max
    series: list[tuple[int, float]] = []
    for trial in sorted(trials, key=lambda row: row["number"]):
        value = trial["value"] if trial["state"] == "complete" else None
        if series:
            best = series[-1][1] if value is None else better(series[-1][1], value)
            series.append((trial["number"], best))
        elif value is not None:
            series.append((trial["number"], value))
    return series


def count_states(trials: Sequence[Trial]) -> dict[str, int]:
    """Count trials by state: ``complete``, ``pruned``, ``diverged``."""
    states = [trial["state"] for trial in trials]
    return {state: states.count(state) for state in ("complete", "pruned", "diverged")}


def trade_off_front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the complete trials that no other beats in both NLL and accuracy.

    Sorted by NLL, lowest first; of trials equal in both, the earliest.
    """
    complete = [trial for trial in trials if trial["state"] == "complete"]
    front: list[Trial] = []
    for trial in sorted(complete, key=lambda row: (row["nll"], -row["accuracy"], row["number"])):
        if not front or trial["accuracy"] > front[-1]["accuracy"]:
            front.append(trial)
    return front


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the complete trials that no other beats in both NLL and ranking loss.

    Sorted by NLL, lowest first; of trials equal in both, the earliest. Empty for
    trials older than the ranking loss.
    """
    scored = [t for t in trials if t["state"] == "complete" and t.get("ranking") is not None]
    front: list[Trial] = []
    for trial in sorted(scored, key=lambda row: (row["nll"], row["ranking"], row["number"])):
        if not front or trial["ranking"] < front[-1]["ranking"]:
            front.append(trial)
    return front


def at_edge(
    settings: Mapping[str, float], space: Mapping[str, tuple[float, float]]
) -> tuple[str, ...]:
    """Name the hyperparameters whose value lies at an edge of its log-range."""
    return tuple(name for name, (low, high) in space.items() if _is_edge(settings[name], low, high))


def published_tried(
    trials: Sequence[Trial], confirmations: Sequence[Trial] = ()
) -> tuple[dict[str, object], ...]:
    """Return what became of every published setting tried.

    Source, settings, value and state of its trial, and the mean and number of
    its repetitions with fresh seeds: None and 0 where it has its trial alone.
    """
    found = []
    for trial in trials:
        if trial.get("published"):
            values = repeated(trial["settings"], confirmations)
            found.append(
                {
                    "source": trial["published"],
                    "settings": dict(trial["settings"]),
                    "value": trial["value"],
                    "state": trial["state"],
                    "repeated": fmean(values) if values else None,
                    "n_repeated": len(values),
                }
            )
    return tuple(found)


def repeated(settings: Mapping[str, float], confirmations: Sequence[Trial]) -> list[float]:
    """Return the values of the repetitions of some settings that ended with one."""
    return [
        row["value"]
        for row in confirmations
        if row["status"] == "ok" and dict(row["settings"]) == dict(settings)
    ]


def random_values(trials: Sequence[Trial], *, direction: str) -> list[float] | None:
    """Return the values of the trials whose settings were drawn at random.

    These are independent and alike distributed; published settings and those
    that the sampler was guided to are not among them. A trial that was pruned
    or diverged counts as the worst value of any of them, at its last step too.

    Returns:
        None where the records do not say how trials were sampled.
    """
    if any(trial.get("sampled") is None for trial in trials):
        return None
    drawn = [trial for trial in trials if trial["sampled"] == "random"]
    known = [trial["value"] for trial in drawn if trial["value"] is not None]
    if not known:
        return []
    worst = max(known) if direction == "minimize" else min(known)
    return [trial["value"] if trial["state"] == "complete" else worst for trial in drawn]


def expected_best(values: Sequence[float], *, direction: str, seed: int) -> tuple[BestOf, ...]:
    """Estimate the best of n = 1, 2, ... random trials.

    The mean is the unbiased U-statistic: the average best over all subsets of n
    of the trials. The band holds for the median best of all n at once
    (Learned-Miller and DeStefano's, as in Lourie et al. 2023, both by opda).

    Args:
        values: objective values of independent trials, ``(T,)``.
        direction: ``minimize`` or ``maximize``.
        seed: of the simulation that calibrates the band.

    Returns:
        One entry for every n up to T; empty with fewer than ``FEWEST_RANDOM``.
    """
    from opda.nonparametric import EmpiricalDistribution  # noqa: PLC0415 (slow to import)

    if len(values) < FEWEST_RANDOM:
        return ()
    minimize, ns = direction == "minimize", np.arange(1, len(values) + 1)
    expected = EmpiricalDistribution(values).u_tuning_curve(ns, minimize=minimize)
    with warnings.catch_warnings():
        # Ties, from pruned trials, only make the band wider than it need be.
        warnings.filterwarnings("ignore", message="Duplicates detected", category=RuntimeWarning)
        below, _, above = EmpiricalDistribution.confidence_bands(
            values,
            confidence=BAND,
            method="ld_equal_tailed",
            generator=np.random.default_rng(seed),
            n_jobs=1,
        )
    low = above.quantile_tuning_curve(ns, minimize=minimize)
    high = below.quantile_tuning_curve(ns, minimize=minimize)
    return tuple(
        BestOf(n=int(n), expected=float(mean), low=_finite(least), high=_finite(most))
        for n, mean, least, most in zip(ns, expected, low, high, strict=True)
    )


def importance(
    trials: Sequence[Trial], space: Mapping[str, tuple[float, float]], *, direction: str
) -> dict[str, float]:
    """Share the importance for being among the best trials between hyperparameters.

    PED-ANOVA (Watanabe et al. 2023, by Optuna): how much the values of each
    hyperparameter differ between the best complete trials, ``n_best`` of them, and
    all of them. It describes these trials, which crowd where the search went.

    Returns:
        Hyperparameter -> share, the shares adding to 1; empty with one
        hyperparameter or fewer than ``FEWEST_FINISHED`` complete trials.
    """
    import optuna  # noqa: PLC0415 (slow to import)

    complete = [trial for trial in trials if trial["state"] == "complete"]
    if len(space) < 2 or len(complete) < FEWEST_FINISHED:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    log_ranges: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(low, high, log=True)
        for name, (low, high) in space.items()
    }
    optuna_study = optuna.create_study(
        direction="minimize" if direction == "minimize" else "maximize"
    )
    optuna_study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: trial["settings"][name] for name in space},
                distributions=log_ranges,
                value=trial["value"],
            )
            for trial in complete
        ]
    )
    found = optuna.importance.get_param_importances(
        optuna_study,
        evaluator=optuna.importance.PedAnovaImportanceEvaluator(
            target_quantile=n_best(len(complete)) / len(complete)
        ),
    )
    return {name: float(found[name]) for name in space}


def n_best(n_complete: int) -> int:
    """Return how many trials count as the best: a tenth, and at least five."""
    return max(5, n_complete // 10)


def winners_by_weight(
    trials: Sequence[Trial], second: str = "lor", weights: Sequence[float] = WEIGHTS
) -> list[tuple[float, Trial]]:
    """Return (weight, trial with the least NLL + weight · second loss) for every weight."""
    complete = [t for t in trials if t["state"] == "complete" and t[second] is not None]
    if not complete:
        return []
    return [
        (weight, min(complete, key=lambda row: (row["nll"] + weight * row[second], row["number"])))
        for weight in weights
    ]


def early_correlations(trials: Sequence[Trial], score: str) -> tuple[Early, ...]:
    """Correlate a score's ranks at every validation with its ranks at the end.

    Spearman's ρ over the complete trials, which leaves out the pruned ones: they
    have no end. The interval is Fisher's with the variance of Bonett and Wright
    (2000).

    Args:
        trials: rows of ``trials.jsonl``.
        score: a column of the validations, or names joined by ``+`` for their sum.

    Returns:
        One entry per step before the last; empty with fewer than
        ``FEWEST_FINISHED`` trials or an unknown score.
    """
    curves = _curves(trials, score)
    if len(curves) < FEWEST_FINISHED:
        return ()
    last = max(max(curve) for curve in curves.values())
    shared = set.intersection(*(set(curve) for curve in curves.values()))
    final = [curve.get(last) for curve in curves.values()]
    if None in final:
        return ()
    found = []
    for step in sorted(shared - {last}):
        now = [curve[step] for curve in curves.values()]
        if np.ptp(now) > 0 and np.ptp(np.array(final, dtype=float)) > 0:
            rho = float(scipy_stats.spearmanr(now, final).statistic)
            low, high = rank_interval(rho, len(curves))
            found.append(Early(step=step, correlation=rho, low=low, high=high))
    return tuple(found)


def leader_known_from(trials: Sequence[Trial], score: str, *, direction: str) -> int | None:
    """Return the step from which on the trial that ends best leads, or None.

    Among complete trials; the last step counts, so None means no trial has one.
    """
    curves = _curves(trials, score)
    if not curves:
        return None
    shared = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    if not shared:
        return None
    best = min if direction == "minimize" else max
    leaders = [best(curves, key=lambda number: curves[number][step]) for step in shared]
    known = len(shared) - 1
    while known > 0 and leaders[known - 1] == leaders[-1]:
        known -= 1
    return shared[known]


def rank_interval(rho: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval for Spearman's ρ of n pairs, by ``rank_z``."""
    z, se = rank_z(rho, n)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * se
    return math.tanh(z - reach), math.tanh(z + reach)


def rank_z(rho: float, n: int) -> tuple[float, float]:
    """Return Fisher's z of Spearman's ρ of n pairs, and its standard error.

    The error is √((1 + ρ²/2) / (n − 3)) of Bonett and Wright (2000). ρ = ±1 is
    taken half a step inside the attainable values.
    """
    inside = 1 - 6 / (n * (n * n - 1))
    z = math.atanh(max(-inside, min(inside, rho)))
    return z, math.sqrt((1 + rho * rho / 2) / (n - 3))


def updates(trials: Sequence[Trial]) -> int:
    """Count the updates that all trials were trained for, up to their last validation."""
    return sum(int(trial["intermediate"][-1]["step"]) for trial in trials if trial["intermediate"])


def budget_difference(searches: Mapping[str, Sequence[Trial]]) -> str | None:
    """Say how the number of finished trials differs between arms, if it does.

    Args:
        searches: arm -> its finished trials.
    """
    counts = {arm: len(trials) for arm, trials in searches.items()}
    if len(set(counts.values())) <= 1:
        return None
    return ", ".join(f"{arm} {n}" for arm, n in counts.items())


def _is_edge(value: float, low: float, high: float) -> bool:
    place = math.log(value / low) / math.log(high / low)
    return not EDGE_SHARE < place < 1 - EDGE_SHARE


def _curves(trials: Sequence[Trial], score: str) -> dict[int, dict[int, float]]:
    """Return a score of every complete trial: number -> step -> value."""
    curves = {}
    for trial in trials:
        if trial["state"] == "complete":
            rows = {int(row["step"]): _value(row, score) for row in trial["intermediate"]}
            curve = {step: value for step, value in rows.items() if value is not None}
            if curve:
                curves[int(trial["number"])] = curve
    return curves


def _value(row: Mapping[str, Any], score: str) -> float | None:
    parts = [row.get(name) for name in score.split("+")]
    known = [float(part) for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
