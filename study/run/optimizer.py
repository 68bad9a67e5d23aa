"""What transformers is told of an optimiser."""

from typing import Any

import torch

from study.config.training import GALORE, TrainingConfig

ADAPTER_MATRICES = r".*\.lora_[AB]\.\w+"
"""Names of the layers whose gradients GaLore projects: all else is frozen, or no matrix of a
linear layer."""


def optimizer_options(training: TrainingConfig) -> dict[str, Any]:
    """Return the fields of ``TrainingArguments`` that name an optimiser.

    GaLore projects gradients of weights (arXiv 2403.03507). Deviation: what is trained here
    is an adapter, so that it projects the gradients of the adapter's two matrices a layer.
    """
    options: dict[str, Any] = {"optim": training.optimizer, "weight_decay": training.weight_decay}
    if not training.optimizer.startswith(GALORE):
        return options
    _let_projectors_be_loaded()
    settings = {
        "rank": training.galore_rank,
        "update_proj_gap": training.galore_gap_steps,
        "scale": training.galore_scale,
    }
    return options | {
        "optim_target_modules": ADAPTER_MATRICES,
        "optim_args": ",".join(f"{name}={value}" for name, value in settings.items()),
    }


def _let_projectors_be_loaded() -> None:
    """Name GaLore's own class among those that a checkpoint may hold, to be resumed from."""
    from galore_torch.galore_projector import GaLoreProjector

    torch.serialization.add_safe_globals([GaLoreProjector])
