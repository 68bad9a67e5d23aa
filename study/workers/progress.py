"""Progress of jobs: bars on a terminal, sparse plain lines in a file."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

LINE_EVERY_S = 15.0
"""A job writes at most one plain line in this time, besides its first and last."""


class Display(Protocol):
    """What is told of each job, by its index."""

    def start(self, index: int) -> None:
        """Say that a job begins."""

    def update(self, index: int, done: float, total: float, note: str) -> None:
        """Say how far a job is."""

    def finish(self, index: int, outcome: str) -> None:
        """Say how a job ended."""


@contextmanager
def open_display(
    names: Sequence[str], *, quiet: bool, stream: TextIO | None = None
) -> Iterator[Display]:
    """Choose bars, lines or nothing, and leave the stream clean afterwards."""
    stream = stream or sys.stderr
    if quiet:
        yield _Silence()
    elif stream.isatty():
        bars = _Bars(names, stream)
        try:
            yield bars
        finally:
            bars.close()
    else:
        yield _Lines(names, stream)


class _Silence:
    def start(self, index: int) -> None: ...

    def update(self, index: int, done: float, total: float, note: str) -> None: ...

    def finish(self, index: int, outcome: str) -> None: ...


class _Lines:
    def __init__(self, names: Sequence[str], stream: TextIO) -> None:
        self._names, self._stream = names, stream
        self._last: dict[int, float] = {}

    def start(self, index: int) -> None:
        self._last[index] = time.monotonic()
        self._write(index, "begins")

    def update(self, index: int, done: float, total: float, note: str) -> None:
        if time.monotonic() - self._last[index] >= LINE_EVERY_S:
            self._last[index] = time.monotonic()
            self._write(index, f"{math.floor(done)}/{total:g}, {note}")

    def finish(self, index: int, outcome: str) -> None:
        self._write(index, outcome)

    def _write(self, index: int, text: str) -> None:
        print(f"[{index + 1}/{len(self._names)}] {self._names[index]}: {text}", file=self._stream)
        self._stream.flush()


class _Bars:
    def __init__(self, names: Sequence[str], stream: TextIO) -> None:
        self._names, self._stream = names, stream
        self._bars: dict[int, Any] = {}

    def start(self, index: int) -> None:
        from tqdm import tqdm

        self._bars[index] = tqdm(
            desc=self._names[index],
            total=1,
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {n:.4g}/{total:.4g} [{elapsed}<{remaining}] {postfix}",
        )

    def update(self, index: int, done: float, total: float, note: str) -> None:
        bar = self._bars[index]
        bar.total, bar.n = total, done
        bar.set_postfix_str(note, refresh=True)

    def finish(self, index: int, outcome: str) -> None:
        bar = self._bars.pop(index)
        bar.close()
        bar.write(f"{self._names[index]}: {outcome}", file=self._stream)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()
