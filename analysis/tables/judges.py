"""Win rates of every arm by every judge, raw and at equal length, and what the judges are worth.

Null hypotheses, two-sided: over seeds and prompts like these, an arm and the baseline
win equally often against the chosen answers (``compare_clustered``, unpaired); Holm over
the treatments of one judge. Win rates at equal length have intervals and no test. No
part of the study's verdict, whose plan does not name them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.judged_rows import JudgeRow, WinRow
from analysis.records.study import StudyRecords
from analysis.statistics import Contrast, NotTestableError, compare_clustered, holm
from analysis.statistics.clusters import cluster_variance, clusters_of
from analysis.statistics.length import length_controlled_wins
from analysis.statistics.wins import share_interval
from study.arms import BASELINE, UNTRAINED, arms_in_order
from study.records.released import JudgedAnswers, JudgeRecord, Verdicts

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What one judge said of all runs of a recipe, on the prompts with all verdicts."""

    arms: Mapping[str, Array]
    """Arm -> ``(S, N)`` wins."""
    longer: Mapping[str, Array]
    """Arm -> ``(S, N)`` characters of its answer minus the chosen one's."""
    exact: Mapping[str, Array | None]
    """Arm -> ``(S, N)`` exact match, where it is known."""
    clusters: tuple[str, ...]
    n_missing: int


def judge_rows(records: StudyRecords) -> tuple[JudgeRow, ...]:
    """Say of every judge how often it is right on held-out pairs and on known answers."""
    rows = []
    for judge in records.judges:
        found = _runs_of(records, judge)
        if found:
            rows.append(_judge_row(records, judge, found))
    return tuple(rows)


def win_rows(records: StudyRecords) -> tuple[WinRow, ...]:
    """Summarise and compare win rates, judge by judge: raw first, then at equal length."""
    rows: list[WinRow] = []
    for judge in records.judges:
        shared = _shared(records, _runs_of(records, judge))
        if shared is None:
            continue
        raw = [_row(judge, shared, arm, shared.arms, controlled=False) for arm in shared.arms]
        level = {
            arm: length_controlled_wins(wins, shared.longer[arm])
            for arm, wins in shared.arms.items()
        }
        rows += _adjusted(raw)
        rows += [_row(judge, shared, arm, level, controlled=True) for arm in shared.arms]
    return tuple(rows)


def _runs_of(records: StudyRecords, judge: JudgeRecord) -> list[JudgedAnswers]:
    """Return the runs of the judge's recipe that it judged, where all were asked the same."""
    found = [
        one
        for one in records.judged
        if (one["recipe"], one["judge"]) == (judge["recipe"], judge["judge"])
    ]
    if len({tuple(one["verdicts"]["items"]) for one in found}) > 1:
        most = max(len(one["verdicts"]["items"]) for one in found)
        found = [one for one in found if len(one["verdicts"]["items"]) == most]
    return sorted(found, key=lambda one: one["seed"])


def _shared(records: StudyRecords, found: Sequence[JudgedAnswers]) -> Shared | None:
    """Line all runs up on the prompts on which none lacks a verdict."""
    if not found or len({tuple(one["verdicts"]["items"]) for one in found}) > 1:
        return None
    wins = np.array([_wins(one["verdicts"]) for one in found])
    kept = ~np.isnan(wins).any(axis=0)
    if kept.sum() < 3:
        return None
    arms = arms_in_order({one["arm"] for one in found})
    rows = {arm: [n for n, one in enumerate(found) if one["arm"] == arm] for arm in arms}
    lengths = np.array([one["lengths"] for one in found], dtype=np.float64)
    chosen = np.array([one["reference_lengths"] for one in found], dtype=np.float64)
    exact = [_exact(records, one) for one in found]
    return Shared(
        arms={arm: wins[n][:, kept] for arm, n in rows.items()},
        longer={arm: (lengths - chosen)[n][:, kept] for arm, n in rows.items()},
        exact={arm: _stacked([exact[i] for i in n], kept) for arm, n in rows.items()},
        clusters=tuple(np.array(found[0]["verdicts"]["clusters"])[kept].tolist()),
        n_missing=int((~kept).sum()),
    )


def _row(
    judge: JudgeRecord,
    shared: Shared,
    arm: str,
    scores: Mapping[str, Array],
    *,
    controlled: bool,
) -> WinRow:
    own, exact = scores[arm], shared.exact[arm]
    beside, difference = None, None
    if arm != BASELINE and BASELINE in scores:
        difference = float(own.mean() - scores[BASELINE].mean())
        beside = _compared(_twice(scores[BASELINE], BASELINE), _twice(own, arm), shared.clusters)
    low, high = (
        _over_prompts(own[0], shared.clusters)
        if arm == UNTRAINED
        else _around(_compared(np.full_like(own, 0.5), own, shared.clusters, paired=True))
    )
    difference_low, difference_high = (None, None) if beside is None else beside.interval()
    tested = beside is not None and arm != UNTRAINED and not controlled
    return WinRow(
        recipe=judge["recipe"],
        judge=judge["judge"],
        arm=arm,
        controlled=controlled,
        n_seeds=len(own),
        n_items=own.shape[1],
        n_missing=shared.n_missing,
        rate=float(own.mean()),
        low=low,
        high=high,
        difference=difference,
        difference_low=difference_low,
        difference_high=difference_high,
        p_adjusted=beside.p_value if beside is not None and tested else None,
        longer=float(shared.longer[arm].mean()),
        exact_match=None if exact is None else float(exact.mean()),
    )


def _compared(
    baseline: Array, treatment: Array, clusters: Sequence[str], *, paired: bool = False
) -> Contrast | None:
    """Compare two arms, or one with half; None where nothing can be tested."""
    try:
        return compare_clustered(baseline, treatment, paired=paired, clusters=clusters)
    except NotTestableError:
        return None


def _around(contrast: Contrast | None) -> tuple[float | None, float | None]:
    """Return the interval of a rate from that of its distance to half, within 0 and 1."""
    if contrast is None:
        return None, None
    low, high = contrast.interval()
    return max(0.0, 0.5 + low), min(1.0, 0.5 + high)


def _over_prompts(wins: Array, clusters: Sequence[str]) -> tuple[float | None, float | None]:
    """Return the interval of a model that no seed changes: over prompts, by cluster."""
    try:
        groups = clusters_of(clusters, len(wins))
    except NotTestableError:
        return None, None
    variance = float(cluster_variance(wins, groups))
    if not variance:
        return None, None
    reach = float(stats.t.ppf(0.975, groups.effective - 1)) * variance**0.5
    return max(0.0, float(wins.mean()) - reach), min(1.0, float(wins.mean()) + reach)


def _twice(scores: Array, arm: str) -> Array:
    """Return the untrained base, which no seed changes, as two equal runs."""
    return np.repeat(scores, 2, axis=0) if arm == UNTRAINED and len(scores) == 1 else scores


def _judge_row(
    records: StudyRecords, judge: JudgeRecord, found: Sequence[JudgedAnswers]
) -> JudgeRow:
    own = judge["held_out"]
    right = _wins(own)
    known = ~np.isnan(right)
    accuracy = float(right[known].mean()) if known.any() else None
    low, high = share_interval(
        right[known], [c for c, k in zip(own["clusters"], known, strict=True) if k]
    )
    exact = [_exact(records, one) for one in found]
    both = [(_wins(a["verdicts"]), e) for a, e in zip(found, exact, strict=True) if e is not None]
    wins = np.concatenate([w for w, _ in both]) if both else np.zeros(0)
    match = np.concatenate([e for _, e in both]) if both else np.zeros(0)
    judged = ~np.isnan(wins) & ~np.isnan(match)
    wrong, good = wins[judged & (match == 0)], wins[judged & (match == 1)]
    every = [own, *(one["verdicts"] for one in found)]
    n_verdicts = sum(int((~np.isnan(_wins(one))).sum()) for one in every)
    return JudgeRow(
        recipe=judge["recipe"],
        judge=judge["judge"],
        kind=judge["kind"],
        name=judge["name"],
        identity=judge["identity"],
        trained_on=judge.get("trained_on", ""),
        n_pairs=int(known.sum()),
        accuracy=accuracy,
        low=low,
        high=high,
        n_missing=int((~known).sum()),
        turned=sum(one["turned"] for one in every) / n_verdicts
        if judge["kind"] == "endpoint" and n_verdicts
        else None,
        caught=float((wrong < 0.5).mean()) if len(wrong) else None,
        n_wrong=len(wrong),
        kept=float((good >= 0.5).mean()) if len(good) else None,
        n_right=len(good),
        correlation=_rank_correlation(both),
        n_runs=len(found),
    )


def _rank_correlation(both: Sequence[tuple[Array, Array]]) -> float | None:
    """Return Spearman's correlation of win rate with exact match over runs."""
    rates = [(float(np.nanmean(w)), float(np.nanmean(e))) for w, e in both if not np.isnan(w).all()]
    if len(rates) < 3 or any(len(set(side)) < 2 for side in zip(*rates, strict=True)):
        return None
    return float(stats.spearmanr(*zip(*rates, strict=True)).statistic)


def _wins(verdicts: Verdicts) -> Array:
    return np.array([np.nan if w is None else w for w in verdicts["wins"]], dtype=np.float64)


def _exact(records: StudyRecords, one: JudgedAnswers) -> Array | None:
    """Return a run's exact match on the prompts that were judged, in their order."""
    runs = [run for run in records.ok(one["recipe"], one["arm"]) if run.seed == one["seed"]]
    if not runs or runs[0].examples is None or "exact_match" not in runs[0].examples:
        return None
    examples = runs[0].examples
    by_item = dict(zip(examples["example_id"], examples["exact_match"].astype(float), strict=True))
    found = np.array([by_item.get(name, np.nan) for name in one["verdicts"]["items"]])
    return None if np.isnan(found).any() else found


def _stacked(rows: Sequence[Array | None], kept: npt.NDArray[np.bool_]) -> Array | None:
    known = [row for row in rows if row is not None]
    return np.array(known)[:, kept] if len(known) == len(rows) else None


def _adjusted(rows: Sequence[WinRow]) -> list[WinRow]:
    """Correct the p-values of one judge."""
    tested = [row for row in rows if row.p_adjusted is not None]
    corrected = dict(zip(map(id, tested), holm([r.p_adjusted for r in tested]), strict=True))
    return [replace(row, p_adjusted=corrected.get(id(row))) for row in rows]
