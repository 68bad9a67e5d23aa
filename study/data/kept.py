"""Encoded pairs kept in the user's cache, by their content.

The key names everything that ids depend on: every pair's content, the tokenizer
with its added tokens, the chat template, and the libraries' versions. A file
that changed has other pairs and so another key; nothing is ever brought up to
date. Files are written by rename, and one that is damaged is made again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from study.config.environment import cache_folder
from study.data.pairs import Pair
from study.engine.encoded import Encoded, narrow
from study.errors import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

WORTH_IT = 10_000
"""Pairs that take longer to encode than a file of them takes to read."""

MOST_FILES = 8
"""Encodings that are kept; the ones unused for longest go."""

IDS, LENGTHS, ERRORS = "ids", "lengths", "errors"
"""What a file holds: all ids, 4 bytes each; three lengths of each pair, or -1 where it could not
be encoded, 8 bytes each; and why not, as JSON."""

DAMAGED = (OSError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error)
"""What reading a file raises that is cut short, has a wrong bit or is gone."""

UNFINISHED_S = 86_400
"""Age at which a file in the making was left behind by a process that was killed."""

FORM = 1
"""Number of the way in which pairs become ids; raise it where that changes."""

Whole = Encoded | RowError
Make = Callable[[Sequence[Pair], Tokenizer], Iterator[Whole]]


def kept(pairs: Sequence[Pair], tokenizer: Tokenizer, make: Make) -> Iterator[Whole]:
    """Yield what ``make`` yields for the pairs, from the cache where it was made before."""
    if len(pairs) < WORTH_IT or not hasattr(tokenizer, "backend_tokenizer"):
        yield from make(pairs, tokenizer)
        return
    path = cache_folder() / "encoded" / f"{key_of(pairs, tokenizer)}.zip"
    if (found := _intact(path)) is not None:
        n_told = 0
        with contextlib.suppress(*DAMAGED), found:
            for whole in _restored(pairs, found):
                yield whole
                n_told += 1
            return
        yield from make(pairs[n_told:], tokenizer)  # it went while it was read
        return
    with contextlib.closing(_Making(path)) as file:
        for whole in make(pairs, tokenizer):
            file.add(whole)
            yield whole
        file.finish()
    _forget_old(path.parent)


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


def _intact(path: Path) -> ZipFile | None:
    """Open a file whose checksums hold; None where there is none, which is made again."""
    try:
        with contextlib.ExitStack() as unless_intact:
            file = unless_intact.enter_context(ZipFile(path))
            if file.testzip() is not None or file.namelist() != [IDS, LENGTHS, ERRORS]:
                return None
            with contextlib.suppress(OSError):  # another user's
                os.utime(path)
            unless_intact.pop_all()
    except DAMAGED:
        return None
    return file


def _restored(pairs: Sequence[Pair], file: ZipFile) -> Iterator[Whole]:
    lengths, errors = array("q", file.read(LENGTHS)), iter(json.loads(file.read(ERRORS)))
    rows = zip(*[iter(lengths)] * 3, strict=True)
    with file.open(IDS) as ids:
        for pair, row in zip(pairs, rows, strict=True):
            if row[0] < 0:
                yield RowError(*next(errors))
            else:
                own = narrow(array("i", ids.read(4 * sum(row))))
                yield Encoded(pair.example_id, pair.cluster_id, pair.source, own, *row[:2])


class _Making:
    """A file in the making, which nobody sees before it is whole; a full disk is no error.

    Ids go to the disk as they come: they can take as much memory as the texts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unseen = path.with_name(f".{path.stem}.{secrets.token_hex(4)}")
        self._lengths, self._errors = array("q"), list[list[str]]()
        self._file: ZipFile | None = None
        self._ids: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = ZipFile(self._unseen, "w")
            self._ids = self._file.open(IDS, "w", force_zip64=True)

    def add(self, whole: Whole) -> None:
        """Take the next pair, or what is wrong with it."""
        if self._ids is None:
            return
        if isinstance(whole, RowError):
            self._lengths.extend((-1, -1, -1))
            self._errors.append([whole.reason, str(whole)])
            return
        self._lengths.extend((whole.n_prompt, whole.n_chosen, whole.n_rejected))
        try:
            self._ids.write(array("i", whole.ids).tobytes())
        except OSError:
            self.close()

    def finish(self) -> None:
        """Let others see it."""
        if self._ids is None or self._file is None:
            return
        with contextlib.suppress(OSError):
            self._ids.close()
            self._file.writestr(LENGTHS, self._lengths.tobytes())
            self._file.writestr(ERRORS, json.dumps(self._errors))
            self._file.close()
            self._unseen.replace(self._path)

    def close(self) -> None:
        """Leave nothing that is not whole."""
        for part in (self._ids, self._file):
            with contextlib.suppress(OSError, ValueError):
                if part is not None:
                    part.close()
        self._ids = self._file = None
        with contextlib.suppress(OSError):
            self._unseen.unlink(missing_ok=True)


def _forget_old(folder: Path) -> None:
    """Forget what was not used for longest, and what a killed process left."""
    with contextlib.suppress(OSError):
        for unseen in folder.glob(".*"):
            if time.time() - unseen.stat().st_mtime > UNFINISHED_S:
                unseen.unlink(missing_ok=True)
        newest = sorted(folder.glob("*.zip"), key=lambda one: one.stat().st_mtime)
        for old in newest[:-MOST_FILES]:
            old.unlink(missing_ok=True)
