"""The report as a sequence of sections, before any skin lays it out.

Adding, dropping or moving a section, a table or a figure is a change here and
nowhere else. A skin knows every kind of block and no content.
"""

from collections.abc import Sequence

from analysis.findings import FigureFile, Findings
from paper import opening, wording
from paper.appendix import appendix
from paper.blocks import (
    Answers,
    Block,
    Bullets,
    Column,
    Document,
    Figure,
    Formula,
    Heading,
    Prose,
    Section,
)
from paper.browser import agreement, browser, samples_of
from paper.making import beside, listing, said, table_block, text_of
from paper.tables import (
    claims,
    costs,
    intervals,
    ladder,
    results,
    search,
    several,
)

QUALITY, SEARCH, LADDER = ("quality",), ("search-space",), ("ladder",)
"""Figures that stand in sections of their own; the others are in the appendix."""
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
    arms = wording.methods(findings)

    def drawn(*names: str) -> list[Block]:
        return [named[name] for name in names if name in named]

    parts: list[tuple[str, str, list[Block]]] = [
        ("advice", "What to do", opening.advice(findings)),
        ("design", "Design and history", _design(findings)),
        ("scores", "Scores", _scores(findings)),
        (
            "cost",
            "Quality against cost",
            [beside(*drawn(*QUALITY), _costs(findings))],
        ),
        ("search", "Search", [beside(*_search(findings), *drawn(*SEARCH))]),
        ("claims", "Claims of the sources", _claims(findings)),
        (
            "ladder",
            "The ladder of article A",
            _ladder(findings, *drawn(*LADDER)),
        ),
        ("answers", "Answers and limits", _answers(findings, prompts)),
    ]
    placed = {*QUALITY, *SEARCH, *LADDER}
    others = [Figure(file=figure) for figure in figures if figure.name not in placed]
    return Document(
        title=wording.title(arms),
        short_title=wording.short_title(arms),
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
            if blocks
        ),
        appendix=Section(
            name="appendix", heading="Appendix", blocks=tuple(appendix(findings, others))
        ),
    )


def _scores(findings: Findings) -> list[Block]:
    return [table_block(results.scores(findings)), *_flags(findings)]


def _flags(findings: Findings) -> list[Block]:
    """List the flags, or run them together where they are many."""
    if wording.are_many(findings) and findings.displacement:
        return said(" ".join(findings.displacement))
    return listing(findings.displacement)


def _design(findings: Findings) -> list[Block]:
    return [
        beside(
            Column(
                blocks=(
                    Prose(text=wording.question(findings)),
                    Prose(text=wording.arms(findings)),
                    Prose(text=wording.alike(findings)),
                )
            ),
            Column(
                blocks=(
                    Formula(),
                    Bullets(items=tuple(findings.recipes.items())),
                    Heading(text="Done after results had been seen"),
                    *listing(findings.history or ("Nothing is on record.",)),
                    *listing(findings.failed_runs, "No run failed: every run finished."),
                )
            ),
        ),
    ]


def _costs(findings: Findings) -> Block:
    """Put what runs cost above what the loss adds at equal cost, where that was tried."""
    matched = intervals.matched(findings)
    cost = table_block(costs.cost(findings))
    return cost if matched is None else Column(blocks=(table_block(matched), cost))


def _search(findings: Findings) -> list[Block]:
    if not findings.searches:
        return said("No search was run: every arm used the settings that stand in its recipe.")
    many = len(findings.searches) > several.MOST_SEARCHES
    return [table_block(several.searches(findings) if many else search.search(findings))]


def _claims(findings: Findings) -> list[Block]:
    if not findings.claims:
        return said(
            "No claims were registered with these records; `study claims` registers them and "
            "trains what they rest on."
        )
    return [table_block(claims.short(findings))]


def _ladder(findings: Findings, *figures: Block) -> list[Block]:
    """Show how an article's published gap moves; nothing where no article was reproduced."""
    table = ladder.ladder(findings)
    if table is None:
        return []
    return [
        text_of("ladder"),
        *listing(findings.ladder_remarks),
        *figures,
        table_block(table),
    ]


def _answers(findings: Findings, prompts: tuple[Answers, ...]) -> list[Block]:
    counted = agreement(prompts, findings.signature)
    shown = 1 if wording.are_many(findings) else SHOWN
    blocks: list[Block] = (
        [browser(prompts, shown=shown)]
        if prompts
        else said("No answers were generated in these runs.")
    )
    limits = (
        Heading(text="What cannot be concluded"),
        *listing(findings.cannot_conclude, "Nothing was recorded here."),
    )
    if counted is None:
        return [*blocks, *limits]
    return [beside(table_block(counted), Column(blocks=limits)), *blocks]
