"""Differences with intervals and without tests: in subgroups, and from the matched baseline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from analysis.judge.comparisons import POOLED, averaged, contrast_of, is_paired
from analysis.judge.judged import Judged
from analysis.judged_rows import IntervalRow
from analysis.printing import is_matched
from analysis.records.load import score_matrix
from analysis.records.study import Scores, StudyRecords
from analysis.statistics import Contrast, NotTestableError
from study.arms import BASELINE
from study.records.texts import has_texts

FEWEST: Final = 8
"""Pairs of a group that is shown."""
SOURCE, FAMILY, LENGTH = "source", "question family", "length of the prompt"
QUARTERS: Final = ("shortest quarter", "second quarter", "third quarter", "longest quarter")

Labels = Mapping[str, npt.NDArray[np.object_]]
Sides = tuple[Scores, Scores]


def subgroup_rows(records: StudyRecords, judged: Judged) -> tuple[IntervalRow, ...]:
    """Compare every treatment with the baseline within the registered subgroups.

    They are the pair's source, the family of its question, and the quarter of its
    prompt's length, see `prompt_lengths`. A grouping with one group is left out, so are
    groups of fewer than ``FEWEST`` pairs.
    """
    treatments = [arm for arm in records.treatments if not is_matched(arm)]
    return tuple(
        row
        for treatment in treatments
        for metric in judged.primary
        for row in _subgroups(records, treatment, metric)
    )


def matched_rows(records: StudyRecords, metrics: Sequence[str]) -> tuple[IntervalRow, ...]:
    """Compare every treatment with the baseline that was given as many tokens, if there is one."""
    return tuple(
        row
        for baseline in records.treatments
        if is_matched(baseline)
        for treatment in records.treatments
        if not is_matched(treatment)
        for metric in metrics
        for row in _rows(
            records,
            IntervalRow(
                recipe="", baseline=baseline, treatment=treatment, metric=metric, estimate=0.0
            ),
            {recipe: _sides(records, recipe, baseline, treatment, metric)
             for recipe in records.recipes},
        )
    )  # fmt: skip


def _sides(
    records: StudyRecords, recipe: str, baseline: str, treatment: str, metric: str
) -> Sides | None:
    a, b = (score_matrix(records, recipe, arm, metric) for arm in (baseline, treatment))
    return None if a is None or b is None else (a, b)


def _subgroups(records: StudyRecords, treatment: str, metric: str) -> Iterator[IntervalRow]:
    found = {
        recipe: _sides(records, recipe, BASELINE, treatment, metric) for recipe in records.recipes
    }
    labels = {recipe: _labels(records, recipe, metric) for recipe in records.recipes}
    for grouping in (SOURCE, FAMILY, LENGTH):
        names = {name for known in labels.values() for name in known[grouping] if name}
        if len(names) < 2:
            continue
        for name in sorted(names, key=_order):
            bare = IntervalRow(
                recipe="", baseline=BASELINE, treatment=treatment, metric=metric, estimate=0.0,
                grouping=grouping, group=name,
            )  # fmt: skip
            parts = {
                recipe: _part(sides, labels[recipe][grouping] == name)
                for recipe, sides in found.items()
            }
            yield from _rows(records, bare, parts)


def _order(name: str) -> tuple[int, str]:
    return (QUARTERS.index(name) if name in QUARTERS else -1, name)


def _part(sides: Sides | None, inside: npt.NDArray[np.bool_]) -> Sides | None:
    """Return the scores of some pairs, or None where they are too few."""
    if sides is None or inside.sum() < FEWEST:
        return None
    a, b = (
        replace(
            side,
            matrix=side.matrix[:, inside],
            clusters=tuple(np.array(side.clusters)[inside]),
        )
        for side in sides
    )
    return a, b


def _rows(
    records: StudyRecords, bare: IntervalRow, found: Mapping[str, Sides | None]
) -> Iterator[IntervalRow]:
    """Yield the difference over all models, where there are several, then on each."""
    known = {recipe: sides for recipe, sides in found.items() if sides is not None}
    paired = {recipe: is_paired(records, recipe) and _same_seeds(known[recipe]) for recipe in known}
    if len(known) > 1 and len(known) == len(records.recipes):
        estimate = float(np.mean([_difference(sides) for sides in known.values()]))
        n = sum(sides[0].matrix.shape[1] for sides in known.values())
        pooled = replace(bare, recipe=POOLED, estimate=estimate, n_examples=n)
        try:
            yield _bounded(pooled, averaged(list(known.values()), paired=all(paired.values())))
        except NotTestableError:
            yield pooled
    for recipe, sides in known.items():
        one = replace(
            bare,
            recipe=recipe,
            estimate=_difference(sides),
            n_examples=sides[0].matrix.shape[1],
        )
        try:
            yield _bounded(one, contrast_of(*sides, paired=paired[recipe]))
        except NotTestableError:
            yield one


def _same_seeds(sides: Sides) -> bool:
    return sides[0].seeds == sides[1].seeds


def _difference(sides: Sides) -> float:
    return float(sides[1].matrix.mean() - sides[0].matrix.mean())


def _bounded(row: IntervalRow, contrast: Contrast) -> IntervalRow:
    low, high = contrast.interval()
    return replace(row, low=low, high=high)


def _labels(records: StudyRecords, recipe: str, metric: str) -> Labels:
    """Name the group of every pair that a metric scores, empty where it is not known."""
    run = next(run for run in records.of(recipe) if run.examples is not None)
    assert run.examples is not None
    scored = run.scores.get(metric)
    frame = run.examples if scored is None else run.examples[scored.notna()]
    named = (
        frame["source"].astype(str) if "source" in frame else frame["example_id"].map(lambda _: "")
    )
    parts = named.str.partition("/")
    lengths, _ = prompt_lengths(records, recipe)
    edges = np.quantile(list(lengths.values()) or [0], (0.25, 0.5, 0.75))
    return {
        SOURCE: parts[0].to_numpy(dtype=object),
        FAMILY: parts[2].to_numpy(dtype=object),
        LENGTH: np.array(
            [
                QUARTERS[int(np.searchsorted(edges, lengths[name]))] if name in lengths else ""
                for name in frame["example_id"].astype(str)
            ],
            dtype=object,
        ),
    }


def prompt_lengths(records: StudyRecords, recipe: str) -> tuple[Mapping[str, int], str]:
    """Return the length of every prompt that is known, by example, and its unit.

    Tokens as the runs counted them; of older records, which did not, characters of the
    answered prompts whose text is published or known here. The unit is empty without any.
    """
    frame = next(run.examples for run in records.of(recipe) if run.examples is not None)
    if "prompt_tokens" in frame:
        names = frame["example_id"].astype(str)
        return dict(zip(names, frame["prompt_tokens"].astype(int), strict=True)), "tokens"
    known = {
        str(row["example_id"]): len(row["prompt"])
        for run in records.of(recipe)
        for row in run.generations
        if has_texts([row])
    }
    return known, "characters" if known else ""
