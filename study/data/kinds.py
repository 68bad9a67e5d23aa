"""Rows of one file, of any known kind: a table of readers, one for each end of a name."""

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, BinaryIO, cast

from study.data.files import (
    COMPRESSIONS,
    ROW_BYTES,
    UNREADABLE,
    Budget,
    File,
    decompressed,
    lines,
)
from study.errors import DataError, first_line


def read_file(file: File, budget: Budget) -> list[Any]:
    """Read the rows of one file.

    Raises:
        DataError: it is of no known kind, damaged or larger than the budget; the
            message names the file, and the line where one is known.
    """
    kind = SUFFIX.search(file.name)
    if kind is None:
        raise DataError(
            f"{file.label} is of no known type; files end in {', '.join(f'.{n}' for n in KINDS)}, "
            f"each also compressed ({', '.join(f'.{n}' for n in COMPRESSIONS)}), archives in .tar "
            "(compressed too) or .zip"
        )
    try:
        with decompressed(file) as stream:
            return list(KINDS[kind[1].lower()](file.label, stream, budget))
    except UNREADABLE as error:
        raise DataError(
            f"cannot read {file.label}: {first_line(error)}; copy or download it again"
        ) from error


def _read_json_lines(label: str, stream: BinaryIO, budget: Budget) -> Iterator[Any]:
    # Not str.splitlines: U+2028 and its like may stand inside a JSON string.
    for number, (line, n_bytes) in enumerate(lines(label, stream, budget), start=1):
        budget.row(n_bytes)
        if line.isspace():
            continue
        try:
            yield json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise _not_json(label, number, error) from error


def _read_json(label: str, stream: BinaryIO, budget: Budget) -> Iterable[Any]:
    """Read a list of records, records one after another, or the columns of an object."""
    parts = []
    for line, n_bytes in lines(label, stream, budget):
        budget.line(n_bytes)
        parts.append(line)
    text = "".join(parts)
    del parts
    values = _json_values(label, text, budget)
    if text.lstrip()[:1] == "[":
        return values
    rows = list(values)
    return _rows_of(label, rows[0]) if len(rows) == 1 and isinstance(rows[0], dict) else rows


def _json_values(label: str, text: str, budget: Budget) -> Iterator[Any]:
    """Yield the elements of a list, or values that stand one after another."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)

    def fail(error: Exception, place: int) -> DataError:
        line = getattr(error, "lineno", 0) or text.count("\n", 0, place) + 1
        return _not_json(label, line, error)

    place = _after_space(text, 0)
    is_list = text[place : place + 1] == "["
    place = _after_space(text, place + is_list)
    is_open = is_list
    if is_list and text[place : place + 1] == "]":
        is_open, place = False, _after_space(text, place + 1)
    while is_open or (not is_list and place < len(text)):
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise fail(error, place) from error
        budget.take(max(ROW_BYTES - (end - place), 0))
        yield value
        place = _after_space(text, end)
        if is_list:
            mark = text[place : place + 1]
            if mark not in {",", "]"}:
                raise fail(ValueError("Expecting ',' or ']'"), place)
            is_open, place = mark == ",", _after_space(text, place + 1)
    if place < len(text):
        raise fail(ValueError("Extra data"), place)


def _after_space(text: str, place: int) -> int:
    return cast("re.Match[str]", SPACE.match(text, place)).end()


SPACE = re.compile(r"[\s\ufeff]*")


def _rows_of(label: str, found: dict[str, Any]) -> list[Any]:
    """Return the rows of one object: itself, its columns, or the list of records in it."""
    columns = {name: _column(value) for name, value in found.items()}
    lists = {name: value for name, value in columns.items() if isinstance(value, list) and value}
    is_row = any(isinstance(found.get(name), str) for name in ROW_COLUMNS) or (
        bool(lists) and all(map(_is_dialogue, lists.values()))
    )
    if is_row or not lists:
        return [found]
    if not set(ROW_COLUMNS) & found.keys():
        rows = lists.get("rows", [None])
        records = [name for name, value in lists.items() if isinstance(value[0], dict)]
        if all(isinstance(one, dict) and {"row_idx", "row"} <= one.keys() for one in rows):
            return _served(label, rows)
        if len(records) > 1:
            raise DataError(
                f"{label} holds several lists of records ({', '.join(records[:8])}); write the "
                "one that is meant to a file of its own"
            )
        if records:
            return lists[records[0]]
    if len(lists) < len(found) or len({len(value) for value in lists.values()}) > 1:
        return [found]
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _served(label: str, rows: Sequence[Any]) -> list[Any]:
    """Return the rows that the Hub's dataset viewer sends, each with its number."""
    if any(row.get("truncated_cells") for row in rows):
        raise DataError(
            f"{label} was saved from the Hub's viewer, which cut long cells; give the name of the "
            "dataset itself"
        )
    return [row["row"] for row in rows]


ROW_COLUMNS = ("chosen", "rejected", "prompt", "question", "instruction", "rejected_response")


def _column(value: Any) -> Any:
    """Return a column's values; pandas writes them as row number -> value."""
    is_numbered = isinstance(value, dict) and all(key.isdecimal() for key in value)
    return list(value.values()) if is_numbered else value


def _is_dialogue(value: Sequence[Any]) -> bool:
    return all(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in value)


def _not_json(label: str, line: int, error: Exception) -> DataError:
    return DataError(
        f"{label}, line {line}: not JSON ({getattr(error, 'msg', error)}); a .json file is one "
        "list of records, a .jsonl file one record per line"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, but refuse one that gives a key two values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"key {twice!r} twice in one object")
    return made


def _read_csv(label: str, stream: BinaryIO, budget: Budget) -> Iterator[Any]:
    """Read records under a header; a row of another width is kept as a list."""
    text = _csv_lines(label, stream, budget)
    head = next(text, "")
    if said := SEPARATOR.match(head):  # as Excel writes it
        head = next(text, "")
    marks = said[1] if said else ",;\t|"
    delimiter = max(marks, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
    rows = _csv_rows(label, chain([head], text), delimiter, after_space=f"{delimiter} " in head)
    header = [name.strip() for name in next(rows, [])]
    _require_distinct(label, header)
    for row in rows:
        budget.take(ROW_BYTES)
        yield dict(zip(header, row, strict=True)) if len(row) == len(header) else row


def _csv_lines(label: str, stream: BinaryIO, budget: Budget) -> Iterator[str]:
    for line, n_bytes in lines(label, stream, budget):
        budget.line(n_bytes)
        yield from re.split(r"(?<=\r)(?!\n)", line) if "\r" in line[:-2] else (line,)


SEPARATOR = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*$')
"""A first line that names what stands between the fields."""


def _csv_rows(
    label: str, text: Iterable[str], delimiter: str, *, after_space: bool
) -> Iterator[list[str]]:
    """Yield rows; ``after_space`` takes a space behind each delimiter for layout."""
    limit = csv.field_size_limit(sys.maxsize)
    if delimiter == "\t":
        text = list(text)
    reader = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=after_space)
    try:
        if isinstance(text, list) and (plain := _unquoted(text)):
            yield from plain
            return
        yield from (row for row in reader if row)
    except csv.Error as error:
        raise DataError(
            f"{label}, line {reader.line_num}: not CSV ({error}); fields with quotes, delimiters "
            "or line breaks must be quoted"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _unquoted(text: Sequence[str]) -> list[list[str]]:
    """Read a table with tabs whose quotes are none, as its widths tell; else nothing."""
    rows = [row for row in csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    is_table = len({len(row) for row in rows}) == 1
    is_quoted = any(field[:1] == field[-1:] == '"' for row in rows for field in row)
    return rows if is_table and not is_quoted else []


def _read_parquet(label: str, stream: BinaryIO, budget: Budget) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    content = stream.read(budget.left + 1)
    if len(content) > budget.left:
        budget.take(len(content))
    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        _require_distinct(label, file.schema_arrow.names)
        _check_size(file.metadata, budget)
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata, budget)):
            budget.take(max(_n_bytes(batch), ROW_BYTES * batch.num_rows))
            yield from batch.to_pylist()
    except (DataError, MemoryError):
        raise
    except Exception as error:  # damaged files fail in many ways
        what = first_line(error)
        raise DataError(f"cannot read {label} as Parquet: {what}; write it again") from error


def _check_size(metadata: Any, budget: Budget) -> None:
    """Refuse at once what the file's own table of contents says to be too large."""
    n_bytes = sum(
        metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)
    )
    if (claimed := max(n_bytes, ROW_BYTES * metadata.num_rows)) > budget.left:
        budget.take(claimed)


def _n_bytes(batch: Any) -> int:
    """Return the size of rows once values that repeat are written out."""
    import pyarrow as pa

    return sum(
        (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).nbytes
        for column in batch.columns
    )


def _batch_rows(metadata: Any, budget: Budget) -> int:
    """Return how many rows to read at once, as each may repeat all that a column holds."""
    largest = max(
        (
            metadata.row_group(number).column(column).total_uncompressed_size
            for number in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        ),
        default=1,
    )
    return int(min(max(budget.left // max(largest, 1), 16), 1024))


def _require_distinct(label: str, columns: Sequence[str]) -> None:
    if len(set(columns)) < len(columns):
        raise DataError(f"{label} names a column twice; rename one of them")


KINDS: Mapping[str, Callable[[str, BinaryIO, Budget], Iterable[Any]]] = {
    "json": _read_json,
    "jsonl": _read_json_lines,
    "ndjson": _read_json_lines,
    "csv": _read_csv,
    "tsv": _read_csv,
    "parquet": _read_parquet,
}
"""End of the name -> what reads it."""


SUFFIX = re.compile(rf"\.({'|'.join(KINDS)})(\.({'|'.join(COMPRESSIONS)}))?$", re.IGNORECASE)
