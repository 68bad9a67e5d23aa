"""Write a report anew whenever its records change."""

import time
from collections.abc import Callable
from pathlib import Path

EVERY_S = 5.0
RECORDS = {".json", ".jsonl", ".parquet"}
"""What records are written as; checkpoints and locks say nothing that a report shows."""


def watch(
    write: Callable[[], None],
    folders: tuple[Path, ...],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Call ``write`` now and after every change below the folders, until interrupted.

    Args:
        write: writes the report, or says why it cannot.
        folders: folders of records; those that are not there yet are waited for.
        wait: sleeps for seconds; a KeyboardInterrupt in it ends the watch.
    """
    seen: object = None
    try:
        while True:
            if (found := state(folders)) != seen:
                seen = found
                write()
            wait(EVERY_S)
    except KeyboardInterrupt:
        return


def state(folders: tuple[Path, ...]) -> frozenset[tuple[str, int, int]]:
    """Return what tells that records changed: (path, size, time) of every file."""
    found = set()
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix in RECORDS:
                try:
                    facts = path.stat()
                except FileNotFoundError:  # replaced while we looked
                    continue
                found.add((path.as_posix(), facts.st_size, facts.st_mtime_ns))
    return frozenset(found)
