"""Encoded pairs kept in the user's cache, by their content.

The key names everything that ids depend on: every pair's content, the tokenizer
with its added tokens, the chat template, and the libraries' versions. A file
that changed has other pairs and so another key; nothing is ever brought up to
date. Files are written by rename, and one that is damaged is made again.
"""

import functools
import hashlib
import json
import os
import secrets
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from study.config.environment import cache_folder
from study.data.pairs import Pair
from study.engine.encoded import Encoded
from study.errors import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

WORTH_IT = 10_000
"""Pairs that take longer to encode than a file of them takes to read."""

MOST_FILES = 8
"""Encodings that are kept; the ones unused for longest go."""

FORM = 1
"""Number of the way in which pairs become ids; raise it where that changes."""

Whole = Encoded | RowError
Make = Callable[[Sequence[Pair], Tokenizer], Iterator[Whole]]


def kept(pairs: Sequence[Pair], tokenizer: Tokenizer, make: Make) -> Iterator[Whole]:
    """Yield what ``make`` yields for the pairs, from the cache where it was made before."""
    if len(pairs) < WORTH_IT or not hasattr(tokenizer, "backend_tokenizer"):
        yield from make(pairs, tokenizer)
        return
    path = cache_folder() / "encoded" / f"{key_of(pairs, tokenizer)}.npz"
    if (found := _read(path)) is not None:
        yield from _restored(pairs, *found)
        return
    ids, lengths, errors = array("i"), array("q"), []
    for whole in make(pairs, tokenizer):
        parts = _parts(whole)
        for part in parts:
            ids.extend(part)
        lengths.extend(map(len, parts) if parts else (-1, -1, -1))
        if isinstance(whole, RowError):
            errors.append([whole.reason, str(whole)])
        yield whole
    _write(path, ids, lengths, errors)


def key_of(pairs: Iterable[Pair], tokenizer: Tokenizer) -> str:
    """Name everything that the ids of pairs depend on; SHA-256 in hex."""
    found = hashlib.sha256(json.dumps([FORM, *map(version, LIBRARIES)]).encode())
    named = (
        tokenizer.backend_tokenizer.to_str(),
        str(tokenizer.chat_template),
        json.dumps(tokenizer.special_tokens_map, default=str, sort_keys=True),
    )
    for text in (type(tokenizer).__name__, *named):
        found.update(hashlib.sha256(text.encode()).digest())
    for pair in pairs:
        found.update(f"{pair.example_id}\n".encode())
    return found.hexdigest()


LIBRARIES = ("tokenizers", "transformers", "jinja2")


def _parts(whole: Whole) -> tuple[tuple[int, ...], ...]:
    if isinstance(whole, RowError):
        return ()
    return whole.prompt_ids, whole.chosen_ids, whole.rejected_ids


def _restored(
    pairs: Sequence[Pair], ids: Any, lengths: Any, errors: list[list[str]]
) -> Iterator[Whole]:
    number = functools.cache(int)  # every id once, see `encode_all`
    told, at = iter(errors), 0
    for pair, row in zip(pairs, lengths.reshape(-1, 3).tolist(), strict=True):
        if row[0] < 0:
            yield RowError(*next(told))
            continue
        parts = []
        for length in row:
            parts.append(tuple(map(number, ids[at : at + length].tolist())))
            at += length
        yield Encoded(pair.example_id, pair.cluster_id, pair.source, *parts)


def _read(path: Path) -> tuple[Any, Any, list[list[str]]] | None:
    """Read a file whose checksums hold; None where there is none, which is made again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            errors = json.loads(found["errors"].tobytes())
            content = found["ids"], found["lengths"], errors
        os.utime(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return content


def _write(path: Path, ids: "array[int]", lengths: "array[int]", errors: list[list[str]]) -> None:
    """Write by rename, and forget what was not used for long; a full disk is no error."""
    told = np.frombuffer(json.dumps(errors).encode(), dtype=np.uint8)
    unseen = path.with_name(f".{path.stem}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unseen.open("wb") as file:  # not in memory first: it may be as large as the data
                np.savez(
                    file,
                    ids=np.frombuffer(ids, dtype=np.int32),
                    lengths=np.frombuffer(lengths, dtype=np.int64),
                    errors=told,
                )
            unseen.replace(path)
        finally:
            unseen.unlink(missing_ok=True)
        newest = sorted(path.parent.glob("*.npz"), key=lambda one: one.stat().st_mtime)
        for old in newest[:-MOST_FILES]:
            old.unlink(missing_ok=True)
    except OSError:
        return
