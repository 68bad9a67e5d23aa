"""A table as printed cells, before any skin lays it out.

Text is plain: every skin escapes it. Marks say what a text *is* (a note, a
verdict, the primary score), never how it looks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: lines of text, and perhaps a note below them."""

    lines: tuple[str, ...]
    note: str = ""
    tone: str = ""
    """First word of a verdict, such as ``better``, by which skins may colour it."""
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a heading."""

    text: str
    strong: bool = False
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What stands above a group of rows, over the whole width."""

    spans: tuple[Span, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row; the primary score's is set apart."""

    cells: tuple[Cell, ...]
    primary: bool = False

    @property
    def is_tall(self) -> bool:
        """Whether it has notes or several lines, so that print needs a gap before the next row."""
        return any(cell.note or len(cell.lines) > 1 for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that belong together."""

    rows: tuple[Row, ...]
    heading: Heading | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column; the first of a table names its rows."""

    head: str
    """May hold newlines, where a narrow head breaks best."""
    width: float
    """Share of a printed line; screens find their own widths."""
    number: bool = False
    unbroken: bool = False
    """Whether its texts are short enough never to break on a screen."""
    long: bool = False
    """Whether its texts are long and may break anywhere."""
    over: str = ""
    """Head that it shares with its neighbours."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the report."""

    name: str
    """Unique in a document; letters, digits and hyphens."""
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    caption: str
    note: str
    """What is tested in it and on how many cases."""
    signature: str
    """Provenance of its numbers."""
    is_dense: bool = False
    """Whether it is set in small type however few its rows are."""

    @property
    def overheads(self) -> tuple[tuple[str, int, int], ...]:
        """Shared heads as (text, first column, last column), from one; empty without any."""
        if not any(column.over for column in self.columns):
            return ()
        runs = groupby(enumerate(self.columns, 1), lambda item: item[1].over)
        found = [(text, [place for place, _ in run]) for text, run in runs]
        return tuple((text, places[0], places[-1]) for text, places in found)

    @property
    def is_large(self) -> bool:
        """Whether print needs small type: many columns, or many rows."""
        n_rows = sum(len(group.rows) for group in self.groups)
        return self.is_dense or len(self.columns) > 6 or n_rows > 18


def cell(*lines: str, note: str = "", tone: str = "", code: bool = False) -> Cell:
    """Make a cell of lines."""
    return Cell(lines=lines, note=note, tone=tone, code=code)


def row(*cells: str | Cell, primary: bool = False) -> Row:
    """Make a row; a string is a cell of one line."""
    return Row(
        cells=tuple(made if isinstance(made, Cell) else cell(made) for made in cells),
        primary=primary,
    )


def one_group(rows: Sequence[Row]) -> tuple[Group, ...]:
    """Make the groups of a table that has but one."""
    return (Group(rows=tuple(rows)),)


def tone(verdict: str) -> str:
    """Return the word of a verdict by which skins may colour it."""
    return verdict.split(maxsplit=1)[0] if verdict else ""


def slug(text: str) -> str:
    """Turn a name into letters, digits and hyphens, for the name of a table."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
