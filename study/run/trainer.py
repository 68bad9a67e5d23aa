"""The training loop: `transformers.Trainer` with a loss handed in."""

import contextlib
import gc
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from study.engine.encoded import Encoded
from study.engine.forward import pair_logps
from study.engine.packing import to_device
from study.errors import ModelError
from study.model.sharding import keep_from_averaging
from study.run.ahead import Ahead, computes_aside
from study.run.batches import PlannedBatches
from study.run.checkpoints import save_adapter, seal_checkpoint
from study.run.reference import Reference, keep_reference
from study.run.watch import Watch, metric_sums

log = logging.getLogger(__name__)


class ArmTrainer(Trainer):
    """`transformers.Trainer` over planned batches, with a loss of log-probabilities."""

    def __init__(
        self,
        *,
        loss: Callable[..., Tensor],
        batches: PlannedBatches,
        reference: Reference,
        watch: "Watch",
        **options: Any,
    ) -> None:
        """Take the loss and what it reads; everything else is the Trainer's."""
        super().__init__(
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[watch],
            **options,
        )
        self.remove_callback(PrinterCallback)
        keep_from_averaging(options["model"])
        self.pair_loss = loss
        self.trained = [p for p in options["model"].parameters() if p.requires_grad]
        self.batches = batches
        self.reference = reference
        self.watch = watch
        self.ahead = Ahead(batches.pack, meanwhile=computes_aside(watch.workbench.device))

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add up the gradients of one update and return its loss.

        Where memory runs out, the update starts again in halves.

        Raises:
            ModelError: memory runs out with a single pair.
        """
        if not model.training:
            model.train()
        self._recall_loss()
        while True:
            try:
                return self._accumulate(model, **inputs)
            except torch.OutOfMemoryError as error:
                memory_error = str(error).partition("\n")[0]
            self._halve(model, memory_error, **inputs)

    def _recall_loss(self) -> None:
        """Give a resumed Trainer back its own sum of losses since the last log."""
        if self.watch.resumed is not None:
            self._tr_loss += math.nan if (loss := self.watch.resumed["loss"]) is None else loss
            self._globalstep_last_logged = self.watch.resumed["logged"]
            self.watch.resumed = None

    def _accumulate(self, model: Any, update: int, share: int) -> Tensor:
        parts = self.batches.microbatches(update, share)
        of_update, n_more = self._of_update(update, share)
        rows = []
        stand_in = self.batches.stand_in(self.batches.update(update), share)
        computed = [own or stand_in for own in parts]
        ahead = [*computed[1:], self._first_of(update + 1, share)]
        for number, (own, part, following) in enumerate(
            zip(parts, computed, ahead, strict=True), 1
        ):
            packed = self.ahead.take(part, following=following)
            batch = to_device(packed, self.watch.workbench.device)
            with (
                self.accelerator.no_sync(model)
                if number < len(parts)
                else contextlib.nullcontext(),
                self.compute_loss_context_manager(),
            ):
                logps = self.reference.beside(pair_logps(model, batch), part)
                loss = self.pair_loss(logps, **of_update)
                loss = loss * self.accelerator.num_processes  # DDP averages gradients
                self.accelerator.backward(loss if own else 0 * loss)
            if own:
                rows.append(metric_sums(loss, logps, batch["n_tokens"] + n_more))
            n_more = 0
        update_row = torch.stack(rows).sum(dim=0)
        self.watch.add(update_row)
        return update_row[0]

    def _first_of(self, update: int, share: int) -> list[Encoded] | None:
        """Return an update's first micro-batch, None behind the last update."""
        there = update < len(self.batches.updates)
        return self.batches.microbatches(update, share)[0] if there else None

    def _of_update(self, update: int, share: int) -> tuple[dict[str, Any], int]:
        """Return what a loss takes of the whole update, and the tokens that it took to know it.

        KTO's z is the mean log-ratio of model to reference over mismatched pairs, or
        0 where that is negative. The authors (ContextualAI/HALOs, ``KTOTrainer`` and
        ``UnpairedPreferenceDataLoader``) take prompt i with the answer of example
        i + 1 of a shuffled micro-batch, chosen and rejected alike, and average over
        all devices; TRL takes the answer of i - 1 and averages over a device's
        micro-batch first. Deviation: ours are prompt i with both answers of pair
        i - 1, over the whole update, so that z does not depend on how it is split.
        """
        counts: dict[str, Any] = self.batches.counts(update)
        mismatches = self.batches.mismatches(update)
        if not mismatches:
            return counts, 0
        total, n_tokens = torch.zeros((), device=self.watch.workbench.device), 0
        with torch.no_grad(), self.watch.workbench.base.precision():
            for own in self.batches.parts(mismatches, share):
                part = own or self.batches.stand_in(mismatches, share)
                batch = to_device(self.batches.pack(part), self.watch.workbench.device)
                logps = self.reference.beside(pair_logps(cast(Any, self.model), batch), part)
                if own:
                    total = total + (logps.chosen_ratio + logps.rejected_ratio).sum()
                    n_tokens += batch["n_tokens"]
        mean = self.accelerator.reduce(total, "sum") / (2 * len(mismatches))
        return {**counts, "z": mean.clamp(min=0)}, n_tokens

    def _halve(self, model: Any, memory_error: str, update: int, share: int) -> None:
        if self.accelerator.num_processes > 1 or not self.batches.halve(update, share):
            size = max(pair.n_tokens for pair in self.batches.update(update))
            raise ModelError(
                f"out of memory in a step on {size} tokens ({memory_error}); set "
                "training.gradient_checkpointing=true, a smaller training.microbatch_tokens or "
                "data.max_length_tokens, or model.quantization=nf4"
            )
        model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "out of memory in step %d: on with at most %d tokens per micro-batch",
            update + 1,
            self.batches.microbatch_tokens,
        )
        self.watch.note_memory(update + 1)

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Clip without a walk over the frozen parameters."""
        norm = self.accelerator.clip_grad_norm_(self.trained, self.args.max_grad_norm)
        return cast(Tensor, norm)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add what the watch has gathered since the last log."""
        if "loss" in logs:
            metrics = self.watch.flush(self.state.global_step, logs, self.accelerator.reduce)
            logs.update({name: value for name, value in metrics.items() if value is not None})
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: counting would walk over all parameters in every step."""
        return 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        loss = float(self.accelerator.reduce(self._tr_loss, "mean"))
        window = self.watch.window(self.accelerator.reduce)
        window["loss"] = loss if math.isfinite(loss) else None
        if self.watch.folder is not None:
            name = f"checkpoint-{self.state.global_step}"
            checkpoint = Path(str(self.args.output_dir)) / name
            keep_reference(checkpoint, self.reference)
            seal_checkpoint(self.watch.folder, checkpoint, window)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_adapter(self.model, Path(output_dir or str(self.args.output_dir)))
