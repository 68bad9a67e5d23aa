"""Plain files, written whole or not at all, with checksums of their own."""

import contextlib
import functools
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from study.config.canonical import digest
from study.errors import RecordError, UnreadableError

RACY_NS = 100_000_000
"""A file that changed so shortly ago may change again without another time."""

RESOLVED, CHECKSUM = "resolved.json", "checksum"


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None where there is no file.

    A checksum that `write_sealed` added is checked and left out.

    Raises:
        RecordError: the file is not a whole JSON object, or was changed.
        UnreadableError: this user may not read it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise unreadable(path) from error
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; name another --runs") from error
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error})") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path} is damaged (not a JSON object)")
    if CHECKSUM in value and value.pop(CHECKSUM) != digest(value):
        raise RecordError(f"{path} is damaged (changed since it was written)")
    return value


def unreadable(path: Path) -> UnreadableError:
    """Return the error of a file that belongs to somebody else."""
    return UnreadableError(
        f"{path} may not be read by this user; ask its owner for leave to (chmod a+r), or name "
        "another --runs"
    )


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file with a checksum of its content, by rename."""
    write_json(path, {**value, CHECKSUM: digest(value)})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file by rename, so that no reader ever sees half of it."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_jsonl(path: Path, *, growing: bool = False, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; nothing where there is no file.

    Args:
        path: the file.
        growing: others append to it: a last line without its end does not count.
        start: bytes to skip, where a line begins.

    Raises:
        RecordError: a line is not JSON; the message gives its number.
    """
    if not path.exists():
        return
    with path.open("rb") as lines:
        lines.seek(start)
        for number, line in enumerate(lines, start=1):
            if growing and not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line.decode())
            except ValueError as error:
                raise RecordError(f"{path}, line {number} is damaged ({error})") from error
            if not isinstance(row, dict):
                raise RecordError(f"{path}, line {number} is damaged (not a JSON object)")
            yield row


def cut_half_line(path: Path, start: int = 0) -> int:
    """Cut what a crash left of a last line; return the size of the file in bytes.

    Args:
        path: the file; nobody else may append to it now.
        start: bytes that are known to be whole lines.
    """
    with path.open("rb+") as file:
        file.seek(start)
        size = start + file.read().rfind(b"\n") + 1
        if size < file.tell():
            file.truncate(size)
    return size


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON-lines file by rename."""
    write_bytes(path, "".join(_line(row) for row in rows).encode())


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line to a JSON-lines file, or leave the file as it is.

    Raises:
        RecordError: the line cannot be written.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
    except OSError as error:
        with contextlib.suppress(OSError):  # a full disk may have taken half of the line
            os.truncate(path, size)
        raise RecordError(
            f"cannot write {path}: {error.strerror}; make room or name another --runs"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file to a temporary neighbour, flush it to disk and rename it.

    Raises:
        RecordError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; make room or name another --runs"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; nothing was changed; make room or name "
            "another --runs"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the mode that the umask asks for; safetensors makes them 0600."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hex; a file that did not change is read once."""
    found = path.stat()
    when = max(found.st_mtime_ns, found.st_ctime_ns)
    if time.time_ns() - when < RACY_NS:
        return _hash(path)
    return _hash_of(path, (found.st_dev, found.st_ino, found.st_size, when))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=100_000)
def _hash_of(path: Path, state: tuple[int, ...]) -> str:  # noqa: ARG001 - part of the key
    return _hash(path)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
