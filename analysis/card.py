"""What a model card says of one run: the verdict, its scores with intervals, how it was made.

``python -m analysis.card --runs FOLDER --recipe NAME --arm ARM --seed N`` prints JSON.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.findings import build_findings
from analysis.printing import number, settings
from analysis.records.load import load_study
from analysis.records.metrics import METRICS, SHARES
from analysis.records.study import RunRecord, StudyRecords
from analysis.statistics import NotTestableError
from analysis.statistics.clusters import cluster_variance, clusters_of
from analysis.statistics.wins import share_interval
from study.errors import RecordError


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the facts of one run as JSON; its ``verdict`` is null without a comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, required=True)
    asked = parser.parse_args(arguments)
    records = load_study(asked.runs)
    found = card_facts(records, recipe=asked.recipe, arm=asked.arm, seed=asked.seed)
    print(json.dumps(found, ensure_ascii=False, allow_nan=False))  # noqa: T201 - its one output


def card_facts(records: StudyRecords, *, recipe: str, arm: str, seed: int) -> dict[str, Any]:
    """Collect what the card of one run says.

    Args:
        records: what ``load_study`` read.
        recipe: the run's recipe.
        arm: its arm.
        seed: its seed.

    Raises:
        RecordError: there is no such run with scores.
    """
    runs = [run for run in records.ok(recipe, arm) if run.seed == seed]
    if not runs:
        raise RecordError(f"{recipe}/{arm}/seed-{seed} has no scores in {records.folder}")
    facts: dict[str, Any] = {
        "scores": score_rows(runs[0]),
        "settings": settings(runs[0].config["settings"]),
        "n_seeds": len(records.ok(recipe, arm)),
        "verdict": None,
        "limits": [],
        "commands": [],
        "signature": "",
    }
    findings = build_findings(records, origin="")
    if any(row.outcome != "not tested" for row in findings.decisions):
        facts["verdict"] = {"headline": findings.headline, "answer": findings.answer}
    return facts | {
        "limits": list(findings.cannot_conclude),
        "commands": list(findings.commands),
        "signature": findings.signature,
    }


def score_rows(run: RunRecord) -> list[dict[str, Any]]:
    """Return every score of one run with the 95 % interval over prompts like these.

    The interval is the mean ± t over clusters of prompts, with G* - 1 degrees of
    freedom (see ``analysis.statistics.clusters``), and for shares the one of
    `share_interval`, which stays within 0 and 1; it says nothing of other seeds.
    """
    rows = []
    for name, metric in METRICS.items():
        column = run.scores.get(name)
        if column is None or column.isna().all():
            continue
        kept = column.notna().to_numpy()
        values = column.to_numpy(dtype=float)[kept]
        clusters = list(run.examples["cluster_id"][kept])  # type: ignore[index]
        interval = share_interval if name in SHARES else _interval
        low, high = interval(values, clusters)
        rows.append(
            {
                "label": metric.label,
                "unit": metric.unit,
                "value": number(float(values.mean()), metric.digits),
                "low": None if low is None else number(low, metric.digits),
                "high": None if high is None else number(high, metric.digits),
                "n": int(kept.sum()),
            }
        )
    return rows


def _interval(
    values: npt.NDArray[np.float64], clusters: Sequence[str]
) -> tuple[float | None, float | None]:
    try:
        groups = clusters_of(clusters, len(values))
    except NotTestableError:
        return None, None
    variance, df = float(cluster_variance(values, groups)), groups.effective - 1
    if not (math.isfinite(variance) and df > 0):
        return None, None
    mean, half = float(values.mean()), float(stats.t.ppf(0.975, df)) * math.sqrt(variance)
    return mean - half, mean + half


if __name__ == "__main__":
    main()
