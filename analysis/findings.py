"""Findings: every number, decision and verdict that the write-up prints."""

import dataclasses
import json

from analysis.judge.claims import claim_remarks, claim_rows
from analysis.judge.comparisons import comparisons, pooled_comparisons
from analysis.judge.contrasts import contrast_rows
from analysis.records.load import StudyRecords
from analysis.records.metrics import METRICS
from analysis.rows import (
    ArmRow,
    Bench,
    BenchRow,
    CalibrationRow,
    ClaimPart,
    ClaimRow,
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
from analysis.tables.rouge import rouge_remarks, rouge_rows
from analysis.tables.trials import budget_remarks, tuning_rows
from analysis.words import advice, notes
from analysis.words import answer as wording
from analysis.words.deviations import deviations
from analysis.words.displacement import displacement
from analysis.words.limits import cannot_conclude, failed_runs, search_remarks

__all__ = [
    "ArmRow",
    "Bench",
    "BenchRow",
    "CalibrationRow",
    "ClaimPart",
    "ClaimRow",
    "ContrastRow",
    "CostRow",
    "DataRow",
    "FigureFile",
    "Findings",
    "Metric",
    "RougeRow",
    "Sample",
    "SearchRow",
    "Summary",
    "TuningRow",
    "build_findings",
    "to_json",
]


def build_findings(records: StudyRecords, *, origin: str) -> Findings:
    """Judge a study's records.

    Args:
        records: what ``load_study`` read.
        origin: where they come from and why, for the report's first page.
    """
    primary = records.primary_metric
    arms = tables.arm_rows(records)
    found = comparisons(records)
    over_all = pooled_comparisons(found)
    contrasts, pooled = contrast_rows(found, over_all, primary=primary)
    searches = tables.search_rows(records)
    tuning = tuning_rows(records)
    rouge = rouge_rows(records)
    claims = claim_rows(records)
    reported = {name for arm in arms for name in arm.scores}
    return Findings(
        answer=wording.answer((*pooled, *contrasts), arms, primary, records.treatments),
        primary_metric=primary,
        metrics={name: metric for name, metric in METRICS.items() if name in reported},
        recipes=provenance.descriptions(records),
        arms=arms,
        contrasts=contrasts,
        searches=searches,
        costs=tables.cost_rows(records),
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
        test_remarks=advice.test_remarks(found, over_all, (*contrasts, *pooled), primary=primary),
        calibration=calibration.read_results(),
        bench=bench_table(records.bench),
        tuning=tuning,
        rouge=rouge,
        rouge_remarks=rouge_remarks(rouge),
        displacement=displacement(found),
        table_notes=notes.table_notes(records, (*contrasts, *pooled)),
        claims=claims,
        claim_remarks=claim_remarks(records, claims),
    )


def to_json(findings: Findings) -> str:
    """Write findings as JSON at full precision; refuses values that are not finite."""
    tree = dataclasses.asdict(findings)
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
