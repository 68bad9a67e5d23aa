"""Make blocks of sentences, tables and other blocks."""

from collections.abc import Iterable

from paper.blocks import Block, Bullets, Fold, Pair, Prose, TableBlock
from paper.cells import Table
from paper.prose import read_text


def beside(*blocks: Block) -> Block:
    """Put blocks beside each other, where there are two."""
    return Pair(blocks=blocks) if len(blocks) > 1 else blocks[0]


def text_of(name: str) -> Prose:
    """Return hand-written prose."""
    return Prose(text=read_text(name))


def said(sentence: str) -> list[Block]:
    """Make a paragraph of one sentence."""
    return [Prose(text=sentence)]


def listing(sentences: Iterable[str], otherwise: str = "") -> list[Block]:
    """List sentences; say what else is true, or nothing, where there are none."""
    items = tuple(("", sentence) for sentence in sentences)
    if items:
        return [Bullets(items=items)]
    return said(otherwise) if otherwise else []


def table_block(table: Table) -> TableBlock:
    """Make the block of a table."""
    return TableBlock(table=table)


def fold(summary: str, *blocks: Block, is_printed: bool = True) -> Fold:
    """Fold blocks away under a summary."""
    return Fold(summary=summary, blocks=blocks, is_printed=is_printed)


def folded(summary: str, table: Table | None, *, is_printed: bool = True) -> list[Fold]:
    """Fold a table away, if there is one."""
    return [] if table is None else [fold(summary, table_block(table), is_printed=is_printed)]
