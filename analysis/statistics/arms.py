"""Several arms: each against the baseline, the best set, and all pairs.

Every contrast is unpaired seeds-by-prompts t: runs differ within their arm,
prompts are crossed with arms. The variance is that of the two arms alone: pooled
over arms it would give 17 to 20 % false positives where the baseline is noisy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from analysis.statistics.closed import holm
from analysis.statistics.clusters import compare_clustered
from analysis.statistics.contrast import Contrast
from analysis.statistics.models import average_models, pool

Arms = Mapping[str, Sequence[Any]]
"""Arm -> for each model, ``(S, N)`` scores; models in the same order in all arms.

Every model has seeds of its own, unless ``Seeds`` say otherwise."""

Labels = Sequence[Sequence[str] | None]
"""For each model, N labels of prompts that belong together, or None."""

Seeds = Mapping[str, Sequence[Sequence[int]]]
"""Arm -> for each model, the seeds of its runs in the order of the score rows."""

SEEDS_TO_PAIR_SEVERAL = 10


@dataclass(frozen=True, kw_only=True)
class ArmContrast:
    """One arm minus another in a family of contrasts."""

    baseline: str
    treatment: str
    contrast: Contrast
    p_adjusted: float
    """By Holm, within its family."""


def pairs_by_seed(*, planned: bool, n_arms: int, n_seeds: int) -> bool:
    """Tell whether runs are compared seed by seed.

    Two arms: as the plan says. Several: from ten seeds on, because Holm's first
    step over four contrasts needs t = 4.60 at the 4 degrees of freedom of five
    pairs, and 3.36 at the 8 that Welch has. It never looks at scores.
    """
    return planned and (n_arms <= 2 or n_seeds >= SEEDS_TO_PAIR_SEVERAL)


def against_baseline(
    arms: Arms,
    baseline: str,
    *,
    paired: bool = False,
    clusters: Labels | None = None,
    seeds: Seeds | None = None,
) -> tuple[ArmContrast, ...]:
    """Compare every arm with the baseline, on average of the models.

    Null hypotheses, two-sided, one per arm: over seeds and prompts like these its
    mean, averaged over exactly these models, is the baseline's. Holm over the K - 1
    contrasts keeps the chance of any false rejection at the level. Smallest n:
    two seeds per arm; three on one model find +.03 in a fifth of studies, so ask
    for five, or for three with two models. Source: METHODS.md, 10.

    Raises:
        NotTestableError: an arm has fewer than two seeds, or nothing varies.
        ValueError: the baseline is no arm, or scores do not fit.
    """
    if baseline not in arms:
        raise ValueError(f"{baseline!r} is not one of the arms {', '.join(arms)}")
    pairs = [(baseline, arm) for arm in arms if arm != baseline]
    return _family(arms, pairs, paired=paired, clusters=clusters, seeds=seeds)


def all_pairs(
    arms: Arms,
    *,
    paired: bool = False,
    clusters: Labels | None = None,
    seeds: Seeds | None = None,
) -> tuple[ArmContrast, ...]:
    """Compare every two arms, Holm over all K (K - 1) / 2 contrasts.

    Null hypotheses, sides, smallest n and errors as in ``against_baseline``.
    """
    return _family(arms, list(combinations(arms, 2)), paired=paired, clusters=clusters, seeds=seeds)


def best_set(
    pairs: Sequence[ArmContrast], *, higher_is_better: bool = True, level: float = 0.05
) -> tuple[str, ...]:
    """Return the arms that no other arm is shown to beat.

    Null hypotheses, one-sided, one for every ordered pair: arm j is no better than
    arm i. Arm i is dropped where some j beats it at level / (K - 1), so the truly
    best arm stays with a probability of at least 1 - level (Bonferroni over its
    K - 1 rivals). Smallest n: as for the contrasts. Source: Gupta (1965).

    Args:
        pairs: every two arms, as ``all_pairs`` gives them.
        higher_is_better: the metric's direction.
        level: chance of dropping the best arm.
    """
    names = list(dict.fromkeys(name for one in pairs for name in (one.baseline, one.treatment)))
    sign = 1 if higher_is_better else -1
    beaten = {
        one.baseline if sign * one.contrast.estimate > 0 else one.treatment
        for one in pairs
        if one.contrast.p_value / 2 <= level / (len(names) - 1)
    }
    return tuple(name for name in names if name not in beaten)


def _family(
    arms: Arms,
    pairs: Sequence[tuple[str, str]],
    *,
    paired: bool,
    clusters: Labels | None,
    seeds: Seeds | None,
) -> tuple[ArmContrast, ...]:
    contrasts = [
        _averaged(
            list(zip(arms[one], arms[other], strict=True)),
            None if seeds is None else (seeds[one], seeds[other]),
            paired=paired,
            clusters=clusters,
        )
        for one, other in pairs
    ]
    adjusted = holm([contrast.p_value for contrast in contrasts])
    return tuple(
        ArmContrast(baseline=one, treatment=other, contrast=contrast, p_adjusted=p)
        for (one, other), contrast, p in zip(pairs, contrasts, adjusted, strict=True)
    )


def _averaged(
    runs: Sequence[tuple[Any, Any]],
    seeds: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]] | None,
    *,
    paired: bool,
    clusters: Labels | None,
) -> Contrast:
    contrasts = [
        compare_clustered(a, b, paired=paired, clusters=labels)
        for (a, b), labels in zip(runs, clusters or [None] * len(runs), strict=True)
    ]
    if len(contrasts) == 1:
        return contrasts[0]
    if seeds is None:
        return pool(contrasts)
    return average_models(contrasts, runs, seeds=seeds[0], treatment_seeds=seeds[1])
