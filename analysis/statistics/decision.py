"""The verdict from two co-primary metrics: how well pairs are ranked, how well answered.

Each metric is tested at half the level. "Better" needs one metric better and the
other not worse by as much as its smallest effect of interest (SESOI); a gain that
may be paid for in the other metric is a trade-off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from scipy import stats as scipy_stats

from analysis.statistics.closed import holm
from analysis.statistics.models import Heterogeneity
from analysis.statistics.verdicts import clopper_pearson


class Outcome(StrEnum):
    """Treatment against baseline over both co-primary metrics."""

    BETTER = "better"
    WORSE = "worse"
    TRADE_OFF = "trade-off"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    DEPENDS = "depends on the model"


class Tested(Protocol):
    """A contrast: anything with confidence intervals and tests of equivalence."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided confidence interval at a level."""
        ...

    def tost_p(self, margin: float) -> float:
        """Return the p of: the arms differ by at least ``margin``."""
        ...


@dataclass(frozen=True, kw_only=True)
class CoPrimary:
    """One of the metrics that the verdict rests on."""

    contrast: Tested
    sesoi: float
    """Smallest effect of interest, above zero, in the metric's unit."""
    higher_is_better: bool = True
    heterogeneity: Heterogeneity | None = None
    """None where there is one model."""

    def gain(self, level: float) -> tuple[float, float]:
        """Return the interval of the difference, above zero where treatment is better."""
        low, high = self.contrast.interval(level)
        return (low, high) if self.higher_is_better else (-high, -low)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the tests of one co-primary metric say."""

    better: bool
    worse: bool
    not_inferior: bool
    """The treatment loses less than the SESOI."""
    not_superior: bool
    """The baseline loses less than the SESOI."""
    equivalent: bool


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """How many runs of both arms diverged, and what that says of the arms."""

    n_diverged: tuple[int, int]
    """Of the baseline and of the treatment."""
    n_runs: tuple[int, int]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    """Exact 95 % intervals of the rates of divergence."""
    p_value: float
    """Boschloo's two-sided p of: both arms diverge at the same rate."""

    @property
    def rates(self) -> tuple[float, float]:
        """Shares of runs that diverged, of the baseline and of the treatment."""
        (a, b), (n_a, n_b) = self.n_diverged, self.n_runs
        return a / n_a, b / n_b

    @property
    def complete(self) -> bool:
        """Whether every run converged; else a verdict holds "when it converges"."""
        return self.n_diverged == (0, 0)


def decide(metrics: Sequence[CoPrimary], *, level: float = 0.05) -> Outcome:
    """Judge a treatment by its co-primary metrics, at most two of them.

    Null hypotheses: for each metric, two-sided at level / 2 (so 2.5 % with two
    metrics), that the arms do not differ; for the other one, one-sided at
    level / 2, that the treatment loses its SESOI or more. False superiority in any
    metric has at most the probability ``level``, by Bonferroni. Non-inferiority is
    asked for beside it and so needs no correction of its own (Berger 1982).

    - better: one metric is better, none worse, all others not inferior;
    - worse: the same with the arms exchanged;
    - equivalent: the 90 % intervals of all metrics lie within their margins;
    - trade-off: one differs, and none of the above holds;
    - depends on the model: any of these, but a metric's true effect differs
      between models, or is claimed to have a direction where signs conflict;
    - inconclusive: else.

    Smallest n: that of the contrasts, two seeds per arm. Source: METHODS.md, 4;
    Tamhane and Logan (2004) for superiority in one and non-inferiority in all.

    Raises:
        ValueError: there is no metric or more than two, or a SESOI is not positive.
    """
    if not 1 <= len(metrics) <= 2:
        raise ValueError(f"a verdict rests on one or two metrics, not on {len(metrics)}")
    found = [findings(metric, level=level, n_metrics=len(metrics)) for metric in metrics]
    outcome = _outcome(found)
    return Outcome.DEPENDS if _depends(metrics, found, outcome) else outcome


def findings(metric: CoPrimary, *, level: float = 0.05, n_metrics: int = 2) -> Findings:
    """Test one co-primary metric; hypotheses as in ``decide``."""
    if metric.sesoi <= 0:
        raise ValueError(f"a smallest effect of interest must be above zero, not {metric.sesoi}")
    low, high = metric.gain(1 - level / n_metrics)
    least, most = metric.gain(1 - level)
    return Findings(
        better=low > 0,
        worse=high < 0,
        not_inferior=least > -metric.sesoi,
        not_superior=most < metric.sesoi,
        equivalent=metric.contrast.tost_p(metric.sesoi) <= level,
    )


def equivalence(contrasts: Sequence[tuple[Tested, float]]) -> tuple[float, ...]:
    """Return Holm-adjusted p-values of equivalence of the registered metrics.

    Null hypotheses, one per metric, two one-sided t each: the arms differ by at
    least the metric's margin. Metrics that no plan registered are not assessed:
    six metrics at the margin in three rows give some false "equivalent" in 41 %
    of studies without correction. Smallest n: that of the contrasts.

    Args:
        contrasts: contrast and margin of every registered metric.
    """
    return holm([contrast.tost_p(margin) for contrast, margin in contrasts])


def convergence(n_diverged: tuple[int, int], n_runs: tuple[int, int]) -> Convergence:
    """Compare how often the runs of two arms diverged.

    Null hypothesis, two-sided: both arms diverge at the same rate. Boschloo (1970),
    exact and more powerful than Fisher; intervals by Clopper and Pearson (1934).
    Smallest n: one run per arm for the intervals; the test can reach 5 % from three
    runs per arm on (3 of 3 against 0 of 3 has p = .031).

    Args:
        n_diverged: of the baseline and of the treatment.
        n_runs: runs that were begun, diverged ones among them.

    Raises:
        ValueError: more runs diverged than were begun, or none was begun.
    """
    if not all(0 <= k <= n and n > 0 for k, n in zip(n_diverged, n_runs, strict=True)):
        raise ValueError(f"{n_diverged} of {n_runs} runs cannot have diverged")
    (a, b), (n_a, n_b) = n_diverged, n_runs
    alike = a + b in (0, n_a + n_b)
    p_value = 1.0
    if not alike:
        p_value = float(scipy_stats.boschloo_exact([[a, b], [n_a - a, n_b - b]]).pvalue)
    return Convergence(
        n_diverged=n_diverged,
        n_runs=n_runs,
        intervals=(clopper_pearson(a, n_a), clopper_pearson(b, n_b)),
        p_value=p_value,
    )


def _outcome(found: Sequence[Findings]) -> Outcome:
    better, worse = any(one.better for one in found), any(one.worse for one in found)
    if better and not worse and all(one.better or one.not_inferior for one in found):
        return Outcome.BETTER
    if worse and not better and all(one.worse or one.not_superior for one in found):
        return Outcome.WORSE
    if all(one.equivalent for one in found):
        return Outcome.EQUIVALENT
    return Outcome.TRADE_OFF if better or worse else Outcome.INCONCLUSIVE


def _depends(metrics: Sequence[CoPrimary], found: Sequence[Findings], outcome: Outcome) -> bool:
    """Tell whether a claim about the average of the models would hide their difference."""
    if outcome is Outcome.INCONCLUSIVE:
        return False
    return any(
        metric.heterogeneity is not None
        and (
            metric.heterogeneity.found
            or (metric.heterogeneity.signs_conflict and (one.better or one.worse))
        )
        for metric, one in zip(metrics, found, strict=True)
    )
