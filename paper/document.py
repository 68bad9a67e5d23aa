"""The report as a sequence of sections, before any skin lays it out.

Adding, dropping or moving a section, a table or a figure is a change here and
nowhere else. A skin knows every kind of block and no content.
"""

from collections.abc import Iterable, Sequence

from analysis.findings import FigureFile, Findings, Sample
from analysis.printing import arm_name, is_trained, with_unit
from paper.blocks import (
    Answers,
    Block,
    Bullets,
    Commands,
    Document,
    Figure,
    Fold,
    Formula,
    Heading,
    Prose,
    Section,
    TableBlock,
)
from paper.cells import Table
from paper.prose import read_text
from paper.tables import claims, contrasts, costs, decisions, provenance, results, search

SUBTITLE = "A reproduction study: arms that differ only in the loss, several seeds, held-out pairs."


def build_document(findings: Findings, figures: Sequence[FigureFile]) -> Document:
    """Put the report together.

    Args:
        findings: what the report says.
        figures: the figures, in the order in which they appear in their sections.
    """

    def drawn(section: str) -> list[Figure]:
        return [Figure(file=figure) for figure in figures if figure.section == section]

    trained = (arm_name(row.arm) for row in findings.arms if is_trained(row.arm))
    arms = list(dict.fromkeys(trained))
    parts: list[tuple[str, str, list[Block]]] = [
        ("question", "Question", _question(findings)),
        ("arms", "Arms and scores", [*_arms(findings), *drawn("results")]),
        ("search", "Search", [*_search(findings), *drawn("search")]),
        ("curves", "Curves", [_text("curves"), *drawn("curves")]),
        ("tests", "Tests", _tests(findings)),
        ("claims", "Claims of the sources", [*_claims(findings), *drawn("claims")]),
        ("samples", "Samples", _samples(findings)),
        ("cost", "Cost", [*_cost(findings), *drawn("cost")]),
        (
            "failed",
            "Failed runs",
            [_text("failed"), *_list(findings.failed_runs, "None: every run finished.")],
        ),
        (
            "limits",
            "What cannot be concluded",
            [
                _text("cannot_conclude"),
                *_list(findings.cannot_conclude, "Nothing was recorded here."),
            ],
        ),
        (
            "deviations",
            "Deviations",
            [_text("deviations"), *_list(findings.deviations, "None were recorded.")],
        ),
    ]
    return Document(
        title=f"Should I train my small model with {' or with '.join(arms)}?",
        short_title=f"{' or '.join(arms)} for a small model?",
        subtitle=SUBTITLE,
        headline=findings.headline,
        answer=findings.answer,
        origin=findings.origin,
        signature=findings.signature,
        sections=tuple(
            Section(name=name, heading=heading, blocks=tuple(blocks))
            for name, heading, blocks in parts
        ),
        appendix=Section(name="appendix", heading="Appendix", blocks=tuple(_appendix(findings))),
    )


def _question(findings: Findings) -> list[Block]:
    decided = decisions.decisions(findings)
    return [
        *([] if decided is None else [_table(decided)]),
        Heading(text="Done after results had been seen"),
        *_list(findings.history or ("Nothing is on record.",)),
        Heading(text="What was asked, and how"),
        _text("introduction"),
        _text("method"),
        Formula(),
        Bullets(items=tuple(findings.recipes.items())),
    ]


def _arms(findings: Findings) -> list[Block]:
    meanings = tuple(
        (with_unit(metric.label, metric.unit), metric.meaning)
        for metric in findings.metrics.values()
    )
    blocks: list[Block] = [
        _text("arms"),
        *(_table(results.arms(findings, recipe)) for recipe in findings.recipes),
        *_list(findings.displacement),
        Fold(summary="What each score means", blocks=(Bullets(items=meanings),)),
    ]
    found = results.rouge(findings)
    if found is None:
        return blocks
    return [
        *blocks,
        Heading(text="ROUGE, corrected and as published"),
        _text("rouge"),
        *_list(findings.rouge_remarks),
        _table(found),
    ]


def _search(findings: Findings) -> list[Block]:
    if not findings.searches:
        return _said("No search was run: every arm used the settings in its recipe.")
    tried = search.published(findings)
    return [
        _text("search"),
        _table(search.search(findings)),
        *_list(findings.search_remarks),
        *([] if tried is None else [_table(tried)]),
        *(_tuning(findings) if findings.tuning else []),
    ]


def _tuning(findings: Findings) -> list[Block]:
    def meanings(name: str) -> list[str]:
        return [found.meaning[name] for found in findings.tuning]

    importance = [
        found.meaning["importance"] for found in findings.tuning if found.n_hyperparameters > 1
    ]
    return [
        Heading(text="What the trials tell"),
        _text("tuning"),
        Heading(text="How many trials are needed", level=4),
        *_list(meanings("expected")),
        Heading(text="Which hyperparameter matters", level=4),
        *_list(importance, "No search had two hyperparameters."),
        Heading(text="Would another weight of the odds-ratio loss choose otherwise?", level=4),
        *_list(meanings("weights")),
        *_fold("The winner under every weight", search.weights(findings)),
        Heading(text="How early could we have known?", level=4),
        *_list(meanings("early")),
        *_fold(
            "Rank correlation with the final value, by score and step",
            search.early(findings),
        ),
    ]


def _tests(findings: Findings) -> list[Block]:
    best = [
        f"No arm is shown to beat {' or '.join(map(arm_name, found.kept))} in "
        f"{findings.metrics[found.metric].label}, on average of these models: the best set, in "
        "which the truly best arm stays with at least 95 %."
        for found in findings.best_sets
    ]
    blocks: list[Block] = [_text("tests"), *_list(findings.test_remarks), *_list(best)]
    for rows in contrasts.comparisons(findings):
        recipe, baseline, treatment = contrasts.compared(rows)
        blocks += [
            _table(contrasts.tests(findings, rows)),
            *_fold(
                f"What the uncertainty is made of: {recipe}, {treatment} against {baseline}",
                contrasts.parts(findings, rows),
                late=True,
            ),
        ]
    return blocks


def _claims(findings: Findings) -> list[Block]:
    if not findings.claims:
        return _said(
            "No claims were registered with these records; `study claims` registers them and "
            "trains what they rest on."
        )
    hypotheses = [
        (test, f"{hypothesis}.") for test, hypothesis in claims.hypotheses(findings.claims)
    ]
    return [
        _text("claims"),
        *_list(findings.claim_remarks),
        _table(claims.claims(findings)),
        Fold(
            summary="Null hypotheses of these tests",
            blocks=(Bullets(items=tuple(hypotheses or [("", "none was tested")])),),
        ),
        *_fold("The claims on each model", claims.claims_by_model(findings), late=True),
    ]


def _samples(findings: Findings) -> list[Block]:
    if not findings.samples:
        return _said("No answers were generated in these runs.")
    return [_text("samples"), *(_sample(sample) for sample in findings.samples)]


def _sample(sample: Sample) -> Answers:
    return Answers(
        place=f"{sample.recipe}, test pair {sample.example_id}",
        prompt=sample.prompt,
        answers=(
            ("Chosen answer", sample.reference),
            *((arm_name(arm), text) for arm, text in sample.answers.items()),
        ),
    )


def _cost(findings: Findings) -> list[Block]:
    blocks: list[Block] = [_text("cost"), _table(costs.cost(findings))]
    if findings.bench is None:
        return blocks
    return [
        *blocks,
        Heading(text="Beside TRL"),
        _text("bench"),
        _table(costs.bench(findings.bench, findings.table_notes["bench"])),
        *_list(findings.bench.remarks),
    ]


def _appendix(findings: Findings) -> list[Block]:
    simulated = provenance.calibration(findings)
    calibration = (
        []
        if simulated is None
        else [
            Fold(
                summary="Do the tests keep their promises? Simulated studies",
                blocks=(_text("calibration"), _table(simulated)),
            )
        ]
    )
    return [
        _text("appendix"),
        Heading(text="Commands"),
        Commands(lines=findings.commands),
        *calibration,
        *_fold("Environment", provenance.environment(findings)),
        *_fold("Data and fingerprints", provenance.data(findings)),
        *_fold("Digests of the runs", provenance.digests(findings)),
        *(
            fold
            for recipe in findings.recipes
            for fold in _fold(f"Raw values per seed: {recipe}", provenance.raw(findings, recipe))
        ),
        *(
            fold
            for recipe in findings.configurations
            for fold in _fold(
                f"Resolved configuration: {recipe}",
                provenance.configuration(findings, recipe),
            )
        ),
    ]


def _text(name: str) -> Prose:
    return Prose(text=read_text(name))


def _said(sentence: str) -> list[Block]:
    return [Prose(text=sentence)]


def _list(sentences: Iterable[str], otherwise: str = "") -> list[Block]:
    """List sentences; say what else is true, or nothing, where there are none."""
    items = tuple(("", sentence) for sentence in sentences)
    if items:
        return [Bullets(items=items)]
    return _said(otherwise) if otherwise else []


def _table(table: Table) -> TableBlock:
    return TableBlock(table=table)


def _fold(summary: str, table: Table | None, *, late: bool = False) -> list[Fold]:
    if table is None:
        return []
    return [Fold(summary=summary, blocks=(_table(table),), late=late)]
