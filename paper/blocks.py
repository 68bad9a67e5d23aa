"""What a document is made of: sections of blocks, before any skin lays them out.

A skin has one macro for each kind of block.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from analysis.findings import FigureFile
from paper.cells import Table


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
class Answers:
    """One prompt and what everybody answered."""

    kind: ClassVar = "answers"
    place: str
    prompt: str
    answers: tuple[tuple[str, str], ...]
    """(who, text), the chosen answer first."""


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
    late: bool = False
    """Whether print has it in the appendix."""


Block = Prose | Bullets | Heading | Formula | TableBlock | Figure | Answers | Commands | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section; its name is its address."""

    name: str
    heading: str
    blocks: tuple[Block, ...]

    @property
    def early(self) -> tuple[Block, ...]:
        """What print has in the section itself."""
        return tuple(block for block in self.blocks if block not in self.late)

    @property
    def late(self) -> tuple[Block, ...]:
        """What print has in the appendix."""
        return tuple(block for block in self.blocks if isinstance(block, Fold) and block.late)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The whole report."""

    title: str
    short_title: str
    subtitle: str
    headline: str
    answer: str
    origin: str
    signature: str
    sections: tuple[Section, ...]
    appendix: Section

    @property
    def all(self) -> tuple[Section, ...]:
        """Every section in the order of a screen."""
        return (*self.sections, self.appendix)

    @property
    def printed_appendix(self) -> tuple[Block, ...]:
        """The blocks of the appendix in print: its own text first, then what came late."""
        late = (block for section in self.sections for block in section.late)
        own = self.appendix.blocks
        return (
            *(block for block in own if not isinstance(block, Fold)),
            *late,
            *(block for block in own if isinstance(block, Fold)),
        )
