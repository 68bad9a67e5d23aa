"""The line under every table: what is tested in it, on how many cases, corrected how."""

from collections.abc import Sequence
from typing import Final

from analysis.judge.intervals import prompt_lengths
from analysis.printing import in_unit, listed
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords
from analysis.rows import ContrastRow
from study.arms import UNTRAINED

UNTESTED: Final = "Nothing is tested in this table."


FIXED: Final = {
    "decisions": (
        "Null hypotheses: of each metric, two-sided at half of 5 % where there are two, that the "
        "arms do not differ over seeds and prompts like these, on average of exactly these models "
        "or on one; of the other metric, one-sided, that the arm loses the margin beside the "
        "p-value or more. Better needs one metric better and none inferior; one better and "
        "another not shown non-inferior is a trade-off. Models alike: the difference is the same "
        "in all of them, judged at 10 %. n: the runs in the table, pairs as in the tests."
    ),
    "search": (
        f"{UNTESTED} n: trials as counted, one run each with the same seed; Repeated is a mean "
        "over fresh seeds. Objective values of different searches are not compared."
    ),
    "published": (
        f"{UNTESTED} n: one trial per setting unless repetitions are named; single trials have no "
        "interval, so a difference within the spread of repetitions means nothing."
    ),
    "weights": f"{UNTESTED} n: one run per trial, all with the same seed; no repetitions.",
    "early": (
        "Spearman's rank correlation with its 95 % interval (Fisher's z, standard error of Bonett "
        "and Wright). No null hypothesis is tested and nothing is corrected: intervals are "
        "pointwise. n: the complete trials; pruned ones have no final value and are left out. "
        "With n trials the interval excludes zero once |ρ| exceeds about 2/√(n − 1)."
    ),
    "rouge": (
        f"{UNTESTED} n: answers and seeds as counted. Differences in corrected ROUGE are tested "
        "in the section on tests."
    ),
    "claims": (
        "The test is given below each prediction, its null hypothesis in words below this table, "
        "and n and the smallest effect that 80 % of such studies would find in its row. "
        "Corrections: Holm's over every distinct prediction, in brackets; intervals are not "
        "corrected."
    ),
    "claims-models": (
        "The tests and null hypotheses are those of the table over all models, on one model "
        "each; n, Holm's correction and detectable effects are in the rows. A single model "
        "is tested only if the pooled test rejects."
    ),
    "intervals": (
        f"{UNTESTED} 95 % intervals over seeds and prompts, not corrected; n: pairs, added up "
        "over models. Among many groups some intervals leave out zero by chance."
    ),
    "ladder": (
        f"{UNTESTED} 95 % intervals over seeds and prompts, pointwise and not corrected. n: the "
        "seeds whose gaps are given from the smallest to the largest, and pairs as counted."
    ),
    "cost": f"{UNTESTED} n: means over the seeds of each arm that did not diverge.",
    "bench": (
        f"{UNTESTED} n: medians over the batches and repetitions given with the "
        "measurements; one machine, both sides in turn."
    ),
    "calibration": (
        "Each rate is a share of simulated studies; the test is whether it lies in the band "
        "beside it, which leaves room for the error of the simulation. Nothing is corrected."
    ),
    "environment": f"{UNTESTED} Values that differ between runs are all named.",
    "data": f"{UNTESTED} n: pairs of each split.",
    "digests": f"{UNTESTED} n: every run of the comparison, diverged ones too.",
    "configuration": f"{UNTESTED} The same for every run of the recipe.",
}


def table_notes(records: StudyRecords, rows: Sequence[ContrastRow]) -> dict[str, str]:
    """Write the line under every table, by the table's name.

    Tables of one recipe are named ``arms:<recipe>`` and ``raw:<recipe>``, tables
    of tests ``tests:`` and ``parts:<recipe>:<baseline>:<treatment>``.
    """
    notes = dict(FIXED)
    notes["intervals"] += _lengths(records)
    for recipe in records.recipes:
        notes[f"arms:{recipe}"] = _arms(records, recipe)
        notes[f"raw:{recipe}"] = (
            f"{UNTESTED} n: one value per seed, a mean over the held-out pairs."
        )
    tables: dict[str, list[ContrastRow]] = {}
    for row in rows:
        tables.setdefault(f"{row.recipe}:{row.baseline}:{row.treatment}", []).append(row)
    for name, group in tables.items():
        notes[f"tests:{name}"] = _tests(group)
        notes[f"parts:{name}"] = _parts(group)
    return notes


def _lengths(records: StudyRecords) -> str:
    """Say how prompts are measured, and where they cannot be."""
    told: dict[str, list[str]] = {}
    for recipe in records.recipes:
        if any(run.examples is not None for run in records.of(recipe)):
            told.setdefault(prompt_lengths(records, recipe)[1], []).append(recipe)
    where = {unit: f" on {listed(names)}" for unit, names in told.items()}
    if len(told) == 1:
        where = dict.fromkeys(told, "")
    said = []
    if "tokens" in told:
        said.append(f" Lengths of prompts are in tokens{where['tokens']}.")
    if "characters" in told:
        said.append(
            f" Lengths of prompts are in characters{where['characters']}, of answered prompts "
            "whose text is at hand: these records do not count tokens of prompts."
        )
    if "" in told:
        said.append(
            f" There are no groups by length of the prompt{where['']}: these records neither count "
            "its tokens nor show its text; `study report --data` reads it."
        )
    return "".join(said)


def _arms(records: StudyRecords, recipe: str) -> str:
    run = next((run for run in records.of(recipe) if run.ok), None)
    pairs = 0 if run is None or run.examples is None else len(run.examples)
    answers = 0 if run is None else len(run.generations)
    return (
        f"{UNTESTED} n: the seeds in the table, {pairs} held-out pairs, answers to {answers} "
        "of their prompts. Whether arms differ, and what could have been detected, is in the "
        "section on tests."
    )


def _tests(rows: Sequence[ContrastRow]) -> str:
    tested = [row for row in rows if row.low is not None]
    if not tested:
        return "No test could run; the reason is given above the rows."
    return (
        "The test and its null hypothesis are given in words above the rows. "
        f"n: {_sizes(tested)}. {_corrections(rows)} {_detectable(tested)}"
    )


def _parts(rows: Sequence[ContrastRow]) -> str:
    tested = [row for row in rows if row.low is not None]
    if not tested:
        return "No test could run."
    return (
        "On these pairs alone: the t test over seeds, null hypothesis: on exactly these pairs the "
        "arms have equal means over training seeds. Equivalence: two one-sided t tests, null "
        "hypothesis: the arms differ by at least the smallest effect of interest. Prompts won: "
        "interval around one half, not tested. "
        f"n: {_sizes(tested)}. Nothing here is corrected. {_detectable(tested)}"
    )


def _sizes(rows: Sequence[ContrastRow]) -> str:
    first = rows[0]
    models = f" of each of {first.n_models} models" if first.n_models > 1 else ""
    fixed = first.baseline == UNTRAINED
    seeds = (
        f"{first.n_treatment} seeds against the one base model"
        if fixed
        else f"{first.n_treatment} and {first.n_baseline} seeds{models}"
    )
    counts = dict.fromkeys((row.n_examples, row.n_clusters) for row in rows)
    pairs = " or ".join(f"{pairs} pairs in {clusters} clusters" for pairs, clusters in counts)
    return f"{seeds}; {pairs}, by score"


def _corrections(rows: Sequence[ContrastRow]) -> str:
    sizes = {row.family: row.family_size for row in rows if row.family and row.family_size}
    if not sizes:
        return "Corrections: none, since there are only intervals."
    parts = []
    if "primary" in sizes:
        parts.append(
            "of the co-primary metrics by half the level for each of two, Holm over arms and "
            "closed testing after the pooled test"
        )
    if "secondary" in sizes:
        parts.append(f"of {sizes['secondary']} secondary tests by Holm")
    return f"Corrections: {'; '.join(parts)}; intervals are not corrected."


def _detectable(rows: Sequence[ContrastRow]) -> str:
    """Name the smallest detectable effect of the first row that has one."""
    row = next((row for row in rows if row.family == "primary"), rows[0])
    metric = METRICS[row.metric]
    if row.detectable is None:
        return "The smallest detectable effect is not known."
    size = in_unit(f"{row.detectable:.{metric.digits}f}", metric)
    return (
        f"Smallest detectable effect, at 5 % and 80 % power before correction: {size} in "
        f"{metric.label}; for the others, see their rows."
    )
