"""What a contrast allows to be said, chosen by its intervals alone."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

from scipy import stats


def clopper_pearson(n_events: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a rate (Clopper and Pearson 1934).

    Two-sided; it covers at least at its level for every n from 1: 0 of 3 runs
    still allows 71 %.
    """
    bounds = stats.binomtest(n_events, n).proportion_ci(level, method="exact")
    return float(bounds.low), float(bounds.high)


class Interval(Protocol):
    """Anything with an estimate that gives confidence intervals."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided confidence interval at a level."""
        ...


class Verdict(StrEnum):
    """Treatment against baseline; ``by at least`` the smallest effect of interest."""

    BETTER_BY_AT_LEAST = "better by at least"
    BETTER = "better"
    WORSE_BY_AT_LEAST = "worse by at least"
    WORSE = "worse"
    HIGHER = "higher"
    LOWER = "lower"
    EQUIVALENT = "equivalent"
    NEGLIGIBLE = "different but negligible"
    INCONCLUSIVE = "inconclusive"
    DESCRIBED = "interval alone"
    """Of a metric that no plan registered: no test, no claim."""
    NOT_TESTED = "not tested"

    @property
    def decided(self) -> bool:
        """Whether it says that the arms differ, by however little."""
        return self not in (
            Verdict.EQUIVALENT,
            Verdict.INCONCLUSIVE,
            Verdict.DESCRIBED,
            Verdict.NOT_TESTED,
        )

    @property
    def favours(self) -> int:
        """1 for the treatment, -1 for the baseline, 0 for neither."""
        if self in (Verdict.BETTER, Verdict.BETTER_BY_AT_LEAST):
            return 1
        return -1 if self in (Verdict.WORSE, Verdict.WORSE_BY_AT_LEAST) else 0


class ClaimVerdict(StrEnum):
    """What the records say of a claim of a source."""

    REPRODUCED = "reproduced"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTABLE = "not testable here"


def claim_verdict(parts: Iterable[ClaimVerdict]) -> ClaimVerdict:
    """Judge a claim by its parts: all must hold, and one against it is enough."""
    found = set(parts)
    for decisive in (
        ClaimVerdict.CONTRADICTED,
        ClaimVerdict.NOT_TESTABLE,
        ClaimVerdict.INCONCLUSIVE,
    ):
        if decisive in found:
            return decisive
    return ClaimVerdict.REPRODUCED if found else ClaimVerdict.NOT_TESTABLE


def verdict(
    contrast: Interval | None, *, sesoi: float | None, higher_is_better: bool | None = True
) -> Verdict:
    """Judge a contrast by its 95 % and 90 % intervals (METHODS.md, 5).

    ``equivalent`` needs the 90 % interval within the smallest effect of interest
    (two one-sided tests at 5 %) and zero in the 95 % one; a contrast that is
    merely not significant is ``inconclusive``.

    Args:
        contrast: treatment minus baseline; None where no test could run.
        sesoi: smallest effect of interest in the metric's unit, above zero; None
            where none was declared, and then nothing is equivalent.
        higher_is_better: None where neither direction is.
    """
    if contrast is None:
        return Verdict.NOT_TESTED
    low, high = contrast.interval(0.95)
    inner_low, inner_high = contrast.interval(0.90)
    within = sesoi is not None and -sesoi < inner_low and inner_high < sesoi
    if low <= 0 <= high:
        return Verdict.EQUIVALENT if within else Verdict.INCONCLUSIVE
    if within:
        return Verdict.NEGLIGIBLE
    if higher_is_better is None:
        return Verdict.HIGHER if low > 0 else Verdict.LOWER
    at_least = sesoi is not None and min(abs(low), abs(high)) >= sesoi
    if (low > 0) == higher_is_better:
        return Verdict.BETTER_BY_AT_LEAST if at_least else Verdict.BETTER
    return Verdict.WORSE_BY_AT_LEAST if at_least else Verdict.WORSE
