"""Run measurements in a process of their own: `ask` and `process` here, ``main`` there."""

import contextlib
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from study.errors import StudyError

Say = Callable[[str], None]
"""Told of each result as it is known."""

Ask = Callable[..., dict[str, Any]]
"""``ask(function, **order)``: call a function elsewhere and return what it returns.

The function stands on the top level of its module and takes plain keyword
arguments, which travel as JSON, as does its answer. A `StudyError` says that the
process failed, with the last line of what it said.
"""


def ask(function: Callable[..., dict[str, Any]], /, **order: Any) -> dict[str, Any]:
    """Call a function in a new process; see `Ask`."""
    with process() as ask_it:
        return ask_it(function, **order)


@contextlib.contextmanager
def process() -> Iterator[Ask]:
    """Start a process that calls functions, one at a time, until the block ends.

    Ctrl-C is this process's matter; where this one is killed, that one ends after
    the call that it is in.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            [sys.executable, "-m", "study.cli.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as child,
    ):
        try:
            yield functools.partial(_ask, child, said)
        except BaseException:
            child.kill()
            raise


def _ask(
    child: subprocess.Popen[str],
    said: IO[str],
    function: Callable[..., dict[str, Any]],
    /,
    **order: Any,
) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    name = f"{function.__module__}:{function.__name__}"
    request = json.dumps([name, order])
    try:
        print(request, file=child.stdin, flush=True)
    except (BrokenPipeError, ValueError):  # it is dead, perhaps since an earlier call
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()  # or Popen would write the rest at the end, and fail
    line = child.stdout.readline()
    if not line.endswith("\n"):
        status = child.wait()
        said.seek(0)
        last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
        raise StudyError(
            f"{name} ended with exit status {status} ({last}); "
            "-9 means that the machine ran out of memory: close other programs and try again"
        )
    answer: dict[str, Any] = json.loads(line)
    return answer


def main() -> None:
    """Call the functions that lines of the input name; print answers as lines of JSON."""
    from study.config.environment import quieten

    quieten()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        sys.stdout = sys.stderr
        for line in sys.stdin:
            name, order = json.loads(line)
            module, _, function = name.partition(":")
            answer = getattr(importlib.import_module(module), function)(**order)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
