"""Files on disk or in archives: decompressed, and read line by line within a budget.

The compression follows from the first bytes of a file. A `Budget` bounds what is
read, so that a small file cannot fill the memory.
"""

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO, cast

from study.errors import DataError

ROW_BYTES = 1024
"""What a row counts at least: about what its pair takes in memory beside its text."""


LINE_BYTES = 128
"""What a line counts at least where rows have several: so many in memory and time."""


MIB = 2**20


UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError)
"""How reading fails where a file is damaged, cut short or gone."""


class Budget:
    """How much more of a source may be read."""

    def __init__(self, max_bytes: int, source: str) -> None:
        self.left = max_bytes
        self._max_bytes = max_bytes
        self._source = source

    def take(self, n_bytes: int) -> None:
        """Count what was read.

        Raises:
            DataError: it is more than is left.
        """
        self.left -= n_bytes
        if self.left < 0:
            raise DataError(
                f"{self._source} holds more than data.max_bytes, {self._max_bytes:,} bytes once "
                f"uncompressed (a row counts as {ROW_BYTES:,} at least); name a part of it, or "
                "allow more with --set data.max_bytes=BYTES if this machine has the memory"
            )

    def row(self, n_bytes: int) -> None:
        """Count one row of so many bytes."""
        self.take(max(n_bytes, ROW_BYTES))

    def line(self, n_bytes: int) -> None:
        """Count one of several lines of a row, or of all rows."""
        self.take(max(n_bytes, LINE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of rows, on disk or inside an archive."""

    name: str
    """Path inside its folder or archive, with ``/``; kind and split follow from it."""
    label: str
    """How messages name it."""
    open: Callable[[], BinaryIO]


@contextlib.contextmanager
def decompressed(file: File) -> Iterator[BinaryIO]:
    """Open a file and undo its compression, which its first bytes tell.

    Raises:
        DataError: it is a pointer of Git LFS.
    """
    with contextlib.ExitStack() as opened:
        stream = opened.enter_context(file.open())
        start = stream.read(32)
        stream.seek(0)
        if start.startswith(b"version https://git-lfs"):
            raise DataError(
                f"{file.label} is a Git LFS pointer, not the file; fetch it with 'git lfs pull'"
            )
        for magic, reader in COMPRESSIONS.values():
            if start.startswith(magic):
                stream = opened.enter_context(reader(stream))
                break
        yield stream


def _by_arrow(codec: str) -> Callable[[BinaryIO], BinaryIO]:
    def reader(stream: BinaryIO) -> BinaryIO:
        import pyarrow as pa

        return cast(BinaryIO, BufferedReader(pa.CompressedInputStream(stream, codec), MIB))

    return reader


COMPRESSIONS: Mapping[str, tuple[bytes, Callable[[Any], Any]]] = {
    "gz": (b"\x1f\x8b", lambda stream: gzip.GzipFile(fileobj=stream)),
    "bz2": (b"BZh", bz2.BZ2File),
    "xz": (b"\xfd7zXZ\0", lzma.LZMAFile),
    "zst": (b"\x28\xb5\x2f\xfd", _by_arrow("zstd")),
    "lz4": (b"\x04\x22\x4d\x18", _by_arrow("lz4")),
}
"""End of the name -> first bytes, and what reads it."""


def lines(label: str, stream: BinaryIO, budget: Budget) -> Iterator[tuple[str, int]]:
    """Yield each line as it stands, and its size in bytes.

    Raises:
        DataError: it is not UTF-8 text, or longer than the budget.
    """
    number = 0
    while line := _line(stream, budget):
        number += 1
        if number == 1 and line[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            raise DataError(f"{label} is UTF-16 text; save it as UTF-8")
        if b"\0" in line:
            raise DataError(
                f"{label}, line {number}: a NUL byte; the file is damaged or not UTF-8 text"
            )
        try:  # a mark stands at the start, and where files were joined
            text = line.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise DataError(f"{label}, line {number}: not UTF-8 text; save it as UTF-8") from error
        yield text, len(line)


def _line(stream: BinaryIO, budget: Budget) -> bytes:
    """Read one line; of a line without end no more than the budget, or up to a NUL byte."""
    line = stream.readline(MIB)
    if line.endswith(b"\n") or len(line) < MIB:
        return line
    pieces, n_bytes = [line], len(line)
    while not line.endswith(b"\n") and b"\0" not in line and (line := stream.readline(MIB)):
        pieces.append(line)
        n_bytes += len(line)
        if n_bytes > budget.left:
            budget.take(n_bytes)
    return b"".join(pieces)
