"""The report as a sequence of sections, before any skin lays it out.

Adding, dropping or moving a section, a table or a figure is a change here and
nowhere else. A skin knows every kind of block and no content.
"""

from collections.abc import Iterable, Sequence

from analysis.findings import FigureFile, Findings
from analysis.printing import arm_name, is_matched, is_trained, with_unit
from paper import opening, wording
from paper.blocks import (
    Answers,
    Block,
    Bullets,
    Column,
    Commands,
    Document,
    Figure,
    Fold,
    Formula,
    Heading,
    Pair,
    Prose,
    Section,
    TableBlock,
)
from paper.browser import agreement, browser, samples_of
from paper.cells import Table
from paper.prose import read_text
from paper.tables import (
    benchmarks,
    claims,
    contrasts,
    costs,
    decisions,
    intervals,
    provenance,
    results,
    search,
)

QUALITY, SEARCH = ("quality",), ("search-space",)
"""Figures that stand in the sections on cost and search; the others are in the appendix."""
UNPRINTED = (
    "search-history", "expected-best", "early-correlation", "growth", "curve-loss", "curve-logps",
)  # fmt: skip
"""Figures that print leaves to files."""
SHOWN = 2
"""Prompts that are read without scripts, and printed."""


def build_document(
    findings: Findings,
    figures: Sequence[FigureFile],
    *,
    answers: tuple[Answers, ...] = (),
    unfinished: str = "",
) -> Document:
    """Put the report together.

    Args:
        findings: what the report says.
        figures: the figures, in the order in which they appear in their sections.
        answers: prompts with the answers of every arm; those of findings where there are none.
        unfinished: sentence about runs that go on; empty where all have ended.
    """
    named = {figure.name: Figure(file=figure) for figure in figures}
    prompts = answers or samples_of(findings)
    asked = (row.arm for row in findings.arms if is_trained(row.arm) and not is_matched(row.arm))
    arms = list(dict.fromkeys(map(arm_name, asked)))

    def drawn(*names: str) -> list[Block]:
        return [named[name] for name in names if name in named]

    parts: list[tuple[str, str, list[Block]]] = [
        ("advice", "What to do", opening.advice(findings)),
        ("design", "Design and history", _design(findings)),
        ("scores", "Scores", [_table(results.scores(findings)), *_list(findings.displacement)]),
        (
            "cost",
            "Quality against cost",
            [_beside(*drawn(*QUALITY), _costs(findings))],
        ),
        ("search", "Search", [_beside(*_search(findings), *drawn(*SEARCH))]),
        ("claims", "Claims of the sources", _claims(findings)),
        ("answers", "Answers and limits", _answers(findings, prompts)),
    ]
    others = [Figure(file=figure) for figure in figures if figure.name not in {*QUALITY, *SEARCH}]
    return Document(
        title=f"Should I train my small model with {' or with '.join(arms)}?",
        short_title=f"{' or '.join(arms)} for a small model?",
        subtitle=wording.subtitle(findings),
        headline=findings.headline,
        answer=findings.answer,
        unfinished=unfinished,
        origin=findings.origin,
        signature=findings.signature,
        first=tuple(opening.first_screen(findings)),
        sections=tuple(
            Section(name=name, heading=heading, blocks=tuple(blocks))
            for name, heading, blocks in parts
        ),
        appendix=Section(
            name="appendix", heading="Appendix", blocks=tuple(_appendix(findings, others))
        ),
    )


def _design(findings: Findings) -> list[Block]:
    return [
        _beside(
            Column(blocks=(_text("introduction"), Prose(text=wording.arms(findings)))),
            Column(
                blocks=(
                    Formula(),
                    Bullets(items=tuple(findings.recipes.items())),
                    Heading(text="Done after results had been seen"),
                    *_list(findings.history or ("Nothing is on record.",)),
                    *_list(findings.failed_runs, "No run failed: every run finished."),
                )
            ),
        )
    ]


def _costs(findings: Findings) -> Block:
    """Put what runs cost above what the loss adds at equal cost, where that was tried."""
    matched = intervals.matched(findings)
    cost = _table(costs.cost(findings))
    return cost if matched is None else Column(blocks=(_table(matched), cost))


def _search(findings: Findings) -> list[Block]:
    if not findings.searches:
        return _said("No search was run: every arm used the settings that stand in its recipe.")
    return [_table(search.search(findings))]


def _claims(findings: Findings) -> list[Block]:
    if not findings.claims:
        return _said(
            "No claims were registered with these records; `study claims` registers them and "
            "trains what they rest on."
        )
    return [_table(claims.short(findings))]


def _answers(findings: Findings, prompts: tuple[Answers, ...]) -> list[Block]:
    counted = agreement(prompts, findings.signature)
    blocks: list[Block] = (
        [browser(prompts, shown=SHOWN)]
        if prompts
        else _said("No answers were generated in these runs.")
    )
    limits = (
        Heading(text="What cannot be concluded"),
        *_list(findings.cannot_conclude, "Nothing was recorded here."),
    )
    if counted is None:
        return [*blocks, *limits]
    return [_table(counted), *blocks, *limits]


def _tuning(findings: Findings) -> list[Fold]:
    if not findings.tuning:
        return []

    def meanings(name: str) -> list[str]:
        return [found.meaning[name] for found in findings.tuning]

    importance = [
        found.meaning["importance"] for found in findings.tuning if found.n_hyperparameters > 1
    ]
    return [
        _fold(
            "What the trials tell",
            _text("tuning"),
            Heading(text="How many trials are needed", level=4),
            *_list(meanings("expected")),
            Heading(text="Which hyperparameter matters", level=4),
            *_list(importance, "No search had two hyperparameters."),
            Heading(text="Would another weight of the odds-ratio loss choose otherwise?", level=4),
            *_list(meanings("weights")),
            Heading(text="How early could we have known?", level=4),
            *_list(meanings("early")),
        ),
        *_folded("The winner under every weight", search.weights(findings), is_printed=False),
        *_folded(
            "Rank correlation with the final value, by score and step",
            search.early(findings),
            is_printed=False,
        ),
    ]


def _tests(findings: Findings) -> list[Block]:
    best = [
        f"No arm is shown to beat {' or '.join(map(arm_name, found.kept))} in "
        f"{findings.metrics[found.metric].label}, on average of these models: the best set, in "
        "which the truly best arm stays with at least 95 %."
        for found in findings.best_sets
    ]
    return [_text("tests"), *_list(findings.test_remarks), *_list(best)]


def _appendix(findings: Findings, figures: Sequence[Figure]) -> list[Block]:
    """List what a screen folds away; print has what is read, files have what is looked up."""
    meanings = tuple(
        (with_unit(metric.label, metric.unit), metric.meaning)
        for metric in findings.metrics.values()
    )
    blocks: list[Block] = [
        _text("appendix"),
        _fold("Method and deviations", _text("method"), *_list(findings.deviations)),
        _fold("Commands", Commands(lines=findings.commands)),
        *_folded("The verdict on each model", decisions.decisions(findings)),
        _fold("How it was tested", *_tests(findings)),
    ]
    for number, rows in enumerate(contrasts.comparisons(findings)):
        recipe, baseline, treatment = contrasts.compared(rows)
        who = f"{recipe}, {treatment} against {baseline}"
        blocks += _folded(
            f"Every score: {who}", contrasts.tests(findings, rows), is_printed=number == 0
        )
        blocks += _folded(
            f"What the uncertainty is made of: {who}",
            contrasts.parts(findings, rows),
            is_printed=False,
        )
    widest = {treatment: recipe for recipe, treatment in reversed(intervals.scopes(findings))}
    for recipe, treatment in intervals.scopes(findings):
        blocks += _folded(
            f"Subgroups: {recipe}, {arm_name(treatment)}",
            intervals.subgroups(findings, recipe, treatment),
            is_printed=widest[treatment] == recipe,
        )
    blocks.append(_fold("What each score means", Bullets(items=meanings), _text("displacement")))
    for recipe in findings.recipes:
        blocks += _folded(
            f"Settings and scores: {recipe}", results.arms(findings, recipe), is_printed=False
        )
    blocks += _rouge(findings)
    if findings.searches:
        blocks.append(_fold("How was searched", _text("search"), *_list(findings.search_remarks)))
        blocks += _folded("Published settings that were tried", search.published(findings))
    blocks += _tuning(findings)
    if findings.benchmarks:
        blocks.append(_fold("Benchmarks", _table(benchmarks.benchmark(findings))))
    blocks += _claims_in_full(findings)
    for summary, is_printed in (
        ("More figures", True),
        ("Figures of the search and of costs", False),
    ):
        own = [figure for figure in figures if (figure.file.name not in UNPRINTED) == is_printed]
        if own:
            blocks.append(_fold(summary, *own, is_printed=is_printed))
    if findings.bench is not None:
        blocks.append(
            _fold(
                "Cost beside TRL",
                _text("bench"),
                _table(costs.bench(findings.bench, findings.table_notes["bench"])),
                *_list(findings.bench.remarks),
            )
        )
    return [*blocks, *_records(findings)]


def _rouge(findings: Findings) -> list[Fold]:
    found = results.rouge(findings)
    if found is None:
        return []
    return [
        _fold(
            "ROUGE, corrected and as published",
            _text("rouge"),
            *_list(findings.rouge_remarks),
            _table(found),
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
        _fold(
            "Claims by prediction",
            _text("claims"),
            *_list(findings.claim_remarks),
            _table(claims.claims(findings)),
            Bullets(items=tuple(hypotheses or [("", "none was tested")])),
            is_printed=False,
        ),
        *_folded("The claims on each model", claims.claims_by_model(findings), is_printed=False),
    ]


def _records(findings: Findings) -> list[Fold]:
    """List what describes the records: simulations, environment, data, digests, values."""
    simulated = provenance.calibration(findings)
    calibration: list[Block] = (
        [] if simulated is None else [_text("calibration"), _table(simulated)]
    )
    return [
        *(
            [_fold("Do the tests keep their promises?", *calibration, is_printed=False)]
            if calibration
            else []
        ),
        *_folded("Environment", provenance.environment(findings)),
        *_folded("Data and fingerprints", provenance.data(findings)),
        *_folded("Digests of the runs", provenance.digests(findings), is_printed=False),
        *(
            fold
            for recipe in findings.recipes
            for fold in _folded(
                f"Raw values per seed: {recipe}",
                provenance.raw(findings, recipe),
                is_printed=False,
            )
        ),
        *(
            fold
            for recipe in findings.configurations
            for fold in _folded(
                f"Resolved configuration: {recipe}",
                provenance.configuration(findings, recipe),
                is_printed=False,
            )
        ),
    ]


def _beside(*blocks: Block) -> Block:
    """Put blocks beside each other, where there are two."""
    return Pair(blocks=blocks) if len(blocks) > 1 else blocks[0]


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


def _fold(summary: str, *blocks: Block, is_printed: bool = True) -> Fold:
    return Fold(summary=summary, blocks=blocks, is_printed=is_printed)


def _folded(summary: str, table: Table | None, *, is_printed: bool = True) -> list[Fold]:
    return [] if table is None else [_fold(summary, _table(table), is_printed=is_printed)]
