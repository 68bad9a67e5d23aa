"""One training loop for every arm.

The loop is `transformers.Trainer`'s; what differs between two arms is the one
line that looks up the loss. Batches are planned before training: the same
pairs in the same order for every arm with the same seed.
"""

import contextlib
import functools
import gc
import logging
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from study.config import Settings, TrainingConfig
from study.engine import pack, pair_logps, split, tokens_per_pass
from study.environment import trackers
from study.errors import ModelError, RecordError
from study.evaluate import score_validation, to_device
from study.losses import LOSSES, NEEDS_REJECTED, PairLogps, log_odds, odds_ratio_loss
from study.model import fresh_adapter
from study.records import ADAPTER, STEPS, append_jsonl, read_json, read_jsonl, write_jsonl
from study.tokens import Encoded
from study.workbench import Workbench

log = logging.getLogger(__name__)

TRAINER = "trainer"
"""Subfolder of a run for checkpoints and for the files of trackers."""
WINDOW_UPDATES = 16
"""Pairs of so many updates are grouped by length together."""
DIVERGED_FACTOR = 2.0
"""A validation NLL above this many times its initial value counts as diverged."""

OnValidation = Callable[[int, Mapping[str, float]], bool]
"""Called with (step, held-out scores); True stops the run."""


@dataclass
class Outcome:
    """How one training ended."""

    status: Literal["ok", "diverged", "stopped"] = "ok"
    validation: dict[str, float] = field(default_factory=dict)
    """The last held-out scores."""
    divergence: dict[str, Any] | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    out_of_memory: list[dict[str, int]] = field(default_factory=list)
    """Steps in which memory ran out, and the token budget that they went on with."""


def train_run(
    workbench: Workbench,
    *,
    arm: str,
    settings: Settings,
    seed: int,
    folder: Path | None,
    on_validation: OnValidation | None = None,
) -> Outcome:
    """Train a fresh adapter with one arm's loss; leave it on the base model.

    Args:
        workbench: Base model and encoded splits.
        arm: A key of `study.losses.LOSSES`.
        settings: The arm's hyperparameters, ``learning_rate`` among them.
        seed: Decides the adapter's start, the order of pairs and dropout.
        folder: Where logged steps, checkpoints and the adapter go; a checkpoint
            found there is resumed from. None keeps nothing; a hidden folder is
            for resuming alone, no tracker hears of it.
        on_validation: Told of every scoring of held-out pairs.
    """
    recipe = workbench.recipe
    model = fresh_adapter(workbench.base, recipe.adapter, seed=seed)
    workbench.initial_validation()  # while the adapter still changes nothing
    hyperparameters = {name: v for name, v in settings.items() if name != "learning_rate"}
    with tempfile.TemporaryDirectory() as nowhere:
        args = _arguments(
            workbench,
            learning_rate=settings["learning_rate"],
            seed=seed,
            folder=folder,
            nowhere=nowhere,
        )
        is_main = args.process_index == 0
        with args.main_process_first():
            checkpoint, logged = _resume_from(folder, tidy=is_main)
        earlier = [row for row in logged if row["split"] == "train"]
        batches = PlannedBatches(
            workbench.train,
            recipe.training,
            arm=arm,
            seed=seed,
            world=args.world_size,
            device=workbench.device.type,
            value_bytes=workbench.base.dtype.itemsize,
        )
        watch = Watch(workbench, batches, folder if is_main else None, on_validation)
        watch.recall_memory(logged)
        trainer = ArmTrainer(
            loss=functools.partial(LOSSES[arm], **hyperparameters),
            batches=batches,
            watch=watch,
            model=model,
            args=args,
        )
        reset_peak_memory(workbench.device)
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started - watch.validation_s
    outcome = watch.outcome
    outcome.parameters = workbench.base.n_parameters()
    outcome.cost = {
        "train_s": round(seconds + sum(row["seconds"] for row in earlier), 3),
        "steps": trainer.state.global_step,
        "train_tokens": watch.tokens + sum(row["tokens"] for row in earlier),
        "peak_memory_bytes": peak_memory_bytes(workbench.device),
    }
    if folder is not None and is_main and outcome.status == "ok":
        save_adapter(model, folder / ADAPTER)
    return outcome


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
        self.rejected = arm in NEEDS_REJECTED
        self.prompt_nll = config.nll_over == "prompt_and_response"
        self.world = world
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
        """Lay out one micro-batch as the arm's loss needs it."""
        return pack(pairs, rejected=self.rejected, prompt_nll=self.prompt_nll)

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


class ArmTrainer(Trainer):
    """`transformers.Trainer` over planned batches, with a loss of log-probabilities."""

    def __init__(
        self,
        *,
        loss: Callable[..., Tensor],
        batches: PlannedBatches,
        watch: "Watch",
        **options: Any,
    ) -> None:
        """Take the loss as a function; everything else is the Trainer's."""
        super().__init__(
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[watch],
            **options,
        )
        self.remove_callback(PrinterCallback)
        self.pair_loss = loss
        self.trained = [p for p in options["model"].parameters() if p.requires_grad]
        self.batches = batches
        self.watch = watch

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
        while True:
            try:
                return self._accumulate(model, **inputs)
            except torch.OutOfMemoryError as error:
                memory_error = str(error).partition("\n")[0]
            self._halve(model, memory_error, **inputs)

    def _accumulate(self, model: Any, update: int, share: int) -> Tensor:
        parts = self.batches.microbatches(update, share)
        rows = []
        for part in parts:
            batch = to_device(self.batches.pack(part), self.watch.workbench.device)
            whole = part is parts[-1]
            with (
                contextlib.nullcontext() if whole else self.accelerator.no_sync(model),
                self.compute_loss_context_manager(),
            ):
                logps = pair_logps(model, batch)
                loss = self.pair_loss(logps, **self.batches.counts(update))
                loss = loss * self.accelerator.num_processes  # DDP averages gradients
                self.accelerator.backward(loss)
            rows.append(_sums(loss, logps, batch["n_tokens"]))
        update_row = torch.stack(rows).sum(dim=0)
        self.watch.add(update_row)
        return update_row[0]

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

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_adapter(self.model, Path(output_dir or str(self.args.output_dir)))


class Watch(TrainerCallback):
    """Gathers metrics without waiting for the device, scores held-out pairs, stops."""

    def __init__(
        self,
        workbench: Workbench,
        batches: PlannedBatches,
        folder: Path | None,
        on_validation: OnValidation | None,
    ) -> None:
        """Watch one run; ``folder`` gets one line per logged step."""
        self.workbench = workbench
        self.batches = batches
        self.folder = folder
        self.on_validation = on_validation
        self.outcome = Outcome()
        self.tokens = 0
        """Tokens computed up to the last log."""
        self.validation_s = 0.0
        self._rows: list[Tensor] = []
        self._logged = 0
        self._since = time.perf_counter()

    def add(self, row: Tensor) -> None:
        """Keep one update's sums as a tensor, where it is."""
        self._rows.append(row)

    def flush(
        self, step: int, logs: Mapping[str, float], add_up: Callable[[Tensor], Tensor]
    ) -> dict[str, float | None]:
        """Turn the sums since the last log into means and write them as one line.

        Args:
            step: Updates so far.
            logs: What the Trainer logs.
            add_up: Sums a tensor over the processes of a launch.
        """
        self._rows = list(add_up(torch.stack(self._rows)))
        metrics, n_tokens = _means(self._rows)
        self.tokens += n_tokens
        bad = self._first_bad_step()
        if bad is not None or not math.isfinite(logs.get("grad_norm", 0.0)):
            self._diverge(step, bad)
        else:
            self._write(
                {
                    "split": "train",
                    "step": step,
                    "loss": logs["loss"],
                    **metrics,
                    "learning_rate": logs["learning_rate"],
                    "grad_norm": logs.get("grad_norm"),
                    "tokens": n_tokens,
                    "seconds": round(time.perf_counter() - self._since, 4),
                    "peak_memory_bytes": peak_memory_bytes(self.workbench.device),
                }
            )
        self._clear(step)
        return metrics

    def note_memory(self, step: int) -> None:
        """Keep the token budget with which a step went on after memory ran out."""
        note = {"step": step, "microbatch_tokens": int(self.batches.microbatch_tokens)}
        self.outcome.out_of_memory.append(note)
        self._write({"split": "memory", **note})

    def recall_memory(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on with the token budget that a run had when it was interrupted."""
        for row in rows:
            if row["split"] == "memory":
                self.batches.microbatch_tokens = row["microbatch_tokens"]
                note = {name: row[name] for name in ("step", "microbatch_tokens")}
                self.outcome.out_of_memory.append(note)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the start of a run that is not resumed."""
        self._clear(state.global_step)
        if state.global_step == 0:
            self._validate(0, self.workbench.initial_validation())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score held-out pairs at the recipe's interval and at the end."""
        every = self.workbench.recipe.training.validate_every_steps
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            started = time.perf_counter()
            self._validate(state.global_step, score_validation(self.workbench))
            self.validation_s += time.perf_counter() - started
            self._since += time.perf_counter() - started
        control.should_log |= state.global_step == state.max_steps
        self._stop_if_over(control)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop as soon as a log showed a loss that is not finite."""
        self._stop_if_over(control)

    def _validate(self, step: int, scores: dict[str, float]) -> None:
        if not all(map(math.isfinite, scores.values())) or (
            scores["nll"] > DIVERGED_FACTOR * self.workbench.initial_validation()["nll"]
        ):
            self._diverge(step, self._first_bad_step())
            return
        self.outcome.validation = scores
        self._write({"split": "validation", "step": step, **scores})
        if self.on_validation is not None and self.on_validation(step, scores):
            self.outcome.status = "stopped"

    def _first_bad_step(self) -> int | None:
        """Return the first step since the last log whose loss is not finite."""
        if not self._rows:
            return None
        finite = torch.isfinite(torch.stack(self._rows)[:, 0]).tolist()
        return None if all(finite) else self._logged + finite.index(False) + 1

    def _diverge(self, step: int, bad: int | None) -> None:
        """End the run; name the pairs where one step's loss is known to be the first."""
        if self.outcome.status != "diverged":
            pairs = [] if bad is None else self.batches.update(bad - 1)
            self.outcome.status = "diverged"
            self.outcome.divergence = {
                "step": step if bad is None else bad,
                "example_ids": [pair.example_id for pair in pairs],
            }

    def _stop_if_over(self, control: Any) -> None:
        if self.outcome.status != "ok":
            control.should_training_stop = True
            control.should_save = False

    def _write(self, row: Mapping[str, Any]) -> None:
        if self.folder is not None:
            append_jsonl(self.folder / STEPS, row)

    def _clear(self, step: int) -> None:
        self._rows = []
        self._logged = step
        self._since = time.perf_counter()


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter, trained token rows included, as safetensors.

    PEFT writes sets in an order that changes with every process.
    """
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
    model.save_pretrained(folder, save_embedding_layers=False)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement, where the device or the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux alone; elsewhere the process's peak counts
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak of allocated device memory, or of resident memory on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, IndexError):  # not every Linux tells VmHWM
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


METRICS = ("nll", "chosen_logps", "rejected_logps", "margin", "accuracy", "log_odds", "or_loss")


def _sums(loss: Tensor, logps: PairLogps, n_tokens: int) -> Tensor:
    """Return a micro-batch's loss, sums of the metrics and what to divide by, (11,)."""
    with torch.no_grad():
        n_labels = (logps.prompt_tokens + logps.chosen_tokens).sum()
        sums = [logps.nll_sum, logps.chosen.sum()]
        if logps.rejected_sum is not None:
            odds = log_odds(logps.chosen, logps.rejected)
            margin = logps.chosen - logps.rejected
            accuracy = (margin.sign() + 1) / 2
            or_loss = odds_ratio_loss(logps.chosen, logps.rejected)
            sums += [x.sum() for x in (logps.rejected, margin, accuracy, odds, or_loss)]
        else:
            sums += [torch.full_like(logps.nll_sum, math.nan)] * 5
        n_pairs, n_computed = (
            torch.full_like(logps.nll_sum, n) for n in (len(logps.chosen_sum), n_tokens)
        )
        return torch.stack([loss, *sums, n_labels.to(n_pairs.dtype), n_pairs, n_computed])


def _means(rows: Sequence[Tensor]) -> tuple[dict[str, float | None], int]:
    """Divide sums, NLL by labels and the others by pairs; return tokens computed too."""
    _, *totals, n_labels, n_pairs, n_computed = torch.stack(list(rows)).sum(dim=0).tolist()
    means = [totals[0] / n_labels, *(total / n_pairs for total in totals[1:])]
    metrics = {
        name: mean if math.isfinite(mean) else None
        for name, mean in zip(METRICS, means, strict=True)
    }
    return metrics, int(n_computed)


def _arguments(
    workbench: Workbench, *, learning_rate: float, seed: int, folder: Path | None, nowhere: str
) -> TrainingArguments:
    """Translate a recipe; a run without a folder leaves nothing behind."""
    training, base = workbench.recipe.training, workbench.base
    keep = folder is not None and training.checkpoint_every_steps > 0
    return TrainingArguments(
        output_dir=nowhere if folder is None else str(folder / TRAINER),
        max_steps=training.max_steps,
        per_device_train_batch_size=1,
        learning_rate=learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_steps,
        optim=training.optimizer,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        activation_checkpointing=training.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=base.device.type == "cuda" and base.dtype == torch.bfloat16,
        seed=seed,
        data_seed=seed,
        use_cpu=base.device.type == "cpu",
        logging_steps=training.log_every_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if keep else "no",
        save_steps=max(1, training.checkpoint_every_steps),
        save_total_limit=1,
        report_to=trackers() if folder is not None and folder.name[0] != "." else ["none"],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=base.device.type == "cuda",
        label_names=[],
    )


def _resume_from(folder: Path | None, *, tidy: bool) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the last whole checkpoint and the rows logged up to it.

    Trainer writes ``trainer_state.json`` last: a checkpoint without a readable
    one was cut short by a kill and is removed, as are lines logged beyond: by
    the process that is to ``tidy``, which looks first.
    """
    if folder is None:
        return None, []
    last, step = None, -1
    for checkpoint in (folder / TRAINER).glob("checkpoint-*"):
        if not _is_whole(checkpoint):
            if tidy:
                shutil.rmtree(checkpoint)
        elif int(checkpoint.name.rpartition("-")[2]) > step:
            last, step = checkpoint, int(checkpoint.name.rpartition("-")[2])
    rows = [row for row in read_jsonl(folder / STEPS) if row["step"] <= step]
    if tidy:
        write_jsonl(folder / STEPS, rows)
    return str(last) if last else None, rows


def _is_whole(checkpoint: Path) -> bool:
    try:
        return read_json(checkpoint / "trainer_state.json") is not None
    except RecordError:
        return False


def discard_checkpoints(folder: Path) -> None:
    """Remove what a finished run no longer needs; a tracker's files stay."""
    for checkpoint in (folder / TRAINER).glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    with contextlib.suppress(OSError):  # absent, or not empty
        (folder / TRAINER).rmdir()
