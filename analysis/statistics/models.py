"""Several base models: their average, and whether they tell the same story.

Models are fixed: what is said holds on average of exactly these. Two models that
share their seeds share what a seed does to the order of the data, so their runs
are no independent replicates: measured correlations of up to .85 between models
would give 9 to 28 % false positives.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from analysis.statistics.components import Array, SeedPart
from analysis.statistics.contrast import Contrast, NotTestableError, pool_models

HETEROGENEITY_LEVEL = 0.10
"""Below this p the models are said to differ; generous, as such tests are weak."""

Seeds = Sequence[Sequence[Hashable]]
"""For each model, the names of its runs' seeds in the order of the score rows."""


@dataclass(frozen=True, kw_only=True)
class Heterogeneity:
    """Whether the effect differs between models."""

    f_value: float
    df: tuple[float, float]
    p_value: float
    signs_conflict: bool
    """Whether one model's estimate favours another arm than the next one's."""

    @property
    def found(self) -> bool:
        """Whether the models are said to differ."""
        return self.p_value <= HETEROGENEITY_LEVEL


def pool(contrasts: Sequence[Contrast]) -> Contrast:
    """Average contrasts over fixed models whose runs are independent.

    ``pool_models``, but with no more degrees of freedom per prompt than the model
    with the most unequal clusters has. Null hypothesis, sides, smallest n and
    errors are those of ``pool_models``.
    """
    pooled = pool_models(contrasts)
    least = min((one.df_prompt + 1) / one.n_clusters for one in contrasts)
    return replace(pooled, df_prompt=pooled.n_clusters * least - 1)


def average_models(
    contrasts: Sequence[Contrast],
    runs: Sequence[tuple[Any, Any]],
    *,
    seeds: Seeds,
    treatment_seeds: Seeds | None = None,
) -> Contrast:
    """Average contrasts over fixed models, within a seed first where it is shared.

    Null hypothesis, two-sided: over seeds and prompts like these, the difference
    averaged over exactly these models is zero. With seeds of their own it is
    ``pool``. Where models share a seed, its runs are averaged over the
    models before their variance is taken, with S - 1 degrees of freedom per arm,
    S the runs of the model that has fewest. Smallest n: two models with two seeds
    per arm. Source: METHODS.md, 10.

    Args:
        contrasts: one per model, of the same arms, scope and pairing.
        runs: for each model, scores ``(S_a, N)`` of baseline and ``(S_b, N)`` of
            treatment that its contrast was made of.
        seeds: names of the baseline's seeds.
        treatment_seeds: names of the treatment's, where they are others.

    Raises:
        NotTestableError: fewer than two models, or no variance at all.
        ValueError: contrasts do not fit, or a model has not one seed per run.
    """
    pooled = pool(contrasts)
    means = [[np.asarray(x, dtype=np.float64).mean(axis=1) for x in pair] for pair in runs]
    names = [seeds, treatment_seeds or seeds]
    if pooled.paired:
        groups = [([b - a for a, b in means], names[0])]
    else:
        groups = [([pair[arm] for pair in means], names[arm]) for arm in (0, 1)]
    if not any(_share_seeds(labels) for _, labels in groups):
        return pooled
    residuals = np.array([[part.residual for part in one.seed_parts] for one in contrasts])
    parts = tuple(
        SeedPart(
            variance=_variance_by_seed(values, labels),
            df=float(min(len(row) for row in values) - 1),
            residual=float(residuals[:, place].sum()) / len(contrasts) ** 2,
        )
        for place, (values, labels) in enumerate(groups)
    )
    found = replace(pooled, seed_parts=parts)
    if found.se == 0:
        raise NotTestableError("runs do not vary within an arm, so there is no variance to test by")
    return found


def heterogeneity(contrasts: Sequence[Contrast]) -> Heterogeneity:
    """Test whether fixed models have the same true difference between the arms.

    Null hypothesis: over seeds and prompts like these the difference is the same
    in all models; one-sided in F, so two-sided in every pair of models. Cochran's
    Q with Welch's correction for variances that are estimated from few runs:
    with two models, the square of a t. What prompts of the same name do to all
    models alike is no difference between them and is left out of their
    variances; shared seeds are not, so that the test errs towards equality.
    Smallest n: two models with two seeds per arm. Source: Welch (1951).

    Raises:
        NotTestableError: fewer than two models.
    """
    n = len(contrasts)
    if n < 2:
        raise NotTestableError("fewer than two models could be compared")
    effects = np.array([one.estimate for one in contrasts])
    common = _common_variance(contrasts)
    v_prompt = np.array([max(0.0, one.v_prompt - common) for one in contrasts])
    v_seed = np.array([one.v_seed for one in contrasts])
    variances = v_seed + v_prompt
    dfs = variances**2 / (
        v_seed**2 / np.array([one.df_seed for one in contrasts])
        + v_prompt**2 / np.array([one.df_prompt for one in contrasts])
    )
    weights = 1 / variances
    shares = weights / weights.sum()
    spread = float((weights * (effects - shares @ effects) ** 2).sum()) / (n - 1)
    lost = float(((1 - shares) ** 2 / dfs).sum())
    f_value = spread / (1 + 2 * (n - 2) / (n**2 - 1) * lost)
    df = (float(n - 1), (n**2 - 1) / (3 * lost))
    return Heterogeneity(
        f_value=f_value,
        df=df,
        p_value=float(scipy_stats.f.sf(f_value, *df)),
        signs_conflict=bool(effects.min() < 0 < effects.max()),
    )


def _share_seeds(labels: Seeds) -> bool:
    names = [name for row in labels for name in set(row)]
    return len(names) > len(set(names))


def _variance_by_seed(values: Sequence[Array], labels: Seeds) -> float:
    """Return the variance of a mean over models whose runs share seeds."""
    added: dict[Hashable, float] = {}
    for row, names in zip(values, labels, strict=True):
        if len(names) != len(row):
            raise ValueError(f"{len(names)} seeds are named for {len(row)} runs")
        n = len(row)
        rest = (row - row.mean()) * np.sqrt(n / (n - 1)) / (n * len(values))
        for name, share in zip(names, rest, strict=True):
            added[name] = added.get(name, 0.0) + float(share)
    return sum(share**2 for share in added.values())


def _common_variance(contrasts: Sequence[Contrast]) -> float:
    """Return the mean covariance of two models' estimates through shared prompts."""
    shares = [
        {name: (d - one.estimate) / one.n_clusters for name, d in one.differences.items()}
        for one in contrasts
        if one.scope == "population"
    ]
    covariances = [
        sum(share * b[name] for name, share in a.items() if name in b)
        for place, a in enumerate(shares)
        for b in shares[place + 1 :]
    ]
    return max(0.0, float(np.mean(covariances))) if covariances else 0.0
