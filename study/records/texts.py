"""Texts of others: left out of what is published, and shown where the user has the data.

A publication keeps scores and the model's own answers. Prompts and reference answers
become the hash of their text, which anyone who has the data can hold against it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from study.config.environment import cache_folder
from study.errors import RecordError
from study.records.files import read_json, write_json

WITHHELD = "withheld"
"""Key of a row whose texts are left out: field -> SHA-256, or a list of them."""

FIELDS = ("prompt", "reference", "references")


def withhold(row: Mapping[str, Any]) -> dict[str, Any]:
    """Put hashes in the place of a row's prompt and references; its answer stays.

    A row that has hashes already keeps them.
    """
    if WITHHELD in row:
        return dict(row)
    found = {name: row[name] for name in FIELDS if name in row}
    return {
        **row,
        **{name: _each(_mark, text) for name, text in found.items()},
        WITHHELD: {name: _each(sha256, text) for name, text in found.items()},
    }


def restore(
    rows: Iterable[Mapping[str, Any]], texts: Mapping[str, str]
) -> tuple[Mapping[str, Any], ...]:
    """Put texts back into rows whose every hash has one; others stay as they are."""
    return tuple(_restored(row, texts) for row in rows)


def has_texts(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether prompts and references of all rows are there to be read."""
    return not any(WITHHELD in row for row in rows)


def known_texts(fingerprint: str) -> dict[str, str]:
    """Return hash -> text of a test split whose data were on this machine, or nothing."""
    try:
        return dict(read_json(_path(fingerprint)) or {})
    except RecordError:  # a cache; the report shows hashes
        return {}


def keep_texts(fingerprint: str, texts: Iterable[str]) -> None:
    """Keep the texts of a test split for reports, in the user's cache, by their hashes."""
    write_json(_path(fingerprint), {sha256(text): text for text in texts})


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _path(fingerprint: str) -> Path:
    return cache_folder() / "texts" / f"{sha256(fingerprint)[:32]}.json"


def _mark(text: str) -> str:
    return f"(not published; SHA-256 {sha256(text)})"


def _each(change: Any, texts: Any) -> Any:
    return change(texts) if isinstance(texts, str) else [change(text) for text in texts]


def _restored(row: Mapping[str, Any], texts: Mapping[str, str]) -> Mapping[str, Any]:
    hashes = row.get(WITHHELD, {})
    listed = [[found] if isinstance(found, str) else found for found in hashes.values()]
    if not hashes or not all(one in texts for one in chain(*listed)):
        return row
    told = {name: _each(texts.__getitem__, found) for name, found in hashes.items()}
    return {name: value for name, value in {**row, **told}.items() if name != WITHHELD}
