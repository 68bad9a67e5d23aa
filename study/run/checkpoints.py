"""Checkpoints: what a killed run goes on from."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from study.errors import RecordError
from study.records.files import (
    checksum,
    follow_umask,
    read_json,
    write_bytes,
    write_sealed,
)
from study.records.folders import set_aside
from study.records.layout import STEPS

TRAINER = "trainer"
"""Subfolder of a run for checkpoints and for the files of trackers."""

SEAL = "whole.json"
"""Written last into a checkpoint: it is whole."""

log = logging.getLogger(__name__)

SAVED: list[Callable[[Path], None]] = []
"""Told of each folder that holds something new to go on from, as a worker does that sends it
to another machine."""


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter, trained token rows included, as safetensors.

    PEFT writes sets in an order that changes with every process.
    """
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
    model.save_pretrained(folder, save_embedding_layers=False)
    follow_umask(folder)


def seal_checkpoint(folder: Path, checkpoint: Path, window: Mapping[str, Any]) -> None:
    """Write sizes and checksums of a checkpoint's files, last: now it counts.

    The steps logged up to here belong to it, and the window: what was gathered
    since the last of them and is not logged yet.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    steps = (folder / STEPS).read_bytes() if (folder / STEPS).exists() else b""
    content = {
        "files": {
            path.relative_to(checkpoint).as_posix(): [path.stat().st_size, checksum(path)]
            for path in files
        },
        "steps": [len(steps), hashlib.sha256(steps).hexdigest()],
        "window": dict(window),
    }
    write_sealed(checkpoint / SEAL, content)
    tell_saved(folder)


def tell_saved(folder: Path) -> None:
    """Say that a run or trial could go on from what its folder holds now."""
    for hear in SAVED:
        hear(folder)


def resume_from(
    folder: Path | None, *, tidy: bool, width: int
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the last whole checkpoint and the rows logged up to it.

    A checkpoint that a kill or a full disk cut short was never sealed and is
    removed. One that was damaged since, or that another version wrote, is named and set
    aside, the latter with what was logged by then. All this is for the process that is
    to ``tidy``, which looks first, as are lines logged beyond.

    Args:
        folder: of the run; None has no checkpoint.
        tidy: remove and set aside.
        width: numbers that are kept of an update between two logs.
    """
    if folder is None:
        return None, []
    names = (folder / TRAINER).glob("checkpoint-*")
    found = [path for path in names if path.suffix == ""]  # not one set aside
    steps = (folder / STEPS).read_bytes() if (folder / STEPS).exists() else b""
    last, logged = None, 0
    for checkpoint in sorted(found, key=_step_of, reverse=True):
        if not (checkpoint / SEAL).exists():
            if tidy:
                shutil.rmtree(checkpoint)
            continue
        faults, why = checkpoint_faults(checkpoint, steps), "damaged"
        if not faults and (faults := _of_another_version(checkpoint, width)):
            why = "other-version"
        if not faults:
            last, logged = checkpoint, read_seal(checkpoint)["steps"][0]
            break
        if tidy:
            kept = set_aside(checkpoint, why)
            if why == "other-version":
                write_bytes(kept / STEPS, steps)
            log.warning(
                "%s; it is kept as %s, and the run goes on from an earlier one or begins again",
                faults[0],
                kept.name,
            )
    steps = steps[:logged]
    if tidy:
        write_bytes(folder / STEPS, steps)
    return str(last) if last else None, [json.loads(line) for line in steps.splitlines()]


def checkpoint_faults(checkpoint: Path, steps: bytes) -> list[str]:
    """Say what of a sealed checkpoint is damaged, the steps logged up to it among it."""
    try:
        sealed = read_seal(checkpoint)
        found = [
            f"{checkpoint / name} is damaged"
            for name, (size, expected) in sealed["files"].items()
            if not (checkpoint / name).is_file()
            or (checkpoint / name).stat().st_size != size
            or checksum(checkpoint / name) != expected
        ]
    except RecordError as error:
        return [str(error)]
    size, expected = sealed["steps"]
    if hashlib.sha256(steps[:size]).hexdigest() != expected:
        found.append(f"{checkpoint.parents[1] / STEPS} was changed before {checkpoint.name}")
    return found


def _of_another_version(checkpoint: Path, width: int) -> list[str]:
    """Say that a whole checkpoint is none that this version of the study can go on from."""
    rows = (read_seal(checkpoint).get("window") or {}).get("rows", [])
    found = sorted({len(row) for row in rows} - {width})
    return [
        f"{checkpoint} was written by another version of study, which kept {n} numbers of an "
        f"update where this one keeps {width}; that version can go on from it"
        for n in found
    ]


def read_seal(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint held when it was whole."""
    return read_json(checkpoint / SEAL) or {}


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def discard_checkpoints(folder: Path) -> None:
    """Remove what a finished run no longer needs; a tracker's files stay."""
    for checkpoint in (folder / TRAINER).glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    with contextlib.suppress(OSError):  # absent, or not empty
        (folder / TRAINER).rmdir()
