"""Every table of the report as CSV and JSON, cells as they are printed."""

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

from paper.cells import Cell, Table

MANIFEST = "written.txt"
"""Names of the files that a report wrote beside it."""


def write_tables(tables: Iterable[Table], folder: Path) -> None:
    """Write ``<name>.csv`` and ``<name>.json`` for each table.

    Args:
        tables: with names that differ.
        folder: made where it is missing; what an earlier report wrote there and no
            table has any more is removed, other files are left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier, written = _written(folder), set[str]()
    for table in tables:
        for suffix, text in ((".csv", as_csv(table)), (".json", as_json(table))):
            path = folder / f"{table.name}{suffix}"
            path.write_bytes(text.encode("utf-8", errors="backslashreplace"))
            written.add(path.name)
    for name in earlier - written:
        (folder / name).unlink(missing_ok=True)
    listed = "".join(f"{name}\n" for name in sorted(written))
    (folder / MANIFEST).write_text(listed, encoding="utf-8")


def _written(folder: Path) -> set[str]:
    """Return the names of the tables that an earlier report wrote; paths are none."""
    manifest = folder / MANIFEST
    lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []
    return {name for name in lines if re.fullmatch(r"[\w-]+\.(csv|json)", name)}


def as_csv(table: Table) -> str:
    """Print a table as CSV; groups with headings gain a first column, notes their own lines."""
    named = any(group.heading for group in table.groups)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [_head(place, table) for place in range(len(table.columns))]
    writer.writerow([*(["group"] if named else []), *heads])
    for group, cells in _rows(table):
        writer.writerow([*([group] if named else []), *map(_text, cells)])
    return out.getvalue()


def as_json(table: Table) -> str:
    """Print a table as JSON with its caption, note and provenance."""
    heads = [_head(place, table) for place in range(len(table.columns))]
    tree = {
        "caption": table.caption,
        "note": table.note,
        "provenance": table.signature,
        "columns": heads,
        "rows": [
            {"group": group, "cells": [_text(cell) for cell in cells]}
            for group, cells in _rows(table)
        ],
    }
    return json.dumps(tree, ensure_ascii=False, indent=1) + "\n"


def _rows(table: Table) -> Iterable[tuple[str, tuple[Cell, ...]]]:
    for group in table.groups:
        heading = "".join(span.text for span in group.heading.spans) if group.heading else ""
        for row in group.rows:
            yield heading, row.cells


def _head(place: int, table: Table) -> str:
    column = table.columns[place]
    return " ".join(f"{column.over} {column.head}".split())


def _text(cell: Cell) -> str:
    return "\n".join(filter(None, (*cell.lines, cell.note)))
