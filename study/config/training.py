"""The one training loop's settings, and how two stages share its updates.

An arm that continues another spends a share of its updates on that one, which
is its start, and the rest on its own loss. Each stage has the whole schedule, with
a warm-up of the same share of its updates.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Self

from study.arms import ARMS
from study.errors import require

MAX_THREADS = 1024
"""Above, threads cannot be made, and PyTorch ends the process."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The one training loop that all arms share."""

    max_steps: int
    """Updates of the weights."""
    batch_pairs: int
    """Pairs per update, over all devices and micro-batches."""
    microbatch_tokens: int
    """Distinct tokens in one forward pass at most; 0 takes 2,048 on a CPU (4,096 with
    a dtype of bfloat16) and a whole update at once elsewhere. Changes memory and speed, never
    the gradient (with dropout, the masks that are drawn)."""
    warmup_steps: int
    schedule: Literal["linear", "cosine", "constant_with_warmup", "inverse_sqrt"]
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit"]
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
    """CPU threads of one run; 0 leaves PyTorch's own choice."""
    start_share: float = dataclasses.field(default=0.5, repr=False)
    """Share of its updates that an arm which continues another spends on that one."""

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
        warmup_steps = round(self.warmup_steps * steps / self.max_steps)
        return dataclasses.replace(
            self, max_steps=steps, warmup_steps=warmup_steps, start_share=TrainingConfig.start_share
        )

    def __post_init__(self) -> None:
        """Refuse step counts that cannot be carried out."""
        for field in (
            "max_steps",
            "batch_pairs",
            "log_every_steps",
            "validate_every_steps",
        ):
            value = getattr(self, field)
            require(value > 0, f"training.{field} is {value}; it must be at least 1")
        for field in (
            "microbatch_tokens",
            "warmup_steps",
            "weight_decay",
            "checkpoint_every_steps",
            "threads",
        ):
            value = getattr(self, field)
            require(value >= 0, f"training.{field} is {value}; it must be 0 or more")
        require(
            self.threads <= MAX_THREADS,
            f"training.threads is {self.threads}; it must be {MAX_THREADS} at most",
        )
        require(self.max_grad_norm > 0, "training.max_grad_norm must be positive")
        require(
            self.warmup_steps <= self.max_steps,
            f"training.warmup_steps ({self.warmup_steps}) is beyond training.max_steps "
            f"({self.max_steps}); set both",
        )
        require(
            0 < self.start_share < 1,
            f"training.start_share is {self.start_share}; it must lie between 0 and 1",
        )


def own_training(training: TrainingConfig, arm: str) -> TrainingConfig:
    """Return how an arm itself is trained, from its start on where it has one."""
    return training if ARMS[arm].starts_from is None else training.second_stage()
