"""Compare two arms over training seeds and held-out prompts.

Shapes: ``(S, N)`` holds the scores of S training runs (seeds) on the same N
held-out examples. A run is the unit of replication; prompts are a second random
factor; rows of one run are never independent replicates.

Test: seeds-by-prompts t. T = (mean_B - mean_A) / sqrt(V_seed + V_prompt), with
the variance-weighted mean of two t quantiles as critical value (Cochran and
Cox 1957). With V_prompt = 0 it is Welch's t (1947) over seeds, or the paired t.
How it keeps its promises is measured by ``analysis.statistics.calibration``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import optimize, special, stats

from analysis.statistics import power as design
from analysis.statistics.components import (
    SeedPart,
    by_cluster,
    checked_scores,
    components,
    critical_value,
    welch_df,
)

Scope = Literal["population", "test_set"]


SMALLEST_P = 1e-300
"""Below this a p-value is not told apart from zero."""


class NotTestableError(ValueError):
    """A comparison that no test can decide; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Treatment minus baseline, with what its uncertainty is made of."""

    estimate: float
    seed_parts: tuple[SeedPart, ...]
    """What each group of runs adds to the variance of the estimate."""
    v_prompt: float
    """Variance that comes from the choice of prompts; 0 in scope ``test_set``."""
    df_prompt: float
    n_seeds: tuple[int, int]
    """Runs of the baseline and of the treatment; of each model, when pooled."""
    n_examples: int
    n_clusters: int
    paired: bool
    scope: Scope
    n_models: int = 1
    differences: Mapping[str, float] = field(repr=False, compare=False)
    """Cluster of prompts -> seed-averaged difference."""

    @property
    def v_seed(self) -> float:
        """Variance of the estimate that comes from training runs."""
        return sum(part.variance for part in self.seed_parts)

    @property
    def df_seed(self) -> float:
        """Degrees of freedom of ``v_seed``, by Welch and Satterthwaite."""
        variances = np.array([part.variance for part in self.seed_parts])
        return float(welch_df(variances, [part.df for part in self.seed_parts]))

    @property
    def v_residual(self) -> float:
        """Variance of single answers, contained in ``v_seed``."""
        return sum(part.residual for part in self.seed_parts)

    @property
    def se(self) -> float:
        """Standard error of the estimate."""
        return float(np.sqrt(self.v_seed + self.v_prompt))

    @property
    def p_value(self) -> float:
        """Two-sided p of: the arms have equal means in this scope."""
        return self._two_sided_p(abs(self.estimate) / self.se)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of ``se ** 2``: between seeds, between prompts, residual."""
        total = self.v_seed + self.v_prompt
        residual = min(self.v_residual, self.v_seed)
        parts = {"seed": self.v_seed - residual, "prompt": self.v_prompt, "residual": residual}
        return {name: part / total for name, part in parts.items()}

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided confidence interval that inverts the test."""
        reach = self._critical((1 - level) / 2) * self.se
        return self.estimate - reach, self.estimate + reach

    def tost_p(self, margin: float) -> float:
        """Return the p of: the arms differ by at least ``margin`` (two one-sided t).

        Below 0.05 exactly where the 90 % interval lies within the margins.
        Source: Schuirmann (1987). Smallest n: that of ``compare_arms``; with
        three seeds it takes a margin of 2.9 standard deviations between runs.
        """
        above = self._upper_p((self.estimate + margin) / self.se)
        below = self._upper_p((margin - self.estimate) / self.se)
        return max(above, below)

    def minimum_detectable(self, power: float = 0.8) -> float:
        """Return the difference that this design finds with a probability.

        For another study like this one whose true variances are the estimated
        ones; it does not depend on the estimate.
        """
        return design.detectable_effect(self.seed_parts, self.v_prompt, self.df_prompt, power=power)

    def minimum_detectable_range(self, power: float = 0.8) -> tuple[float, float]:
        """Return its range over the 80 % chi-square interval of the seeds' variance."""
        low, high = (self.df_seed / float(stats.chi2.ppf(q, self.df_seed)) for q in (0.9, 0.1))
        low, high = (
            design.detectable_effect(
                [replace(part, variance=part.variance * factor) for part in self.seed_parts],
                self.v_prompt,
                self.df_prompt,
                power=power,
            )
            for factor in (low, high)
        )
        return low, high

    def rescaled(self, *, seeds: float = 1.0, prompts: float = 1.0) -> "Contrast":
        """Return what this contrast would be with so many times the seeds or prompts."""
        return replace(
            self,
            seed_parts=tuple(_rescaled(part, seeds, prompts) for part in self.seed_parts),
            v_prompt=self.v_prompt / prompts,
            df_prompt=round((self.df_prompt + 1) * prompts) - 1,
            n_seeds=(round(self.n_seeds[0] * seeds), round(self.n_seeds[1] * seeds)),
            n_examples=round(self.n_examples * prompts),
            n_clusters=round(self.n_clusters * prompts),
        )

    def seeds_needed(self, effect: float, power: float = 0.8) -> int | None:
        """Return the seeds per arm that would detect an effect; None if none suffice."""
        now = max(self.n_seeds)
        return design.smallest(
            lambda n: self.rescaled(seeds=n / now).minimum_detectable(power), effect
        )

    def _critical(self, tail: float) -> float:
        """Return the critical value with probability ``tail`` beyond it."""
        if self.v_prompt == 0:
            return float(-special.stdtrit(self.df_seed, tail))
        if self.v_seed == 0:
            return float(-special.stdtrit(self.df_prompt, tail))
        return float(critical_value(tail, self.v_seed, self.df_seed, self.v_prompt, self.df_prompt))

    def _two_sided_p(self, t: float) -> float:
        """Return the p whose critical value is ``t``; it lies between both parts' p."""
        parts = ((self.v_seed, self.df_seed), (self.v_prompt, self.df_prompt))
        bounds = [2 * float(special.stdtr(df, -t)) for v, df in parts if v > 0]
        low, high = (max(bound, SMALLEST_P) for bound in (min(bounds), max(bounds)))
        if high <= low * (1 + 1e-12):
            return high
        # Only where ``low`` was raised to the smallest p: there is no root above it.
        if self._critical(low / 2) <= t:
            return low
        root = optimize.brentq(
            lambda log_p: self._critical(np.exp(log_p) / 2) - t,
            np.log(low),
            np.log(high),
            xtol=1e-13,
        )
        return float(np.exp(root))

    def _upper_p(self, t: float) -> float:
        half = self._two_sided_p(abs(t)) / 2
        return half if t >= 0 else 1 - half


def compare_arms(
    baseline: Any,
    treatment: Any,
    *,
    paired: bool,
    scope: Scope,
    clusters: Sequence[str] | None = None,
) -> Contrast:
    """Compare the mean scores of two trained arms.

    Null hypothesis, two-sided: the means are equal, over seeds and prompts like
    these (``population``) or over seeds on exactly these prompts
    (``test_set``). Smallest n: two seeds per arm, and at two the interval is
    exploratory (it rejects up to 6 % of true nulls). Source: METHODS.md, 2.

    Args:
        baseline: ``(S_a, N)`` scores.
        treatment: ``(S_b, N)`` scores on the same examples in the same order.
        paired: seeds are matched row by row; settled before the runs.
        scope: whether prompts are a random factor.
        clusters: N labels of prompts that belong together; None takes every
            example as its own.

    Raises:
        NotTestableError: fewer than two seeds, or no variance at all.
        ValueError: scores are not finite, or shapes do not fit.
    """
    a, b = checked_scores(baseline), checked_scores(treatment)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"arms are scored on {a.shape[1]} and {b.shape[1]} examples")
    if paired and len(a) != len(b):
        raise ValueError(f"paired arms have {len(a)} and {len(b)} seeds")
    if min(len(a), len(b)) < 2:
        raise NotTestableError("one seed per arm shows no variation between runs")
    n_examples = a.shape[1]
    (a, names), (b, _) = by_cluster(a, clusters), by_cluster(b, clusters)
    if scope == "population" and len(names) < 2:
        raise NotTestableError("all held-out pairs share one prompt")
    found = components(a, b, paired=paired)
    contrast = Contrast(
        estimate=float(found.estimate),
        seed_parts=tuple(
            SeedPart(variance=float(v), df=df, residual=float(r))
            for v, df, r in zip(found.seed, found.seed_dfs, found.residual, strict=True)
        ),
        v_prompt=float(found.prompt) if scope == "population" else 0.0,
        df_prompt=max(1, len(names) - 1),
        n_seeds=(len(a), len(b)),
        n_examples=n_examples,
        n_clusters=len(names),
        paired=paired,
        scope=scope,
        differences=dict(zip(names, found.differences.tolist(), strict=True)),
    )
    if contrast.se == 0:
        raise NotTestableError("runs do not vary within an arm, so there is no variance to test by")
    return contrast


def compare_with_fixed(
    baseline: Any,
    treatment: Any,
    *,
    scope: Scope,
    clusters: Sequence[str] | None = None,
) -> Contrast:
    """Compare a trained arm with a model that has no random part.

    One-sample t over the treatment's seeds. Null hypothesis, two-sided: the
    treatment's mean equals the fixed model's, in the scope of ``compare_arms``.
    Smallest n: two seeds.

    Args:
        baseline: ``(N,)`` scores of the fixed model.
        treatment: ``(S, N)`` scores.
        scope: as in ``compare_arms``.
        clusters: as in ``compare_arms``.

    Raises:
        NotTestableError: fewer than two seeds, or no variance at all.
        ValueError: scores are not finite, or shapes do not fit.
    """
    b = checked_scores(treatment)
    a = np.broadcast_to(checked_scores(np.atleast_2d(baseline)), b.shape)
    contrast = compare_arms(a, b, paired=True, scope=scope, clusters=clusters)
    return replace(contrast, n_seeds=(1, len(b)))


def compare_pooled(
    baselines: Sequence[Any],
    treatments: Sequence[Any],
    *,
    paired: bool,
    scope: Scope,
    clusters: Sequence[Sequence[str]] | None = None,
) -> Contrast:
    """Compare two arms over several base models, as ``pool_models`` does.

    Args:
        baselines: for each model, ``(S_a, N)`` scores.
        treatments: for each model, ``(S_b, N)`` scores.
        paired: as in ``compare_arms``.
        scope: as in ``compare_arms``.
        clusters: for each model, N labels; None takes example i of every model
            to be the same prompt.
    """
    labels: Sequence[Sequence[str] | None] = clusters or [None] * len(baselines)
    return pool_models(
        [
            compare_arms(a, b, paired=paired, scope=scope, clusters=names)
            for a, b, names in zip(baselines, treatments, labels, strict=True)
        ]
    )


def pool_models(contrasts: Sequence[Contrast]) -> Contrast:
    """Average contrasts of the same arms over several base models.

    Null hypothesis, two-sided: over seeds and prompts like these, the difference
    averaged over exactly these models is zero; nothing is said of other models.
    Prompts of the same name are one prompt in all models, so that what they
    favour everywhere is not taken for chance that averages out. Smallest n: two
    models with two seeds per arm. Source: METHODS.md, 3.

    Raises:
        NotTestableError: fewer than two models.
        ValueError: the contrasts differ in scope or pairing.
    """
    n = len(contrasts)
    if n < 2:
        raise NotTestableError("fewer than two models could be compared")
    if len({(contrast.scope, contrast.paired) for contrast in contrasts}) > 1:
        raise ValueError("contrasts of different scope or pairing cannot be pooled")
    parts = tuple(
        SeedPart(variance=part.variance / n**2, df=part.df, residual=part.residual / n**2)
        for contrast in contrasts
        for part in contrast.seed_parts
    )
    prompts = _shared_prompts(contrasts)
    residual = sum(part.residual for part in parts)
    population = contrasts[0].scope == "population"
    spread = 0.0
    if population:
        spread = len(prompts) / (len(prompts) - 1) * sum(share**2 for share in prompts.values())
    return Contrast(
        estimate=float(np.mean([contrast.estimate for contrast in contrasts])),
        seed_parts=parts,
        v_prompt=max(0.0, spread - residual) if population else 0.0,
        df_prompt=max(1, len(prompts) - 1),
        n_seeds=(
            min(contrast.n_seeds[0] for contrast in contrasts),
            min(contrast.n_seeds[1] for contrast in contrasts),
        ),
        n_examples=min(contrast.n_examples for contrast in contrasts),
        n_clusters=len(prompts),
        paired=contrasts[0].paired,
        scope=contrasts[0].scope,
        n_models=n,
        differences=prompts,
    )


def _shared_prompts(contrasts: Sequence[Contrast]) -> dict[str, float]:
    """Return what every prompt adds to the mean over models, in all of them."""
    shares: dict[str, float] = {}
    for contrast in contrasts:
        scale = 1 / (len(contrasts) * contrast.n_clusters)
        for name, difference in contrast.differences.items():
            influence = scale * (difference - contrast.estimate)
            shares[name] = shares.get(name, 0.0) + influence
    return shares


def _rescaled(part: SeedPart, seeds: float, prompts: float) -> SeedPart:
    between = max(0.0, part.variance - part.residual)
    residual = min(part.residual, part.variance) / prompts
    return SeedPart(
        variance=(between + residual) / seeds,
        df=max(1.0, (part.df + 1) * seeds - 1),
        residual=residual / seeds,
    )
