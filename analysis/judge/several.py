"""Three or more trained arms: the best set, and all pairs (METHODS.md, 10)."""

from analysis import statistics as stats
from analysis.judge.judged import Judged
from analysis.judged_rows import BestSetRow, PairRow
from analysis.records.load import score_matrix
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords
from analysis.statistics.arms import ArmContrast
from study.arms import BASELINE


def best_sets(records: StudyRecords, judged: Judged) -> tuple[BestSetRow, ...]:
    """Find the arms that none is shown to beat, in each co-primary metric.

    Null hypotheses, one-sided: arm j is no better than arm i, on average of the
    models; the truly best arm stays with at least 95 %. Smallest n: two seeds of
    every arm on every model; empty with fewer than three trained arms.
    """
    arms = (BASELINE, *records.treatments)
    if len(arms) < 3:
        return ()
    return tuple(found for metric in judged.primary if (found := _best_set(records, metric, arms)))


def _best_set(records: StudyRecords, metric: str, arms: tuple[str, ...]) -> BestSetRow | None:
    scores = {
        arm: [score_matrix(records, recipe, arm, metric) for recipe in records.recipes]
        for arm in arms
    }
    present = {
        arm: known
        for arm, of_models in scores.items()
        if len(known := [one for one in of_models if one is not None]) == len(of_models)
    }
    try:
        pairs = stats.all_pairs(
            {arm: [one.matrix for one in known] for arm, known in present.items()},
            clusters=[one.clusters for one in next(iter(present.values()), [])],
            seeds={arm: [one.seeds for one in known] for arm, known in present.items()},
        )
    except stats.NotTestableError:
        return None
    if not pairs:
        return None
    higher = METRICS[metric].higher_is_better is not False
    return BestSetRow(
        metric=metric,
        kept=stats.best_set(pairs, higher_is_better=higher),
        pairs=tuple(map(_pair, pairs)),
        n_models=len(records.recipes),
    )


def _pair(found: ArmContrast) -> PairRow:
    low, high = found.contrast.interval()
    return PairRow(
        baseline=found.baseline,
        treatment=found.treatment,
        estimate=found.contrast.estimate,
        low=low,
        high=high,
        p_adjusted=found.p_adjusted,
    )
