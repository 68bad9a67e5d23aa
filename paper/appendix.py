"""The appendix: what a screen folds away, and print has or leaves to files."""

from collections.abc import Iterable, Sequence

from analysis.findings import Findings
from analysis.printing import arm_name, with_unit
from paper.blocks import Block, Bullets, Commands, Figure, Fold, Heading
from paper.cells import Table
from paper.making import fold, folded, listing, table_block, text_of
from paper.tables import (
    benchmarks,
    claims,
    contrasts,
    costs,
    decisions,
    intervals,
    judges,
    ladder,
    pairs,
    provenance,
    results,
    search,
    several,
)

UNPRINTED = (
    "search-history", "expected-best", "early-correlation", "growth", "scale", "curve-loss",
    "curve-logps",
)  # fmt: skip
"""Figures that print leaves to files."""
UNPRINTED_OF_MANY = ("curve-nll", "curve-margin", "contrasts", "response-length")
"""The same where there are many arms."""


def appendix(findings: Findings, figures: Sequence[Figure]) -> list[Block]:
    """List what a screen folds away; print has what is read, files have what is looked up."""
    meanings = tuple(
        (with_unit(metric.label, metric.unit), metric.meaning)
        for metric in findings.metrics.values()
    )
    blocks: list[Block] = [
        text_of("appendix"),
        fold("Method and deviations", text_of("method"), *listing(findings.deviations)),
        fold("Commands", Commands(lines=findings.commands)),
        *folded("The verdict on each model", decisions.decisions(findings)),
        fold("How it was tested", *_tests(findings)),
        *folded("The best arms", pairs.best(findings)),
        *(
            one
            for found in findings.best_sets
            for one in folded(
                f"All pairs of arms in {findings.metrics[found.metric].label}",
                pairs.pairs(findings, found),
            )
        ),
        *folded("Displacement and implicit rewards", pairs.displaced(findings)),
        *(
            [fold("What others found", text_of("others"))]
            if several.is_many(decisions.overall(findings))
            else []
        ),
    ]
    blocks += _comparisons(findings)
    blocks.append(fold("What each score means", Bullets(items=meanings), text_of("displacement")))
    blocks += _gathered(
        "Settings and scores in full",
        [results.arms(findings, recipe) for recipe in findings.recipes],
    )
    blocks += _rouge(findings)
    if findings.searches:
        blocks.append(
            fold("How was searched", text_of("search"), *listing(findings.search_remarks))
        )
        if len(findings.searches) > several.MOST_SEARCHES:
            blocks += _gathered("Every search in full", [search.search(findings, "search-full")])
        blocks += folded(
            "Published settings that were tried",
            search.published(findings),
            is_printed=len(findings.searches) <= several.MOST_SEARCHES,
        )
    blocks += _tuning(findings)
    if findings.benchmarks:
        blocks.append(fold("Benchmarks", table_block(benchmarks.benchmark(findings))))
    if findings.judges:
        blocks.append(fold("Win rates by judges", *_judged(findings)))
    blocks += _claims_in_full(findings)
    blocks += _gathered("An article reproduced on each model", ladder.by_model(findings))
    many = several.is_many(decisions.overall(findings))
    unprinted = (*UNPRINTED, *UNPRINTED_OF_MANY) if many else UNPRINTED
    for summary, is_printed in (
        ("More figures", True),
        ("Other figures", False),
    ):
        own = [figure for figure in figures if (figure.file.name not in unprinted) == is_printed]
        if own:
            blocks.append(fold(summary, *own, is_printed=is_printed))
    if findings.bench is not None:
        blocks.append(
            fold(
                "Cost beside TRL",
                text_of("bench"),
                table_block(costs.bench(findings.bench, findings.table_notes["bench"])),
                *listing(findings.bench.remarks),
            )
        )
    return [*blocks, *_records(findings)]


def _comparisons(findings: Findings) -> list[Fold]:
    """Fold the tables of all comparisons together; print has the first of each kind."""
    groups = contrasts.comparisons(findings)
    scores = [contrasts.tests(findings, rows) for rows in groups]
    parts = [contrasts.parts(findings, rows) for rows in groups]
    subgroups = {
        (recipe, treatment): intervals.subgroups(findings, recipe, treatment)
        for recipe, treatment in intervals.scopes(findings)
    }
    widest = {treatment: recipe for recipe, treatment in reversed(subgroups)}
    many = several.is_many(decisions.overall(findings))
    first = [] if many else [*widest.items()][-1:]
    return [
        *folded("Every score of the first comparison", next(iter(scores), None)),
        *_gathered("Every score of the other comparisons", scores[1:]),
        *_gathered("What the uncertainty is made of", parts),
        *(
            one
            for treatment, recipe in first
            for one in folded(
                f"Subgroups: {recipe}, {arm_name(treatment)}", subgroups[recipe, treatment]
            )
        ),
        *_gathered(
            "Subgroups of every comparison" if many else "Subgroups of the other comparisons",
            [
                table
                for (recipe, treatment), table in subgroups.items()
                if (treatment, recipe) not in first
            ],
        ),
    ]


def _gathered(summary: str, tables: Iterable[Table | None]) -> list[Fold]:
    """Fold tables of one kind together, which print leaves to files."""
    found = [table_block(table) for table in tables if table is not None]
    return [fold(summary, *found, is_printed=False)] if found else []


def _tuning(findings: Findings) -> list[Fold]:
    if not findings.tuning:
        return []

    def meanings(name: str) -> list[str]:
        return [found.meaning[name] for found in findings.tuning]

    importance = [
        found.meaning["importance"] for found in findings.tuning if found.n_hyperparameters > 1
    ]
    return [
        fold(
            "What the trials tell",
            text_of("tuning"),
            Heading(text="How many trials are needed", level=4),
            *listing(meanings("expected")),
            Heading(text="Which hyperparameter matters", level=4),
            *listing(importance, "No search had two hyperparameters."),
            Heading(text="Would another weight of the odds-ratio loss choose otherwise?", level=4),
            *listing(meanings("weights")),
            Heading(text="How early could we have known?", level=4),
            *listing(meanings("early")),
            is_printed=len(findings.tuning) <= several.MOST_SEARCHES,
        ),
        *folded("The winner under every weight", search.weights(findings), is_printed=False),
        *folded(
            "Rank correlation with the final value, by score and step",
            search.early(findings),
            is_printed=False,
        ),
    ]


def _judged(findings: Findings) -> list[Block]:
    """Print win rates only beside what their judges are worth."""
    return [
        text_of("judges"),
        *listing(findings.judge_remarks),
        *([table_block(judges.wins(findings))] if findings.wins else []),
        table_block(judges.judges(findings)),
    ]


def _tests(findings: Findings) -> list[Block]:
    return [text_of("tests"), *listing(findings.test_remarks)]


def _rouge(findings: Findings) -> list[Fold]:
    found = results.rouge(findings)
    if found is None:
        return []
    return [
        fold(
            "ROUGE, corrected and as published",
            text_of("rouge"),
            *listing(findings.rouge_remarks),
            table_block(found),
            is_printed=False,
        )
    ]


def _claims_in_full(findings: Findings) -> list[Fold]:
    if not findings.claims:
        return []
    hypotheses = [
        (test, f"{hypothesis}.") for test, hypothesis in claims.hypotheses(findings.claims)
    ]
    return [
        fold(
            "Claims by prediction",
            text_of("claims"),
            *listing(findings.claim_remarks),
            table_block(claims.claims(findings)),
            Bullets(items=tuple(hypotheses or [("", "none was tested")])),
            is_printed=False,
        ),
        *folded("The claims on each model", claims.claims_by_model(findings), is_printed=False),
    ]


def _records(findings: Findings) -> list[Fold]:
    """List what describes the records: simulations, environment, data, digests, values."""
    simulated = provenance.calibration(findings)
    calibration: list[Block] = (
        [] if simulated is None else [text_of("calibration"), table_block(simulated)]
    )
    return [
        *(
            [fold("Do the tests keep their promises?", *calibration, is_printed=False)]
            if calibration
            else []
        ),
        *folded("Environment", provenance.environment(findings)),
        *folded("Data and fingerprints", provenance.data(findings)),
        *folded("Digests of the runs", provenance.digests(findings), is_printed=False),
        *_gathered(
            "Raw values per seed",
            [provenance.raw(findings, recipe) for recipe in findings.recipes],
        ),
        *_gathered(
            "Resolved configurations",
            [provenance.configuration(findings, recipe) for recipe in findings.configurations],
        ),
    ]
