"""Verdicts of endpoints on disk, by the content of what was asked; no text of the data is kept."""

import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from study.errors import RecordError

TABLE = (
    "CREATE TABLE IF NOT EXISTS verdicts "
    "(asked TEXT PRIMARY KEY, word TEXT NOT NULL, missing TEXT NOT NULL)"
)

AT_ONCE = 500
"""Keys of one query."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """One verdict."""

    word: str
    """``a``, ``b`` or ``tie``; empty where there is none."""
    missing: str = ""
    """Why there is none."""


class Kept:
    """A file of verdicts that threads and processes share.

    Every verdict is written as soon as it is there, so that a killed command goes on
    where it was.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or begin it.

        Raises:
            RecordError: it cannot be used.
        """
        self.path = path
        self.lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = sqlite3.connect(path, timeout=60, check_same_thread=False)
            with self.lock, self.file:
                self.file.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error

    def find(self, keys: Iterable[str]) -> dict[str, Said]:
        """Return the verdicts that are known, by their keys."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Said] = {}
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]
            marks = ", ".join("?" * len(part))
            query = f"SELECT asked, word, missing FROM verdicts WHERE asked IN ({marks})"  # noqa: S608
            try:
                with self.lock:
                    rows = self.file.execute(query, part).fetchall()
            except sqlite3.Error as error:
                raise self._failure(error) from error
            found |= {asked: Said(word=word, missing=missing) for asked, word, missing in rows}
        return found

    def keep(self, key: str, said: Said) -> None:
        """Write one verdict down.

        Raises:
            RecordError: it cannot be written.
        """
        try:
            with self.lock, self.file:
                self.file.execute(
                    "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)",
                    (key, said.word, said.missing),
                )
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> RecordError:
        return RecordError(
            f"cannot use {self.path}, where verdicts are kept ({error}); make room, move the file "
            "away, or set ORPO_STUDY_CACHE to another folder"
        )
