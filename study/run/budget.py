"""How long an arm trains: the recipe's updates, or the dearest arm's tokens."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from study.arms import ARMS, dearest_arm
from study.config.recipe import TrainingConfig
from study.engine.encoded import Encoded
from study.model.workbench import Workbench
from study.run.batches import plan_updates


def budget_of(
    workbench: Workbench, *, arm: str, seed: int
) -> tuple[TrainingConfig, dict[str, Any] | None]:
    """Return how an arm trains, and what its number of updates was worked out from.

    An arm matched in tokens gets the least number of updates that computes as
    many distinct tokens as the dearest arm with the same seed does. Both plans
    are known before training, so the budget needs no finished run.

    Args:
        workbench: training pairs, and the recipe, whose arms decide which is the dearest.
        arm: the arm to be trained.
        seed: decides the order of pairs.

    Returns:
        The training configuration; for an arm matched in tokens also
        ``tokens_of``, the arm it is matched to, its ``tokens`` and the ``steps``.
    """
    recipe, training = workbench.recipe, workbench.recipe.training
    if ARMS[arm].budget == "updates":
        return training, None
    pairs = workbench.train
    dearest = dearest_arm(recipe.arms)
    wanted = planned_tokens(pairs, training, arm=dearest, seed=seed)
    most = training.batch_pairs * max(_distinct(pair, arm) for pair in pairs)
    while (found := planned_tokens(pairs, training, arm=arm, seed=seed)) < wanted:
        more = math.ceil((wanted - found) / most)  # never too many
        training = dataclasses.replace(training, max_steps=training.max_steps + more)
    return training, {"tokens_of": dearest, "tokens": wanted, "steps": training.max_steps}


def planned_tokens(
    pairs: Sequence[Encoded], training: TrainingConfig, *, arm: str, seed: int
) -> int:
    """Count the distinct tokens that an arm computes in all its updates."""
    sizes = [pair.n_tokens for pair in pairs]
    updates = plan_updates(sizes, training.max_steps, training.batch_pairs, seed=seed)
    return sum(_distinct(pairs[index], arm) for update in updates for index in update)


def _distinct(pair: Encoded, arm: str) -> int:
    both = ARMS[arm].reads == "pair"
    return pair.n_tokens - (0 if both else len(pair.rejected_ids))
