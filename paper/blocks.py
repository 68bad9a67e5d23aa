"""What a document is made of: sections of blocks, before any skin lays them out.

A skin has one macro for each kind of block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from analysis.findings import FigureFile
from paper.cells import Table
from paper.forest import Forest


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Paragraphs and lists in the Markdown of ``paper.prose``."""

    kind: ClassVar = "prose"
    text: str


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list; an item may have a label."""

    kind: ClassVar = "bullets"
    items: tuple[tuple[str, str], ...]
    """(label, text); the label is empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar = "heading"
    text: str
    level: Literal[3, 4] = 3


@dataclass(frozen=True, kw_only=True)
class Formula:
    """The loss of ORPO; every skin sets it in its own mathematics."""

    kind: ClassVar = "formula"


@dataclass(frozen=True, kw_only=True)
class TableBlock:
    """One table."""

    kind: ClassVar = "table"
    table: Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure; the build has drawn its files."""

    kind: ClassVar = "figure"
    file: FigureFile


@dataclass(frozen=True, kw_only=True)
class Told:
    """One text, and the seeds whose runs wrote it."""

    text: str
    seeds: tuple[int, ...] = ()
    is_right: bool | None = None
    """Whether it is the chosen answer; None for that itself, and where nothing says so."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one arm answered to a prompt, a text for each answer that differs."""

    who: str
    told: tuple[Told, ...]

    @property
    def is_right(self) -> bool | None:
        """Whether more than half of the seeds are right; None where nothing says so."""
        judged = [told for told in self.told if told.is_right is not None]
        if not judged:
            return None
        n_right = sum(len(told.seeds) for told in judged if told.is_right)
        return 2 * n_right > sum(len(told.seeds) for told in judged)

    @property
    def n_seeds(self) -> int:
        """Runs that answered."""
        return sum(len(told.seeds) for told in self.told)


@dataclass(frozen=True, kw_only=True)
class Column:
    """Blocks below each other, as one half of a pair."""

    kind: ClassVar = "column"
    blocks: tuple["Block", ...]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Blocks that a wide screen puts beside each other."""

    kind: ClassVar = "pair"
    blocks: tuple["Block", ...]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One prompt and what everybody answered."""

    kind: ClassVar = "answers"
    recipe: str
    example: str
    source: str
    """Where the pair comes from; empty where that is not on record."""
    prompt: str
    answers: tuple[Said, ...]
    """The chosen answer first."""

    @property
    def group(self) -> str:
        """Who is mostly right, in words that filter prompts; empty where nobody knows."""
        judged = [said for said in self.answers if said.is_right is not None]
        right = [said.who for said in judged if said.is_right]
        if not judged:
            return ""
        if len(right) == len(judged):
            return "all are right"
        return f"only {' and '.join(right)} right" if right else "none is right"


@dataclass(frozen=True, kw_only=True)
class Browser:
    """Prompts with their answers: print has the first few, a screen filters them."""

    kind: ClassVar = "browser"
    prompts: tuple[Answers, ...]
    shown: int
    """How many are read without scripts, and printed."""
    left_out: str = ""
    """Sentence about prompts that the page does not hold; empty where it holds all."""

    @property
    def filters(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """(name, label, values) by which prompts may be chosen; those with a choice."""
        found = (
            ("group", "Who is right", sorted({one.group for one in self.prompts})),
            ("recipe", "Model", sorted({one.recipe for one in self.prompts})),
            ("source", "Source", sorted({one.source for one in self.prompts})),
        )
        return tuple(
            (name, label, tuple(filter(None, values)))
            for name, label, values in found
            if len(values) > 1
        )

    @property
    def arms(self) -> tuple[str, ...]:
        """Who answered, without the chosen answer."""
        names = (said.who for found in self.prompts for said in found.answers[1:])
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Short facts in a box."""

    kind: ClassVar = "facts"
    title: str
    items: tuple[tuple[str, str], ...]
    """(label, text)."""


@dataclass(frozen=True, kw_only=True)
class ForestBlock:
    """Effects with intervals, one panel for each metric."""

    kind: ClassVar = "forest"
    forest: Forest


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Lines to type into a shell."""

    kind: ClassVar = "commands"
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Detail that a screen folds away, under a summary."""

    kind: ClassVar = "fold"
    summary: str
    blocks: tuple["Block", ...]
    is_printed: bool = True
    """Whether print has it; else it stands on the screen and in files alone."""


Block = (
    Prose
    | Bullets
    | Heading
    | Formula
    | TableBlock
    | Figure
    | Column
    | Pair
    | Answers
    | Browser
    | Facts
    | ForestBlock
    | Commands
    | Fold
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section; its name is its address."""

    name: str
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """The whole report."""

    title: str
    short_title: str
    subtitle: str
    headline: str
    answer: str
    """Its first sentence is the answer; the others say on what it rests."""
    unfinished: str
    """Sentence about runs that go on; empty where all have ended."""
    origin: str
    signature: str
    first: tuple[Block, ...]
    """What a reader sees at once below the answer."""
    sections: tuple[Section, ...]
    appendix: Section

    @property
    def printed_appendix(self) -> tuple[Block, ...]:
        """The blocks of the appendix in print."""
        return tuple(
            block
            for block in self.appendix.blocks
            if not isinstance(block, Fold) or block.is_printed
        )

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table, in the order of a screen."""
        sections = (self.first, *(section.blocks for section in self.sections))
        return tuple(
            tables_in(block for blocks in (*sections, self.appendix.blocks) for block in blocks)
        )

    @property
    def unprinted(self) -> tuple[Table, ...]:
        """The tables that print leaves to files."""
        folds = (block for block in self.appendix.blocks if isinstance(block, Fold))
        return tuple(tables_in(fold for fold in folds if not fold.is_printed))


def tables_in(blocks: Iterable[Block]) -> Iterator[Table]:
    """Yield the tables of blocks and of what they fold away."""
    for block in blocks:
        if isinstance(block, TableBlock):
            yield block.table
        elif isinstance(block, Fold | Pair | Column):
            yield from tables_in(block.blocks)
