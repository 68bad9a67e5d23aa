"""What this study costs beside TRL: steps, memory, evaluation, search, growth; and by itself.

Every part compares two ways on the same data and stands by itself in the JSON
file. `steps` and `evaluation` take turns and check that both ways compute the
same before they tell a time. Each side's steps run in a process of their own, and
so does every single measurement of the other parts but `evaluation`.
"""

import datetime as dt
import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.cli.bench.worker import Say
from study.errors import ConfigError
from study.records.files import read_json, write_json

PARTS = ("steps", "memory", "engine", "evaluation", "search", "growth", "scale", "gpu")
ON_REAL_PAIRS = {"steps", "memory", "evaluation", "gpu"}
"""Each is measured by the module of its name."""


def bench(
    *, data: Path, out: Path, parts: Sequence[str] = PARTS, quick: bool = False, say: Say = print
) -> dict[str, Any]:
    """Measure the parts asked for and merge them into a JSON file, one by one.

    Args:
        data: Folder of the real pairs; generated ones of the same lengths serve
            where it lacks a file.
        out: JSON file; parts that stand there and are not measured are kept.
        parts: Names from `PARTS`.
        quick: Few and short batches: shows that everything runs, not how fast.
        say: Told of each result.

    Raises:
        ConfigError: there is no such part.
        DataError: two ways that should agree compute different things.
        RecordError: the file cannot be read or written.
    """
    for name in parts:
        if name not in PARTS:
            raise ConfigError(f"there is no part {name!r}; parts are {', '.join(PARTS)}")
    report = read_json(out) or {}
    for name in parts:
        say(f"{name}:")
        started = time.monotonic()
        measured = _measure(name, data, quick, lambda line: say(f"  {line}"))
        seconds = round(time.monotonic() - started, 1)
        report[name] = {**_circumstances(quick), "seconds": seconds, **measured}
        write_json(out, report)
        say(f"  took {seconds:.0f} s; written to {out}")
    return report


def _measure(name: str, data: Path, quick: bool, say: Say) -> dict[str, Any]:
    measure = getattr(importlib.import_module(f"study.cli.bench.{name}"), f"measure_{name}")
    given = {"data": data} if name in ON_REAL_PAIRS else {}
    measured: dict[str, Any] = measure(**given, quick=quick, say=say)
    return measured


def _circumstances(quick: bool) -> dict[str, Any]:
    """Say where, when and with what the figures were taken."""
    import os
    import platform

    from study.config.environment import environment

    return {
        **environment("cpu"),
        "processor": _processor(),
        "platform": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2),
        "measured_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "quick": quick,
    }


def _processor() -> str:
    """Name the processor; Linux says it in a file, others through Python."""
    import platform

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
