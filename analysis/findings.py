"""Findings: every number, decision and verdict that the write-up prints."""

import dataclasses
import json

from analysis.judge.claims import claim_remarks, claim_rows
from analysis.judge.comparisons import comparisons, pooled_comparisons
from analysis.judge.contrasts import contrast_rows
from analysis.judge.decisions import decision_rows
from analysis.judge.intervals import matched_rows, subgroup_rows
from analysis.judge.judged import judged_by
from analysis.judge.ladder import ladder_rows
from analysis.judge.several import best_sets
from analysis.judged_rows import (
    BenchmarkRow,
    BestSetRow,
    ClaimPart,
    ClaimRow,
    CoPrimaryRow,
    DecisionRow,
    DisplacementRow,
    IntervalRow,
    JudgeRow,
    LadderRow,
    WinRow,
)
from analysis.records.load import StudyRecords
from analysis.records.metrics import METRICS
from analysis.rows import (
    ArmRow,
    Bench,
    BenchRow,
    CalibrationRow,
    ContrastRow,
    CostRow,
    DataRow,
    FigureFile,
    Findings,
    Metric,
    RougeRow,
    Sample,
    SearchRow,
    Summary,
)
from analysis.search_rows import TuningRow
from analysis.statistics import calibration
from analysis.tables import arms as tables
from analysis.tables import provenance
from analysis.tables.bench import bench_table
from analysis.tables.benchmarks import benchmark_rows
from analysis.tables.judges import judge_rows, win_rows
from analysis.tables.rouge import rouge_remarks, rouge_rows
from analysis.tables.trials import budget_remarks, tuning_rows
from analysis.words import advice, notes
from analysis.words import answer as wording
from analysis.words.deviations import deviations
from analysis.words.displacement import displacement, displacement_rows
from analysis.words.history import history
from analysis.words.judges import judge_remarks
from analysis.words.ladder import ladder_remarks
from analysis.words.limits import cannot_conclude, failed_runs, search_remarks

__all__ = [
    "ArmRow",
    "Bench",
    "BenchRow",
    "BenchmarkRow",
    "BestSetRow",
    "CalibrationRow",
    "ClaimPart",
    "ClaimRow",
    "CoPrimaryRow",
    "ContrastRow",
    "CostRow",
    "DataRow",
    "DecisionRow",
    "DisplacementRow",
    "FigureFile",
    "Findings",
    "IntervalRow",
    "JudgeRow",
    "LadderRow",
    "Metric",
    "RougeRow",
    "Sample",
    "SearchRow",
    "Summary",
    "TuningRow",
    "WinRow",
    "build_findings",
    "to_json",
]


def build_findings(records: StudyRecords, *, origin: str) -> Findings:
    """Judge a study's records.

    The verdict is ``decisions``: every treatment against the baseline over two
    co-primary metrics. Null hypotheses, per metric two-sided at half of 5 %: over
    seeds and prompts like these the difference, averaged over exactly these models,
    is zero; of the other metric, one-sided: the treatment loses its smallest effect
    of interest. ``contrasts`` and ``pooled`` hold the tests, ``best_sets`` three or
    more arms. Smallest n: two seeds per arm, which is exploratory; ask for five, or
    for three with two models.

    Args:
        records: what ``load_study`` read.
        origin: where they come from and why, for the report's first page.
    """
    judged = judged_by(records)
    found = comparisons(records, judged)
    over_all = pooled_comparisons(found)
    contrasts, pooled = contrast_rows(found, over_all, judged)
    arms, costs = tables.arm_rows(records), tables.cost_rows(records)
    both = (*over_all, *found)
    decisions = decision_rows(records, judged, both, (*pooled, *contrasts), costs)
    best = best_sets(records, judged)
    searches, tuning = tables.search_rows(records), tuning_rows(records)
    rouge, claims = rouge_rows(records), claim_rows(records)
    judges = judge_rows(records)
    ladder = ladder_rows(records)
    displaced = displacement_rows(records, found)
    reported = {name for arm in arms for name in arm.scores}
    return Findings(
        headline=wording.headline(decisions, records.treatments, best),
        answer=wording.answer(
            decisions,
            arms,
            records.treatments,
            planned=judged.planned if judged.late else (),
            best_sets=best,
        ),
        primary_metrics=judged.primary,
        decisions=decisions,
        history=history(records, judged),
        best_sets=best,
        metrics={name: metric for name, metric in METRICS.items() if name in reported},
        recipes=provenance.descriptions(records),
        arms=arms,
        contrasts=contrasts,
        searches=searches,
        costs=costs,
        samples=tables.sample_rows(records),
        data=tables.data_rows(records),
        failed_runs=(*failed_runs(records), *advice.failure_rates(records)),
        cannot_conclude=cannot_conclude(records, arms, contrasts),
        deviations=deviations(records),
        environment=provenance.environment(records),
        digests=provenance.run_digests(records),
        configurations=provenance.configurations(records),
        signature=provenance.signature(records),
        origin=origin,
        commands=provenance.commands(records),
        search_remarks=(
            *search_remarks(records, searches),
            *budget_remarks(records, tuning),
        ),
        pooled=pooled,
        test_remarks=advice.test_remarks(both, (*contrasts, *pooled), judged),
        calibration=calibration.read_results(),
        bench=bench_table(records.bench),
        tuning=tuning,
        rouge=rouge,
        rouge_remarks=rouge_remarks(rouge),
        displacement=displacement(displaced),
        displaced=displaced,
        n_earlier=len(records.history),
        table_notes=notes.table_notes(records, (*contrasts, *pooled)),
        claims=claims,
        claim_remarks=claim_remarks(records, claims),
        ladder=ladder,
        ladder_remarks=ladder_remarks(records, ladder),
        benchmarks=benchmark_rows(records),
        judges=judges,
        judge_remarks=judge_remarks(judges),
        wins=win_rows(records),
        subgroups=subgroup_rows(records, judged),
        matched=matched_rows(records, [name for name in METRICS if name in reported]),
    )


def to_json(findings: Findings) -> str:
    """Write findings as JSON at full precision; refuses values that are not finite."""
    tree = dataclasses.asdict(findings)
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
