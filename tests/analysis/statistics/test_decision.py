"""Oracles: intervals set by hand, the rule swapped between arms, published rates."""

from dataclasses import dataclass

import pytest

from analysis.statistics.closed import holm
from analysis.statistics.decision import (
    CoPrimary,
    Outcome,
    convergence,
    decide,
    equivalence,
    findings,
)
from analysis.statistics.models import Heterogeneity


@dataclass(frozen=True)
class Normal:
    """A contrast whose intervals are those of a known normal error."""

    estimate: float
    se: float = 0.01

    def interval(self, level=0.95):
        from scipy import stats

        reach = stats.norm.ppf(0.5 + level / 2) * self.se
        return self.estimate - reach, self.estimate + reach

    def tost_p(self, margin):
        from scipy import stats

        return float(stats.norm.sf((margin - abs(self.estimate)) / self.se))


def metric(estimate, *, se=0.01, **others):
    return CoPrimary(contrast=Normal(estimate, se), sesoi=0.02, **others)


def models(p_value, *, signs_conflict=False):
    return Heterogeneity(f_value=1.0, df=(1.0, 4.0), p_value=p_value, signs_conflict=signs_conflict)


CASES = [
    # ranking, answers, outcome; standard errors .01, so 2.5 % needs .0224, 5 % .0196
    (metric(0.030), metric(0.030), Outcome.BETTER),
    (metric(0.030), metric(0.000), Outcome.BETTER),
    (metric(0.030), metric(-0.001), Outcome.TRADE_OFF),  # may lose .0206
    (metric(0.030), metric(-0.034), Outcome.TRADE_OFF),
    (metric(0.021), metric(0.000), Outcome.INCONCLUSIVE),  # better at 5 %, not at 2.5 %
    (metric(0.023), metric(0.000), Outcome.BETTER),
    (metric(0.000), metric(0.000), Outcome.EQUIVALENT),
    (metric(0.000), metric(0.010), Outcome.INCONCLUSIVE),
    (metric(0.005, se=0.002), metric(-0.005, se=0.002), Outcome.EQUIVALENT),
    (metric(0.030, se=0.002), metric(-0.005, se=0.002), Outcome.TRADE_OFF),
    (metric(0.005, se=0.002), metric(0.005, se=0.002), Outcome.BETTER),
]


@pytest.mark.parametrize(("ranking", "answers", "outcome"), CASES)
def test_the_verdict_follows_from_both_metrics(ranking, answers, outcome):
    assert decide([ranking, answers]) is outcome
    assert decide([answers, ranking]) is outcome


MIRRORED = {Outcome.BETTER: Outcome.WORSE}


@pytest.mark.parametrize(("ranking", "answers", "outcome"), CASES)
@pytest.mark.parametrize("how", ["arms", "direction"])
def test_exchanging_the_arms_exchanges_better_and_worse(ranking, answers, outcome, how):
    sign = -1 if how == "arms" else 1
    swapped = [
        metric(sign * one.contrast.estimate, se=one.contrast.se, higher_is_better=how == "arms")
        for one in (ranking, answers)
    ]

    assert decide(swapped) is MIRRORED.get(outcome, outcome)


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (models(0.5), models(0.5), Outcome.BETTER),
        (models(0.05), models(0.5), Outcome.DEPENDS),
        (models(0.5), models(0.1), Outcome.DEPENDS),
        (models(0.5, signs_conflict=True), models(0.5), Outcome.DEPENDS),
        # The second metric claims no direction, so its signs may conflict by chance.
        (models(0.5), models(0.5, signs_conflict=True), Outcome.BETTER),
    ],
)
def test_models_that_differ_make_the_verdict_depend_on_the_model(first, second, outcome):
    found = decide([metric(0.03, heterogeneity=first), metric(0.0, heterogeneity=second)])

    assert found is outcome


def test_a_verdict_that_claims_nothing_does_not_depend_on_the_model():
    unclear = metric(0.01, heterogeneity=models(0.01, signs_conflict=True))

    assert decide([unclear, unclear]) is Outcome.INCONCLUSIVE


def test_one_metric_alone_is_tested_at_the_full_level():
    assert decide([metric(0.021)]) is Outcome.BETTER
    assert decide([metric(0.021), metric(0.0)]) is Outcome.INCONCLUSIVE


def test_equivalence_of_registered_metrics_is_corrected_by_holm():
    contrasts = [(Normal(0.0, 0.01), 0.02), (Normal(0.0, 0.011), 0.02)]
    single = [contrast.tost_p(margin) for contrast, margin in contrasts]

    assert equivalence(contrasts) == pytest.approx(holm(single))
    assert max(single) < 0.05 < 2 * max(single)


@pytest.mark.parametrize("metrics", [[], [metric(0.0)] * 3])
def test_a_verdict_rests_on_one_or_two_metrics(metrics):
    with pytest.raises(ValueError, match="one or two metrics"):
        decide(metrics)


def test_a_smallest_effect_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above zero"):
        findings(CoPrimary(contrast=Normal(0.0), sesoi=0.0))


def test_all_against_none_of_three_has_boschloos_p():
    found = convergence((0, 3), (3, 3))

    assert found.p_value == pytest.approx(1 / 32, abs=1e-6)
    assert found.rates == (0.0, 1.0)
    assert found.intervals[0] == pytest.approx((0.0, 0.7076), abs=1e-4)
    assert not found.complete


@pytest.mark.parametrize("n_diverged", [(0, 0), (5, 3)])
def test_arms_that_all_converge_or_all_diverge_do_not_differ(n_diverged):
    found = convergence(n_diverged, (5, 3))

    assert found.p_value == 1.0
    assert found.complete is (n_diverged == (0, 0))


@pytest.mark.parametrize(("n_diverged", "n_runs"), [((4, 0), (3, 3)), ((0, 0), (0, 3))])
def test_more_failures_than_runs_are_refused(n_diverged, n_runs):
    with pytest.raises(ValueError, match="cannot have diverged"):
        convergence(n_diverged, n_runs)
