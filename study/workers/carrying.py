"""Files of a folder, in pieces: to another machine and back."""

import os
from collections.abc import Iterator
from pathlib import Path

from study.records.layout import RECORD
from study.run.checkpoints import SEAL

CHUNK_BYTES = 2**22
"""A piece at most. Ray's messages are limited to 512 MB and slow down far below."""


UNSENT = (".lock", ".part")
"""Ends of names of files that belong to one machine."""


State = tuple[int, int]
"""A file's size and time of change."""


def files_of(folder: Path) -> dict[str, State]:
    """Return the files that others may need, in the order in which they may be seen.

    What says that others are whole comes last: of a checkpoint its seal, of a run its record.
    """
    found = {
        path.relative_to(folder).as_posix(): (state.st_size, state.st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in UNSENT and (state := path.stat())
    }
    return {name: found[name] for name in sorted(found, key=_rank)}


def _rank(name: str) -> tuple[bool, bool, str]:
    return name == RECORD, name.endswith(f"/{SEAL}"), name


def pieces_of(path: Path) -> Iterator[tuple[bytes, bool, bool]]:
    """Yield a file's pieces, each with whether it is the first and whether the last."""
    with path.open("rb") as file:
        piece, first = file.read(CHUNK_BYTES), True
        while True:
            following = file.read(CHUNK_BYTES)
            yield piece, first, not following
            if not following:
                return
            piece, first = following, False


def keep_piece(path: Path, piece: bytes, first: bool, last: bool) -> None:
    """Write a piece of a file, which gets its name with the last one."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb" if first else "ab") as file:
        file.write(piece)
        if last:
            file.flush()
            os.fsync(file.fileno())
    if last:
        part.replace(path)


def forget_parts(folder: Path) -> None:
    """Remove what was never whole, because its sender died."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)
