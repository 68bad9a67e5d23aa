"""One training loop for every arm.

The loop is `transformers.Trainer`'s; what differs between two arms is the one
line that looks up the loss. Batches are planned before training: the same
pairs in the same order for every arm with the same seed.
"""

import contextlib
import functools
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from study.config import Settings, TrainingConfig
from study.engine import pack, pair_logps
from study.environment import trackers
from study.errors import RecordError
from study.evaluate import score_validation
from study.losses import LOSSES, NEEDS_REJECTED, PairLogps, log_odds, odds_ratio_loss
from study.model import fresh_adapter
from study.records import ADAPTER, STEPS, append_jsonl, read_json, read_jsonl, write_jsonl
from study.tokens import Encoded
from study.workbench import Workbench

TRAINER = "trainer"
"""Subfolder of a run for checkpoints and for the files of trackers."""
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
    checkpoint, earlier = _resume_from(folder)
    with tempfile.TemporaryDirectory() as nowhere:
        args = _arguments(
            workbench,
            learning_rate=settings["learning_rate"],
            seed=seed,
            folder=folder,
            nowhere=nowhere,
        )
        batches = PlannedBatches(
            workbench.train, recipe.training, arm=arm, seed=seed, world=args.world_size
        )
        watch = Watch(workbench, batches, folder, on_validation)
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
    if folder is not None and outcome.status == "ok":
        save_adapter(model, folder / ADAPTER)
    return outcome


class PlannedBatches(Dataset[dict[str, Any]]):
    """All micro-batches of a run, planned from the seed and packed when asked for."""

    def __init__(
        self,
        pairs: Sequence[Encoded],
        config: TrainingConfig,
        *,
        arm: str,
        seed: int,
        world: int = 1,
    ) -> None:
        """Plan ``max_steps`` updates; each is cut into parts of equal work."""
        self.pairs = pairs
        self.rejected = arm in NEEDS_REJECTED
        self.prompt_nll = config.nll_over == "prompt_and_response"
        self.n_parts = config.accumulation_steps * world
        self.updates = plan_updates(len(pairs), config.max_steps, config.batch_pairs, seed=seed)

    def __len__(self) -> int:
        """Return the number of micro-batches."""
        return len(self.updates) * self.n_parts

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Pack one micro-batch with the label counts of its whole update."""
        update, part = divmod(number, self.n_parts)
        pairs = self.update(update)
        by_size = sorted(pairs, key=lambda pair: pair.n_tokens, reverse=True)
        batch = pack(
            by_size[part :: self.n_parts], rejected=self.rejected, prompt_nll=self.prompt_nll
        )
        n_tokens = sum(len(p.chosen_ids) + self.prompt_nll * (len(p.prompt_ids) - 1) for p in pairs)
        return {**batch, "update_tokens": n_tokens, "update_pairs": len(pairs)}

    def update(self, number: int) -> list[Encoded]:
        """Return the pairs of one update."""
        return [self.pairs[index] for index in self.updates[number]]


def plan_updates(n_pairs: int, n_updates: int, batch_pairs: int, *, seed: int) -> list[list[int]]:
    """Draw the pairs of each update: whole shuffled passes, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < n_updates * batch_pairs:
        order += torch.randperm(n_pairs, generator=generator).tolist()
    return [order[i * batch_pairs : (i + 1) * batch_pairs] for i in range(n_updates)]


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
        self.watch = watch
        self.loss_is_scaled_for_ga = True  # counts are of the whole update

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return this micro-batch's share of the update's loss."""
        logps = pair_logps(model, inputs)
        loss = self.pair_loss(
            logps, n_tokens=inputs["update_tokens"], n_pairs=inputs["update_pairs"]
        )
        self.watch.add(loss, logps, inputs["n_tokens"])
        return loss * self.accelerator.num_processes  # DDP averages gradients

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add what the watch has gathered since the last log."""
        if "loss" in logs:
            metrics = self.watch.flush(self.state.global_step, logs)
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
        self.validation_s = 0.0
        self._clear(0)

    def add(self, loss: Tensor, logps: PairLogps, n_tokens: int) -> None:
        """Keep one micro-batch's sums as tensors, where they are."""
        self._losses.append(loss.detach())
        self._sums.append(_metric_sums(logps))
        self._tokens += n_tokens
        self.tokens += n_tokens

    def flush(self, step: int, logs: Mapping[str, float]) -> dict[str, float | None]:
        """Turn the sums since the last log into means and write them as one line."""
        metrics = _means(self._sums)
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
                    "tokens": self._tokens,
                    "seconds": round(time.perf_counter() - self._since, 4),
                    "peak_memory_bytes": peak_memory_bytes(self.workbench.device),
                }
            )
        self._clear(step)
        return metrics

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
        if not self._losses:
            return None
        finite = torch.isfinite(torch.stack(self._losses)).tolist()
        parts = self.workbench.recipe.training.accumulation_steps
        return None if all(finite) else self._logged + finite.index(False) // parts + 1

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
        self._losses: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._tokens = 0
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


def _metric_sums(logps: PairLogps) -> Tensor:
    """Return sums of the metrics over a micro-batch, and what to divide by, (9,)."""
    with torch.no_grad():
        n_tokens = (logps.prompt_tokens + logps.chosen_tokens).sum()
        sums = [logps.nll_sum, logps.chosen.sum()]
        if logps.rejected_sum is not None:
            odds = log_odds(logps.chosen, logps.rejected)
            margin = logps.chosen - logps.rejected
            accuracy = (margin.sign() + 1) / 2
            or_loss = odds_ratio_loss(logps.chosen, logps.rejected)
            sums += [x.sum() for x in (logps.rejected, margin, accuracy, odds, or_loss)]
        else:
            sums += [torch.full_like(logps.nll_sum, math.nan)] * 5
        n_pairs = torch.full_like(logps.nll_sum, len(logps.chosen_sum))
        return torch.stack([*sums, n_tokens.to(n_pairs.dtype), n_pairs])


def _means(sums: Sequence[Tensor]) -> dict[str, float | None]:
    """Divide gathered sums: NLL by tokens, the others by pairs."""
    *totals, n_tokens, n_pairs = torch.stack(list(sums)).sum(dim=0).tolist()
    means = [totals[0] / n_tokens, *(total / n_pairs for total in totals[1:])]
    return {
        name: mean if math.isfinite(mean) else None
        for name, mean in zip(METRICS, means, strict=True)
    }


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
        gradient_accumulation_steps=training.accumulation_steps,
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


def _resume_from(folder: Path | None) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the last whole checkpoint and the training steps logged up to it.

    Trainer writes ``trainer_state.json`` last: a checkpoint without a readable
    one was cut short by a kill and is removed, as are lines logged beyond.
    """
    if folder is None:
        return None, []
    last, step = None, -1
    for checkpoint in (folder / TRAINER).glob("checkpoint-*"):
        if not _is_whole(checkpoint):
            shutil.rmtree(checkpoint)
        elif int(checkpoint.name.rpartition("-")[2]) > step:
            last, step = checkpoint, int(checkpoint.name.rpartition("-")[2])
    rows = [row for row in read_jsonl(folder / STEPS) if row["step"] <= step]
    write_jsonl(folder / STEPS, rows)
    return str(last) if last else None, [row for row in rows if row["split"] == "train"]


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
