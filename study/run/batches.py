"""Batches planned before training: the same pairs in the same order for every arm.

An arm that continues another goes on where that one's updates end: the pairs of
both stages are those of an arm with one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset

from study.arms import ARMS
from study.config.training import TrainingConfig, own_training
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
        in_step: bool = False,
    ) -> None:
        """Plan an arm's own updates, each divided among ``world`` processes.

        With ``in_step`` all processes have as many parts of an update: the last ones may
        be empty.
        """
        self.pairs = pairs
        self.rejected = ARMS[arm].reads == "pair"
        self.prompt_nll = ARMS[arm].prompt_nll and config.nll_over == "prompt_and_response"
        self.reference = ARMS[arm].reference
        self.mismatched = ARMS[arm].mismatched
        self.world = world
        self.in_step = in_step
        self.device = device
        self.microbatch_tokens = tokens_per_pass(
            config.microbatch_tokens, device=device, value_bytes=value_bytes
        )
        self.updates = plan_updates(
            [pair.n_tokens for pair in pairs],
            config.max_steps,
            config.batch_pairs,
            seed=seed,
            skip=config.max_steps - own_training(config, arm).max_steps,
        )
        self.longest_row = max(
            pair.n_prompt + max(pair.n_chosen, pair.n_rejected) for pair in pairs
        )

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
        return self.parts(self.update(update), share)

    def mismatches(self, update: int) -> list[Encoded]:
        """Give each prompt of an update the answers to the prompt before it.

        Nothing where the arm does not read them. An answer is cut so that its row is
        no longer than that of any pair.
        """
        if not self.mismatched:
            return []
        pairs = self.update(update)
        return [
            mismatch(pair, other, self.longest_row)
            for pair, other in zip(pairs, [pairs[-1], *pairs[:-1]], strict=True)
        ]

    def distinct(self) -> list[list[Encoded]]:
        """Cut all that the updates read into parts, each pair and mismatched pair once."""
        seen, parts = set[str](), []
        for number in range(len(self.updates)):
            for pairs in (self.update(number), self.mismatches(number)):
                new = {pair.example_id: pair for pair in pairs if pair.example_id not in seen}
                parts += split(list(new.values()), self.microbatch_tokens)
                seen |= new.keys()
        return parts

    def parts(self, pairs: Sequence[Encoded], share: int = 0) -> list[list[Encoded]]:
        """Cut one process's share of pairs into parts within the token budget."""
        own = split(pairs[share :: self.world], self.microbatch_tokens)
        if not self.in_step:
            return own
        others = (split(pairs[n :: self.world], self.microbatch_tokens) for n in range(self.world))
        return [*own, *([] for _ in range(max(map(len, others)) - len(own)))]

    def stand_in(self, pairs: Sequence[Encoded], share: int = 0) -> list[Encoded]:
        """Return the shortest pair of a share, which an empty part computes to no effect."""
        return [min(pairs[share :: self.world], key=lambda pair: pair.n_tokens)]

    def counts(self, update: int) -> dict[str, int]:
        """Return what a loss of this update is divided by: its labels and pairs."""
        pairs = self.update(update)
        n_tokens = sum(p.n_chosen + self.prompt_nll * (p.n_prompt - 1) for p in pairs)
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


def mismatch(pair: Encoded, other: Encoded, longest_row: int) -> Encoded:
    """Return a prompt with the answers to another one, cut to so many tokens with it."""
    room = longest_row - pair.n_prompt
    named = replace(pair, example_id=f"{pair.example_id}, answers of {other.example_id}")
    return named.with_ids(pair.prompt_ids, other.chosen_ids[:room], other.rejected_ids[:room])


def plan_updates(
    sizes: Sequence[int], n_updates: int, batch_pairs: int, *, seed: int, skip: int = 0
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
        skip: Leave out so many of the first updates, those of a start.
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
    updates = updates[skip:n_updates]
    largest = max(range(len(updates)), key=lambda n: sum(sizes[i] for i in updates[n]))
    updates[0], updates[largest] = updates[largest], updates[0]
    return updates
