"""Batches planned before training: the same pairs in the same order for every arm."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from study.arms import ARMS
from study.config.recipe import TrainingConfig
from study.engine.encoded import Encoded
from study.engine.packing import pack, pin, split, tokens_per_pass

WINDOW_UPDATES = 16
"""Pairs of so many updates are grouped by length together."""


class PlannedBatches(Dataset[dict[str, int]]):
    """The updates of a run, planned from the seed, and their micro-batches.

    As a data set it holds one entry per update and process: which share of
    which update. The pairs themselves are packed when their turn comes.
    """

    def __init__(
        self,
        pairs: Sequence[Encoded],
        config: TrainingConfig,
        *,
        arm: str,
        seed: int,
        device: str,
        value_bytes: int,
        world: int = 1,
    ) -> None:
        """Plan ``max_steps`` updates, each divided among ``world`` processes."""
        self.pairs = pairs
        self.rejected = ARMS[arm].reads == "pair"
        self.prompt_nll = ARMS[arm].prompt_nll and config.nll_over == "prompt_and_response"
        self.world = world
        self.device = device
        self.microbatch_tokens = tokens_per_pass(
            config.microbatch_tokens, device=device, value_bytes=value_bytes
        )
        sizes = [pair.n_tokens for pair in pairs]
        self.updates = plan_updates(sizes, config.max_steps, config.batch_pairs, seed=seed)

    def __len__(self) -> int:
        """Return the number of shares of updates."""
        return len(self.updates) * self.world

    def __getitem__(self, number: int) -> dict[str, int]:
        """Name an update and one process's share of it."""
        update, share = divmod(number, self.world)
        return {"update": update, "share": share}

    def update(self, number: int) -> list[Encoded]:
        """Return the pairs of one update, the longest first."""
        return [self.pairs[index] for index in self.updates[number]]

    def microbatches(self, update: int, share: int = 0) -> list[list[Encoded]]:
        """Cut a share of an update so that no part exceeds the token budget."""
        return split(self.update(update)[share :: self.world], self.microbatch_tokens)

    def counts(self, update: int) -> dict[str, int]:
        """Return what a loss of this update is divided by: its labels and pairs."""
        pairs = self.update(update)
        n_tokens = sum(len(p.chosen_ids) + self.prompt_nll * (len(p.prompt_ids) - 1) for p in pairs)
        return {"n_tokens": n_tokens, "n_pairs": len(pairs)}

    def pack(self, pairs: Sequence[Encoded]) -> dict[str, Any]:
        """Lay out one micro-batch as the arm's loss needs it, ready for the device."""
        batch = pack(pairs, rejected=self.rejected, prompt_nll=self.prompt_nll)
        return pin(batch, device=self.device)

    def halve(self, update: int, share: int = 0) -> bool:
        """Halve the token budget; False where each pair stands alone already."""
        parts = self.microbatches(update, share)
        if all(len(part) == 1 for part in parts):
            return False
        self.microbatch_tokens = max(sum(p.n_tokens for p in part) for part in parts) // 2
        return True


def plan_updates(
    sizes: Sequence[int], n_updates: int, batch_pairs: int, *, seed: int
) -> list[list[int]]:
    """Choose the pairs of each update, of similar length, in an order of chance.

    Whole shuffled passes over the data are cut into windows of
    `WINDOW_UPDATES`; within a window the pairs are sorted by length and cut
    into updates, which are shuffled. The largest update is then moved to the
    front, so that a run that lacks memory fails at once.

    Args:
        sizes: Tokens of each pair.
        n_updates: Updates to plan.
        batch_pairs: Pairs per update.
        seed: Decides the plan, whatever the arm.
    """
    generator = torch.Generator().manual_seed(seed)

    def shuffled(n: int) -> list[int]:
        order: list[int] = torch.randperm(n, generator=generator).tolist()
        return order

    updates: list[list[int]] = []
    left: list[int] = []
    window = WINDOW_UPDATES * batch_pairs
    while len(updates) < n_updates:
        left += shuffled(len(sizes))
        n_whole = len(left) - len(left) % batch_pairs
        for start in range(0, n_whole, window):
            block = sorted(
                left[start : min(start + window, n_whole)], key=sizes.__getitem__, reverse=True
            )
            grouped = [block[i : i + batch_pairs] for i in range(0, len(block), batch_pairs)]
            updates += [grouped[i] for i in shuffled(len(grouped))]
        left = left[n_whole:]
    del updates[n_updates:]
    largest = max(range(n_updates), key=lambda n: sum(sizes[i] for i in updates[n]))
    updates[0], updates[largest] = updates[largest], updates[0]
    return updates
