"""The one training loop's settings, and how two stages share its updates.

An arm that continues another spends a share of its updates on that one, which
is its start, and the rest on its own loss. Each stage has the whole schedule, with
a warm-up of the same share of its updates.

A recipe says either how many updates a run has or how many epochs; epochs are worked
out to updates when the recipe is built, since all else counts updates.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, Self

from study.arms import ARMS
from study.errors import require

GALORE = "galore"
"""What the names of GaLore's optimisers begin with."""

MAX_THREADS = 1024
"""Above, threads cannot be made, and PyTorch ends the process."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The one training loop that all arms share."""

    max_steps: int
    """Updates of the weights; a recipe that says ``epochs`` leaves it out."""
    batch_pairs: int
    """Pairs per update, over all devices and micro-batches."""
    microbatch_tokens: int
    """Distinct tokens in one forward pass at most; 0 takes 2,048 on a CPU (4,096 with
    a dtype of bfloat16) and a whole update at once elsewhere. Changes memory and speed, never
    the gradient (with dropout, the masks that are drawn)."""
    warmup_steps: int
    schedule: Literal["linear", "cosine", "constant_with_warmup", "inverse_sqrt"]
    optimizer: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "paged_adamw_8bit",
        "galore_adamw",
        "galore_adamw_8bit",
    ]
    """A name of transformers'. ``paged_adamw_8bit`` is bitsandbytes'; on a CPU its states
    are 8-bit too, but not paged, which decides where they lie and not what is computed. The
    names that begin with ``galore`` need galore-torch, the one of 8 bits CUDA as well."""
    weight_decay: float
    max_grad_norm: float
    """Gradients are clipped to this Euclidean norm."""
    nll_over: Literal["prompt_and_response", "response"]
    """Tokens that the NLL covers, in every arm alike but CPO, whose NLL is of the response."""
    gradient_checkpointing: bool
    log_every_steps: int
    validate_every_steps: int
    """Steps between scorings of validation pairs (curves and pruning)."""
    checkpoint_every_steps: int
    """Steps between checkpoints to resume from; 0 writes none."""
    threads: int
    """CPU threads of one run; 0 leaves PyTorch's own choice, or shares the cores among workers."""
    sharding: Literal["none", "fsdp"] = "none"
    """``fsdp`` shares the base's blocks out over the processes of a launch, for a model that one
    device does not hold; changes memory and speed, never the gradient beyond rounding."""
    gpus: float = dataclasses.field(default=1.0, repr=False)
    """GPUs that a run takes on a cluster; 0.5 lets two runs share one, on a CPU it takes none."""
    start_share: float = dataclasses.field(default=0.5, repr=False)
    """Share of its updates that an arm which continues another spends on that one."""
    epochs: float = 0.0
    """Passes over ``data.train_pairs``, in place of ``max_steps``; 0 where that is given."""
    galore_rank: int = 128
    """GaLore's: gradients of the adapter's matrices are projected to this rank; like the two
    below, its default is transformers' own."""
    galore_gap_steps: int = 200
    """GaLore's: updates between two projections worked out afresh."""
    galore_scale: float = 0.25
    """GaLore's: factor of the update that is projected back."""

    @property
    def start_steps(self) -> int:
        """Return the updates of a start."""
        return round(self.start_share * self.max_steps)

    def first_stage(self) -> Self:
        """Return how a start is trained; it does not depend on what continues it."""
        return self._stage(self.start_steps)

    def second_stage(self) -> Self:
        """Return how an arm that continues a start is trained from there."""
        return self._stage(self.max_steps - self.start_steps)

    def _stage(self, steps: int) -> Self:
        return dataclasses.replace(
            self,
            max_steps=steps,
            epochs=0.0,
            warmup_steps=round(self.warmup_steps * steps / self.max_steps),
            start_share=TrainingConfig.start_share,
        )

    def in_updates(self, train_pairs: int) -> Self:
        """Return the same with its epochs worked out to updates, the last of them whole.

        Raises:
            ConfigError: the number of pairs is not known, or updates that do not
                follow from it are given beside the epochs.
        """
        if not self.epochs:
            return self
        require(
            train_pairs > 0,
            f"training.epochs is {self.epochs:g}, and data.train_pairs 0, all that there are; give "
            "their number, from which updates are worked out, or training.max_steps",
        )
        steps = math.ceil(self.epochs * train_pairs / self.batch_pairs)
        require(
            self.max_steps in (0, steps),
            f"training.max_steps is {self.max_steps}, and training.epochs {self.epochs:g}, which "
            f"are {steps} updates of {self.batch_pairs} of {train_pairs} pairs; give one of them",
        )
        return dataclasses.replace(self, max_steps=steps)

    def __post_init__(self) -> None:
        """Refuse step counts that cannot be carried out."""
        for field in (
            *(() if self.epochs > 0 and self.max_steps == 0 else ("max_steps",)),
            "batch_pairs",
            "log_every_steps",
            "validate_every_steps",
            "galore_rank",
            "galore_gap_steps",
        ):
            value = getattr(self, field)
            require(value > 0, f"training.{field} is {value}; it must be at least 1")
        for field in (
            "microbatch_tokens",
            "warmup_steps",
            "weight_decay",
            "checkpoint_every_steps",
            "threads",
            "epochs",
        ):
            value = getattr(self, field)
            require(value >= 0, f"training.{field} is {value}; it must be 0 or more")
        require(
            self.threads <= MAX_THREADS,
            f"training.threads is {self.threads}; it must be {MAX_THREADS} at most",
        )
        require(
            0 < self.gpus <= 1,
            f"training.gpus is {self.gpus:g}; it must be above 0, and 1 at most",
        )
        require(self.max_grad_norm > 0, "training.max_grad_norm must be positive")
        require(self.galore_scale > 0, "training.galore_scale must be positive")
        require(
            self.warmup_steps <= self.max_steps or self.max_steps == 0,
            f"training.warmup_steps ({self.warmup_steps}) is beyond training.max_steps "
            f"({self.max_steps}); set both",
        )
        require(
            0 < self.start_share < 1,
            f"training.start_share is {self.start_share}; it must lie between 0 and 1",
        )
        require(
            self.weight_decay == 0 or not self.optimizer.startswith(GALORE),
            f"training.weight_decay is {self.weight_decay}, which transformers does not hand to "
            f"{self.optimizer}; set it to 0",
        )


def own_training(training: TrainingConfig, arm: str) -> TrainingConfig:
    """Return how an arm itself is trained, from its start on where it has one."""
    return training if ARMS[arm].starts_from is None else training.second_stage()
