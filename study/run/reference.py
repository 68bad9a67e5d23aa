"""Log-probabilities under a run's start, each computed once, before training.

The start is what the run continues, not the raw base: disabling the adapter would
give that. Pairs are packed as the first pass over them will be, so that an arm's
first loss is that of a model equal to its reference.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from study.config.canonical import digest
from study.engine.encoded import Encoded
from study.engine.forward import pair_logps
from study.engine.packing import to_device
from study.losses import PairLogps
from study.model.workbench import Workbench
from study.records.files import read_json, write_json
from study.records.processes import gather
from study.records.schema import Cost
from study.run.batches import PlannedBatches
from study.run.planned import Start

REFERENCE = "reference.json"
"""In a checkpoint: a resumed run computes nothing again."""

KEPT = 4
"""References that a workbench keeps; the trials of a search share one."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a run's loss reads of its start."""

    sums: Mapping[str, Sequence[float]]
    """Pair -> log-probability of its chosen and its rejected answer, over all tokens."""
    cost: Cost
    """``reference_tokens``, distinct ones, and ``reference_s``; nothing where none are read."""

    def beside(self, logps: PairLogps, pairs: Sequence[Encoded]) -> PairLogps:
        """Put the start's log-probabilities beside the model's; nothing where none are read."""
        if not self.sums:
            return logps
        found = logps.chosen_sum.new_tensor([self.sums[pair.example_id] for pair in pairs])
        chosen, rejected = found.unbind(dim=1)
        return logps._replace(chosen_reference_sum=chosen, rejected_reference_sum=rejected)


def find_reference(
    workbench: Workbench, batches: PlannedBatches, *, start: Start | None, share: int = 0
) -> Reference:
    """Score all pairs that a run will train on with the adapter that the base has now.

    Args:
        workbench: base model with the start's adapter.
        batches: the run's updates; without a loss that reads a reference nothing is scored.
        start: where the adapter is from: its pairs are scored once, also for several runs.
        share: of the work, this process's; all processes get what each has found.
    """
    if not batches.reference or start is None:
        return Reference(sums={}, cost={})
    key = digest([start.record["files"], batches.updates, batches.mismatched])
    known: dict[str, Reference] = workbench.references
    if key not in known:
        known[key] = _scored(workbench, batches, share)
        for old in list(known)[:-KEPT]:
            del known[old]
    return known[key]


def keep_reference(checkpoint: Path, reference: Reference) -> None:
    """Write a reference into a checkpoint that is not sealed yet."""
    if reference.sums:
        write_json(checkpoint / REFERENCE, asdict(reference))


def recall_reference(checkpoint: str | None) -> Reference | None:
    """Return the reference of a checkpoint, if it has one."""
    found = None if checkpoint is None else read_json(Path(checkpoint) / REFERENCE)
    return None if found is None else Reference(**found)


def _scored(workbench: Workbench, batches: PlannedBatches, share: int) -> Reference:
    began, mine = time.perf_counter(), dict[str, list[float]]()
    parts = batches.distinct()
    own = parts[share :: batches.world]
    if batches.in_step and share >= len(parts) % batches.world > 0:
        own = [*own, parts[0]]  # once more, because the others gather weights once more
    for pairs in own:
        mine.update(_sums(workbench, batches, pairs))
    return Reference(
        sums={name: sums for found in gather(mine) for name, sums in found.items()},
        cost={
            "reference_tokens": sum(pair.n_tokens for pairs in parts for pair in pairs),
            "reference_s": round(time.perf_counter() - began, 3),
        },
    )


def _sums(
    workbench: Workbench, batches: PlannedBatches, pairs: Sequence[Encoded]
) -> dict[str, list[float]]:
    """Score pairs in one pass, or in halves where memory runs out."""
    try:
        with workbench.base.without_gradients(), workbench.base.precision():
            batch = to_device(batches.pack(pairs), workbench.device)
            logps = pair_logps(workbench.base.model.eval(), batch)
            assert logps.rejected_sum is not None
            sums = torch.stack([logps.chosen_sum, logps.rejected_sum], dim=1).tolist()
        return dict(zip([pair.example_id for pair in pairs], sums, strict=True))
    except torch.OutOfMemoryError:
        if len(pairs) == 1 or workbench.base.is_shared:
            raise  # training would not fit either
    half = len(pairs) // 2
    return _sums(workbench, batches, pairs[:half]) | _sums(workbench, batches, pairs[half:])
