"""How long an arm trains: the recipe's updates, or the dearest arm's tokens."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from study.arms import ARMS, costly_arms
from study.config.recipe import Recipe
from study.config.training import TrainingConfig
from study.engine.encoded import Encoded
from study.model.workbench import Workbench
from study.run.batches import PlannedBatches


class Tokens(NamedTuple):
    """The distinct tokens that an arm computes."""

    start: int
    """Of the run that it continues."""
    own: int
    """Of its own updates, and of the mismatched pairs that they read."""
    reference: int
    """Of the pass for its reference: each pair once, and each mismatched pair."""


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
        The training configuration, of both stages where there are two; for an arm
        matched in tokens also ``tokens_of``, the arm it is matched to, its ``tokens``
        and the ``steps``.
    """
    recipe, training = workbench.recipe, workbench.recipe.training
    if ARMS[arm].budget == "updates":
        return training, None
    pairs = workbench.train
    planned = {
        name: planned_tokens(pairs, training, arm=name, seed=seed)
        for name in costly_arms(recipe.arms)
    }
    dearest, wanted = max(planned.items(), key=lambda item: item[1])
    most = training.batch_pairs * max(_distinct(pair, arm) for pair in pairs)
    while (found := planned_tokens(pairs, training, arm=arm, seed=seed)) < wanted:
        more = math.ceil((wanted - found) / most)  # never too many
        training = dataclasses.replace(training, max_steps=training.max_steps + more)
    return training, {"tokens_of": dearest, "tokens": wanted, "steps": training.max_steps}


def most_tokens(recipe: Recipe, *, arm: str) -> int:
    """Bound the distinct tokens of a run by the recipe alone, before its pairs are read.

    The bound is for pairs whose answers have full length behind a prompt of one token.
    """
    training, answer = recipe.training, (0,) * (recipe.data.max_length_tokens - 1)
    n_pairs = recipe.data.train_pairs or training.max_steps * training.batch_pairs
    pairs = [Encoded.of(str(n), (0,), answer, answer) for n in range(n_pairs)]
    matched = ARMS[arm].budget == "tokens"
    return max(
        planned_tokens(pairs, training, arm=name, seed=0)
        for name in (costly_arms(recipe.arms) if matched else [arm])
    )


def planned_tokens(
    pairs: Sequence[Encoded], training: TrainingConfig, *, arm: str, seed: int
) -> int:
    """Count the distinct tokens that an arm computes: those of its start among them."""
    return sum(token_parts(pairs, training, arm=arm, seed=seed))


def token_parts(
    pairs: Sequence[Encoded], training: TrainingConfig, *, arm: str, seed: int
) -> Tokens:
    """Count the distinct tokens of each part of a run, see `Tokens`."""
    kind = ARMS[arm]
    plan = PlannedBatches(pairs, training, arm=arm, seed=seed, device="cpu", value_bytes=4)
    read = [
        pair
        for number in range(len(plan.updates))
        for pair in (*plan.update(number), *plan.mismatches(number))
    ]
    referred = plan.distinct() if kind.reference else []
    start = kind.starts_from
    return Tokens(
        start=0
        if start is None
        else planned_tokens(pairs, training.first_stage(), arm=start, seed=seed),
        own=sum(_distinct(pair, arm) for pair in read),
        reference=sum(pair.n_tokens for part in referred for pair in part),
    )


def _distinct(pair: Encoded, arm: str) -> int:
    both = ARMS[arm].reads == "pair"
    return pair.n_tokens - (0 if both else pair.n_rejected)
