"""Checkpoints: what a killed run goes on from."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

from study.errors import RecordError
from study.records.files import follow_umask, read_json, read_jsonl, write_jsonl
from study.records.layout import STEPS

TRAINER = "trainer"
"""Subfolder of a run for checkpoints and for the files of trackers."""


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter, trained token rows included, as safetensors.

    PEFT writes sets in an order that changes with every process.
    """
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
    model.save_pretrained(folder, save_embedding_layers=False)
    follow_umask(folder)


def resume_from(folder: Path | None, *, tidy: bool) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the last whole checkpoint and the rows logged up to it.

    Trainer writes ``trainer_state.json`` last: a checkpoint without a readable
    one was cut short by a kill and is removed, as are lines logged beyond: by
    the process that is to ``tidy``, which looks first.
    """
    if folder is None:
        return None, []
    last, step = None, -1
    for checkpoint in (folder / TRAINER).glob("checkpoint-*"):
        if not _is_whole(checkpoint):
            if tidy:
                shutil.rmtree(checkpoint)
        elif int(checkpoint.name.rpartition("-")[2]) > step:
            last, step = checkpoint, int(checkpoint.name.rpartition("-")[2])
    rows = [row for row in read_jsonl(folder / STEPS) if row["step"] <= step]
    if tidy:
        write_jsonl(folder / STEPS, rows)
    return str(last) if last else None, rows


def _is_whole(checkpoint: Path) -> bool:
    try:
        return read_json(checkpoint / "trainer_state.json") is not None
    except RecordError:
        return False


def discard_checkpoints(folder: Path) -> None:
    """Remove what a finished run no longer needs; a tracker's files stay."""
    for checkpoint in (folder / TRAINER).glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    with contextlib.suppress(OSError):  # absent, or not empty
        (folder / TRAINER).rmdir()
