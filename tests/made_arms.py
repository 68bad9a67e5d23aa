"""Findings on every arm there is and with every section, made of those on two arms."""

import dataclasses
from typing import Any

from analysis.findings import BestSetRow, DisplacementRow, Findings
from analysis.judged_rows import JudgeRow, LadderRow, PairRow
from analysis.statistics import Outcome
from study.arms import ARMS

LIKE_ORPO = tuple(name for name in ARMS if name not in ("base", "sft", "orpo"))
OUTCOMES = {"sft-matched": Outcome.BETTER, "dpo": Outcome.TRADE_OFF, "kto": Outcome.WORSE}


def with_every_arm(findings: Findings) -> Findings:
    """Give every arm ORPO's numbers; some have other verdicts."""

    def more(rows: Any, field: str = "arm") -> Any:
        copies = [
            dataclasses.replace(row, **{field: name})
            for name in LIKE_ORPO
            for row in rows
            if getattr(row, field) == "orpo"
        ]
        return (*rows, *copies)

    decisions = tuple(
        dataclasses.replace(row, outcome=OUTCOMES.get(row.treatment, Outcome.INCONCLUSIVE))
        for row in more(findings.decisions, "treatment")
    )
    return dataclasses.replace(
        findings,
        arms=more(findings.arms),
        contrasts=more(findings.contrasts, "treatment"),
        pooled=more(findings.pooled, "treatment"),
        decisions=decisions,
        costs=more(findings.costs),
        searches=more(findings.searches),
        table_notes=_Notes(findings.table_notes),
        best_sets=tuple(best_set(name) for name in findings.primary_metrics),
        displaced=tuple(
            DisplacementRow(
                recipe=recipe,
                arm=arm,
                start="sft",
                chosen=(-0.5, -0.6, -0.4),
                margin=(0.5, 0.4, 0.6),
                flagged=arm == "dpo",
                rewards=(1.0, -2.0, 0.75) if arm == "dpo" else (),
            )
            for recipe in findings.recipes
            for arm in ("dpo", "cpo")
        ),
    )


def best_set(metric: str) -> BestSetRow:
    """Return all pairs of all trained arms; ORPO leads and nobody is shown to be behind DPO."""
    arms = [name for name in ARMS if name != "base"]
    pairs = tuple(
        PairRow(
            baseline=a,
            treatment=b,
            estimate=0.05 if b == "orpo" else -0.05 if a == "orpo" else 0.0,
            low=-0.1,
            high=0.1,
            p_adjusted=0.01 if "orpo" in (a, b) else 1.0,
        )
        for place, a in enumerate(arms)
        for b in arms[place + 1 :]
    )
    return BestSetRow(metric=metric, kept=("dpo", "orpo"), pairs=pairs, n_models=2)


class _Notes(dict[str, str]):
    """Notes of tables, with those of ORPO for the other arms."""

    def __missing__(self, name: str) -> str:
        for arm in LIKE_ORPO:
            if name.endswith(f":{arm}"):
                return self[f"{name.removesuffix(arm)}orpo"]
        raise KeyError(name)


LADDER_ROW = LadderRow(
    recipe="all models",
    rung="published",
    touches="",
    published="",
    mended="",
    metric="rougeL",
    baseline=0.104,
    treatment=0.098,
    estimate=-0.006,
    low=-0.011,
    high=-0.001,
    by_seed=(-0.009, -0.003),
    n_examples=40,
)
"""The gap of an article as it was published."""

JUDGE_ROW = JudgeRow(
    recipe="tiny-llama",
    judge="a reward model",
    kind="reward",
    name="reward",
    identity="0123",
    trained_on="",
    n_pairs=40,
    accuracy=0.8,
    low=0.6,
    high=0.9,
    n_missing=0,
    turned=None,
    caught=None,
    n_wrong=0,
    kept=None,
    n_right=0,
    correlation=None,
    n_runs=6,
)


def with_every_section(findings: Findings) -> Findings:
    """Return findings of a study that also reproduced an article and asked a judge."""
    return dataclasses.replace(findings, ladder=(LADDER_ROW,), judges=(JUDGE_ROW,))
