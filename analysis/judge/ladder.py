"""How an article's published gap moves as its differences are mended (METHODS.md, 8).

A step compares two set-ups, of the baseline's arm and of the treatment's, as far as
a ladder is climbed. Its ROUGE-L is scored with the faults that are left; its
ranking is each arm's own, under the template that it was trained with.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.judge.comparisons import POOLED, averaged, contrast_of
from analysis.judged_rows import LadderRow
from analysis.records.published_rouge import SCORED, published_scores
from analysis.records.study import RunRecord, Scores, StudyRecords
from analysis.statistics import NotTestableError
from study.config.ladder import PUBLISHED
from study.records.texts import has_texts

SHOWN: Final = ("rougeL", "accuracy")
"""What the article compares, and what the arms are trained for."""

Step = Mapping[str, Any]
Sides = tuple[Scores, Scores]


def ladder_rows(records: StudyRecords) -> tuple[LadderRow, ...]:
    """Measure the gap on every step that both its set-ups have finished runs for.

    Nothing is tested. Over all models first, where there are several.
    """
    rows = []
    for metric in SHOWN:
        steps = [steps_of(records, recipe) for recipe in records.ladders]
        for together in zip(*steps, strict=False):
            found = {
                recipe: sides
                for recipe, step in zip(records.ladders, together, strict=True)
                if not isinstance(sides := sides_of(records, recipe, step, metric), str)
            }
            rows += list(_rows(records, together[0], metric, found))
    places = [POOLED, *records.ladders]
    return tuple(sorted(rows, key=lambda row: (places.index(row.recipe), row.metric != SHOWN[0])))


def steps_of(records: StudyRecords, recipe: str) -> list[Step]:
    """List the steps of a ladder that change what is compared."""
    return [step for step in records.ladders[recipe]["steps"] if step["touches"] != "comparison"]


def sides_of(records: StudyRecords, recipe: str, step: Step, metric: str) -> Sides | str:
    """Return both sides' scores on a step, on the same examples, or why there are none."""
    found = scores_on(records, recipe, [(step, "baseline"), (step, "treatment")], metric)
    return found if isinstance(found, str) else (found[0], found[1])


def scores_on(
    records: StudyRecords, recipe: str, wanted: Sequence[tuple[Step, str]], metric: str
) -> list[Scores] | str:
    """Return scores of several sides, on the examples that all of them have.

    Args:
        records: what was read.
        recipe: whose ladder.
        wanted: (step, ``baseline`` or ``treatment``) of each side.
        metric: ``rougeL`` as the step scores it, or any other score.
    """
    seeds = records.ladders[recipe]["seeds"]
    tables = []
    for step, side in wanted:
        name = step[side]
        runs = [run for run in records.ladder_runs if (run.recipe, run.arm) == (recipe, name)]
        missing = [seed for seed in seeds if seed not in {run.seed for run in runs}]
        if missing:
            return f"{name} has no finished run of seed {missing[0]}; `study reproduce` makes it"
        diverged = sum(not run.ok for run in runs)
        if diverged:
            return f"{diverged} runs of {name} diverged"
        columns = [_scored(run, step, metric) for run in runs]
        if any(column is None for column in columns):
            return "prompts and references are not published; `study report --data` reads them"
        tables.append(pd.DataFrame({run.seed: c for run, c in zip(runs, columns, strict=True)}))
    common = tables[0].dropna().index
    for table in tables[1:]:
        common = common[common.isin(table.dropna().index)]
    if common.empty:
        return "no answers were generated"
    clusters = _clusters(records, recipe)
    return [
        Scores(
            seeds=tuple(int(seed) for seed in table.columns),
            clusters=tuple(clusters[name] for name in common),
            matrix=table.loc[common].to_numpy(dtype=float).T,
        )
        for table in tables
    ]


def _clusters(records: StudyRecords, recipe: str) -> dict[str, str]:
    return {
        str(example): str(cluster)
        for run in records.ladder_runs
        if run.recipe == recipe and run.examples is not None
        for example, cluster in zip(
            run.examples["example_id"], run.examples["cluster_id"], strict=True
        )
    }


def _scored(run: RunRecord, step: Step, metric: str) -> "pd.Series[float] | None":
    """Return a run's score of each example; None where texts that it needs are not known."""
    flaws = step["flaws"] if metric == "rougeL" else ()
    if not flaws:
        assert run.examples is not None
        return pd.Series(run.scores[metric].to_numpy(dtype=float), index=run.examples["example_id"])
    rows = run.answers[step["answers"]] if step["answers"] else run.generations
    if not has_texts(rows):
        return None
    scores = published_scores(
        rows,
        share=SCORED if "denominator" in flaws else 1.0,
        with_prompt="prompt-in-answer" in flaws,
    )
    return pd.Series(scores["rougeL"], index=[row["example_id"] for row in rows])


def _rows(
    records: StudyRecords, step: Step, metric: str, found: Mapping[str, Sides]
) -> Iterator[LadderRow]:
    if len(found) > 1 and len(found) == len(records.ladders):
        yield _row(records, step, metric, POOLED, list(found.values()))
    for recipe, sides in found.items():
        yield _row(records, step, metric, recipe, [sides])


def _row(
    records: StudyRecords, step: Step, metric: str, recipe: str, found: Sequence[Sides]
) -> LadderRow:
    places = records.ladders if recipe == POOLED else (recipe,)
    paired = all(records.ladders[place]["paired"] for place in places)
    low = high = None
    try:
        one = (
            averaged(found, paired=paired)
            if len(found) > 1
            else contrast_of(*found[0], paired=paired)
        )
        low, high = one.interval()
    except NotTestableError:
        pass
    gaps = [b.matrix.mean(axis=1) - a.matrix.mean(axis=1) for a, b in found]
    baseline, treatment = (
        float(np.mean([sides[place].matrix.mean() for sides in found])) for place in (0, 1)
    )
    return LadderRow(
        recipe=recipe,
        rung=step["rung"],
        touches=step["touches"],
        published=step["published"],
        mended=step["mended"] if step["rung"] != PUBLISHED else "",
        metric=metric,
        baseline=baseline,
        treatment=treatment,
        estimate=treatment - baseline,
        low=low,
        high=high,
        by_seed=tuple(float(gap) for of_model in gaps for gap in of_model),
        n_examples=sum(a.matrix.shape[1] for a, _ in found),
    )
