"""Whether training made chosen answers less likely while it ranked them better."""

from collections.abc import Sequence

from analysis.judge.comparisons import Comparison
from analysis.printing import arm_name, in_unit, number, signed
from analysis.records.metrics import METRICS
from study.arms import UNTRAINED


def displacement(found: Sequence[Comparison]) -> tuple[str, ...]:
    """Flag the arms whose chosen answers lost likelihood while their margin grew.

    Both against the base model, on held-out pairs: the 95 % intervals of the
    chosen answers' log-probability and of the margin lie below and above zero.
    Where no interval can be had, from one run, the estimates decide.

    Source: Razin et al. (2024), who call it likelihood displacement.
    """
    rows = {
        (one.recipe, one.treatment, one.metric): one for one in found if one.baseline == UNTRAINED
    }
    sentences = []
    for (recipe, arm, metric), chosen in rows.items():
        margin = rows.get((recipe, arm, "margin"))
        if metric != "chosen_logps" or margin is None:
            continue
        if _bounds(chosen)[1] < 0 < _bounds(margin)[0]:
            sentences.append(
                f"Flag, {recipe}: {arm_name(arm)} makes chosen answers less likely than the base "
                f"model does, {_effect(chosen)}, while its margin grows, {_effect(margin)}: it "
                "ranks by making rejected answers even less likely, and what it generates may "
                "resemble neither."
            )
    return tuple(sentences)


def _bounds(found: Comparison) -> tuple[float, float]:
    if found.contrast is None:
        return found.estimate, found.estimate
    return found.contrast.interval()


def _effect(found: Comparison) -> str:
    metric = METRICS[found.metric]
    size = in_unit(signed(found.estimate, metric.digits), metric)
    if found.contrast is None:
        return f"by {size} in one run, which is not tested"
    low, high = (number(bound, metric.digits) for bound in found.contrast.interval())
    return f"by {size} (95 % interval {low} to {high})"
