"""What a design can detect: smallest effects, and the seeds that one needs.

Power is computed by a deterministic quadrature over the chi-squares of the
estimated seed variances. The noncentral t would need one number for Welch's
degrees of freedom, which are random: 2S - 2 promises 80 % and gives 70 to 73 %
at S = 3 (METHODS.md, 6). Never used for power "observed" at an estimate.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from analysis.statistics.components import Array, SeedPart, critical_value, welch_df

POINTS_LOG2 = 12
"""Points of the quadrature, as a power of two."""


MOST_SEEDS = 1000
"""More seeds than anyone would train; no answer is given beyond."""


def detectable_effect(
    parts: Sequence[SeedPart], v_prompt: float, df_prompt: float, *, power: float = 0.8
) -> float:
    """Return the true difference that a share ``power`` of such studies would find.

    Null hypothesis, sides and smallest n are those of ``compare_arms`` at 5 %.

    Args:
        parts: true variances of the estimate by the runs of each group.
        v_prompt: true variance of the estimate by the choice of prompts.
        df_prompt: number of prompts (clusters) minus one.
        power: share of studies, above 0.05 and below 1.
    """
    if not 0.05 < power < 1:
        raise ValueError(f"power must lie between 0.05 and 1, not at {power}")
    variances = np.array([part.variance for part in parts])
    sd = float(np.sqrt(variances.sum() + v_prompt))
    if sd == 0:
        return 0.0
    reaches = _reaches(variances, tuple(part.df for part in parts), v_prompt, df_prompt) / sd

    def missing(effect: float) -> float:
        found = special.ndtr(effect - reaches) + special.ndtr(-effect - reaches)
        return float(found.mean()) - power

    top = 8.0
    while missing(top) < 0:
        top *= 2
    return sd * float(optimize.brentq(missing, 0.0, top, xtol=1e-10))


def planned_detectable_effect(
    *,
    seed_sd: float,
    n_seeds: int,
    n_examples: int,
    paired: bool,
    prompt_sd: float = 0.0,
    residual_sd: float = 0.0,
    power: float = 0.8,
) -> float:
    """Return the smallest difference that a planned comparison would detect.

    Test: the seeds-by-prompts t of ``compare_arms``, two-sided at 5 %, scope
    ``population``. Smallest n: two seeds. Source: METHODS.md, 6.

    Args:
        seed_sd: standard deviation between runs of one arm (paired: of runs that
            do not correlate; multiply by sqrt(1 - correlation)).
        n_seeds: runs per arm.
        n_examples: held-out prompts.
        paired: whether seeds are matched between the arms.
        prompt_sd: how much prompts favour one arm, per arm.
        residual_sd: spread of single answers, the rest.
        power: share of studies that find the effect.
    """
    parts = _planned(seed_sd, residual_sd, n_seeds, n_examples, paired=paired)
    v_prompt = 2 * prompt_sd**2 / n_examples
    return detectable_effect(parts, v_prompt, n_examples - 1, power=power)


def seeds_needed(
    effect: float,
    *,
    seed_sd: float,
    n_examples: int,
    paired: bool,
    prompt_sd: float = 0.0,
    residual_sd: float = 0.0,
    power: float = 0.8,
) -> int | None:
    """Return the seeds per arm that detect an effect, or None if none suffice.

    None says that the choice of prompts alone hides the effect: ask
    ``examples_needed``. Test, sides and source: ``planned_detectable_effect``.
    """
    return smallest(
        lambda n: planned_detectable_effect(
            seed_sd=seed_sd,
            prompt_sd=prompt_sd,
            residual_sd=residual_sd,
            n_seeds=n,
            n_examples=n_examples,
            paired=paired,
            power=power,
        ),
        effect,
    )


def examples_needed(effect: float, *, v_prompt: float, n_clusters: int, power: float = 0.8) -> int:
    """Return the prompts at which their choice alone no longer hides an effect.

    Normal approximation with the seeds' variance at zero, so a lower bound.

    Args:
        effect: the difference to detect.
        v_prompt: variance of the estimate by the choice of ``n_clusters`` prompts.
        n_clusters: prompts that ``v_prompt`` belongs to.
        power: share of studies that find the effect.
    """
    reach = special.ndtri(0.975) + special.ndtri(power)
    return int(np.ceil(v_prompt * n_clusters * (reach / effect) ** 2))


def smallest(detectable: Callable[[int], float], effect: float) -> int | None:
    """Return the smallest number of seeds whose detectable effect is small enough."""
    if effect <= 0:
        raise ValueError(f"an effect to detect must be above zero, not {effect}")
    if detectable(MOST_SEEDS) > effect:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(middle) <= effect else (middle, high)
    return high


def _planned(
    seed_sd: float, residual_sd: float, n_seeds: int, n_examples: int, *, paired: bool
) -> tuple[SeedPart, ...]:
    if n_seeds < 2:
        raise ValueError(f"a comparison needs two seeds per arm, not {n_seeds}")
    residual = residual_sd**2 / n_examples / n_seeds
    arm = SeedPart(
        variance=seed_sd**2 / n_seeds + residual, df=float(n_seeds - 1), residual=residual
    )
    if not paired:
        return arm, arm
    return (SeedPart(variance=2 * arm.variance, df=arm.df, residual=2 * residual),)


def _reaches(variances: Array, dfs: tuple[float, ...], v_prompt: float, df_prompt: float) -> Array:
    """Return half the intervals' width over the estimated variances of many studies."""
    seed = _chi_squares(dfs) * variances
    v_seed, df_seed = seed.sum(axis=-1), welch_df(seed, dfs)
    critical = critical_value(0.025, v_seed, df_seed, v_prompt, df_prompt)
    return np.asarray(critical * np.sqrt(v_seed + v_prompt))


@lru_cache(maxsize=64)
def _chi_squares(dfs: tuple[float, ...]) -> Array:
    """Return chi-squares over their df at evenly spread points, ``(points, P)``."""
    n = 2**POINTS_LOG2
    points = stats.qmc.Sobol(len(dfs), scramble=False).random_base2(POINTS_LOG2) + 0.5 / n
    return np.asarray(stats.chi2.ppf(points, dfs) / dfs)
