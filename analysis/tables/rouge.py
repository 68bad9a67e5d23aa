"""ROUGE of every arm under article A's published scoring and under the study's own."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from analysis.printing import arm_name, number
from analysis.records.published_rouge import ROUGE, published_scores
from analysis.records.study import RunRecord, StudyRecords
from analysis.rows import RougeRow
from study.records.texts import has_texts

KINDS: Final = ("corrected", "published")


def rouge_rows(records: StudyRecords) -> tuple[RougeRow, ...]:
    """Score the answers on record both ways, as means over answers and seeds.

    A recipe whose references were not published is left out.
    """
    rows = []
    for recipe in records.recipes:
        for arm in records.arms(recipe):
            runs = [run for run in records.ok(recipe, arm) if run.generations]
            if runs and all(has_texts(run.generations) for run in runs):
                rows.append(_rouge_row(runs))
    return tuple(rows)


def rouge_remarks(rows: Sequence[RougeRow]) -> tuple[str, ...]:
    """Say whether the published scoring ranks the arms otherwise, per recipe."""
    sentences = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        arms = [row for row in rows if row.recipe == recipe]
        ours, theirs = (_order(arms, kind) for kind in KINDS)
        same = "in the same order" if ours == theirs else f"in another order: {theirs}"
        means = [sum(getattr(row, kind)["rougeL"] for row in arms) for kind in KINDS]
        ratio = f", at {number(means[1] / means[0], 2)} times the mean" if means[0] else ""
        sentences.append(
            f"{recipe}: corrected ROUGE-L ranks the arms {ours}; the published scoring "
            f"puts them {same}{ratio}."
        )
    return tuple(sentences)


def _rouge_row(runs: Sequence[RunRecord]) -> RougeRow:
    return RougeRow(
        recipe=runs[0].recipe,
        arm=runs[0].arm,
        n_seeds=len(runs),
        n_answers=len(runs[0].generations),
        corrected=_means([run.scores for run in runs]),
        published=_means([published_scores(run.generations) for run in runs]),
    )


def _means(found: Sequence[Any]) -> dict[str, float]:
    """Average columns over the pairs that were answered, then over runs."""
    return {name: float(np.mean([np.nanmean(scores[name]) for scores in found])) for name in ROUGE}


def _order(rows: Sequence[RougeRow], kind: str) -> str:
    """Chain the arms from the highest mean ROUGE-L to the lowest; printed alike is equal."""
    values = {row.arm: number(getattr(row, kind)["rougeL"], 3) for row in rows}
    arms = sorted(values, key=lambda arm: values[arm], reverse=True)
    signs = [" = " if values[a] == values[b] else " > " for a, b in pairwise(arms)]
    return "".join(
        part for arm, sign in zip(arms, [*signs, ""], strict=True) for part in (arm_name(arm), sign)
    )
