"""Run one measurement in a process of its own: `ask` here, ``main`` there."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from study.errors import StudyError


def ask(function: Callable[..., dict[str, Any]], /, **order: Any) -> dict[str, Any]:
    """Call a function in a new process, one at a time, and return what it returns.

    Args:
        function: On the top level of its module, with plain keyword arguments.
        order: What it is called with, as JSON.

    Raises:
        StudyError: the process failed; with the last line of what it said.
    """
    name = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-m", "study.bench.worker", name, json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StudyError(
            f"{name} ended with exit status {done.returncode} ({last}); "
            "-9 means that the machine ran out of memory: close other programs and try again"
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Call the function that the first argument names; print its answer as JSON."""
    from study.environment import quieten

    quieten()
    module, _, function = sys.argv[1].partition(":")
    answer = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print(json.dumps(answer))  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    main()
