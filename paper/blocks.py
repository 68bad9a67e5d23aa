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
class Said:
    """One answer to a prompt."""

    who: str
    text: str
    is_right: bool | None = None
    """Whether it is the chosen answer; None for that itself, and where nothing says so."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Blocks that a wide screen puts beside each other."""

    kind: ClassVar = "pair"
    blocks: tuple["Block", ...]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One prompt and what everybody answered."""

    kind: ClassVar = "answers"
    place: str
    prompt: str
    answers: tuple[Said, ...]
    """The chosen answer first."""

    @property
    def group(self) -> str:
        """Who is right, in words by which prompts are filtered; empty where nobody knows."""
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

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that occur, in alphabetical order."""
        return tuple(sorted({found.group for found in self.prompts} - {""}))

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
        elif isinstance(block, Fold | Pair):
            yield from tables_in(block.blocks)
