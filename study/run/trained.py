"""A finished training that is not scored yet: kept, so that the next start only scores it."""

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from study.errors import RecordError
from study.model.adapter import fresh_adapter
from study.model.workbench import Workbench
from study.records.files import checksum, read_json, write_sealed
from study.records.layout import ADAPTER, STEPS
from study.records.processes import agree, is_main
from study.run.checkpoints import tell_saved
from study.run.watch import Outcome

TRAINED = ".trained.json"
"""In a run's folder between the end of its training and its record."""


def keep_trained(folder: Path, outcome: Outcome) -> None:
    """Note how a training ended, with checksums of what it left behind."""
    write_sealed(folder / TRAINED, {"outcome": asdict(outcome), "files": _checksums(folder)})
    tell_saved(folder)


def recall_trained(workbench: Workbench, folder: Path, *, seed: int) -> Outcome | None:
    """Put a kept training's adapter back on the base; None where there is none, or not whole."""
    note = agree(_note(folder) if is_main() else None)
    if note is None:
        return None
    load_adapter(workbench, folder, seed=seed)
    return Outcome(**note["outcome"])


def load_adapter(workbench: Workbench, folder: Path, *, seed: int, scale: float = 1.0) -> nn.Module:
    """Put the adapter that a run left in its folder on the base, in the place of any other.

    ``scale`` multiplies the second matrix of each pair, for an adapter that was trained
    with another scaling. Rows of tokens that it has not stay as they start.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    model = fresh_adapter(workbench.base, workbench.recipe.adapter, seed=seed)
    saved = load_peft_weights(str(folder / ADAPTER), device=str(workbench.device))
    weights = {
        name: scale * saved[name] if "lora_B" in name else saved.get(name, fresh)
        for name, fresh in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    set_peft_model_state_dict(model, weights)
    return model


def forget_trained(folder: Path) -> None:
    """Remove the note once the run is scored."""
    (folder / TRAINED).unlink(missing_ok=True)


def _note(folder: Path) -> dict[str, Any] | None:
    with contextlib.suppress(RecordError, OSError):
        note = read_json(folder / TRAINED)
        if note is not None and note["files"] == _checksums(folder):
            return note
    return None


def _checksums(folder: Path) -> dict[str, str]:
    paths = [*folder.glob(STEPS), *sorted((folder / ADAPTER).glob("*"))]
    return {path.relative_to(folder).as_posix(): checksum(path) for path in paths}
