"""One training loop for every arm.

The loop is `transformers.Trainer`'s; what differs between two arms is the one
line that looks up the loss, and what that loss reads: nothing, or the start that
the run continues. Batches are planned before training: the same pairs in the
same order for every arm with the same seed.
"""

import functools
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainingArguments

from study.arms import ARMS, Settings
from study.config.environment import trackers
from study.config.training import TrainingConfig, own_training
from study.model.adapter import fresh_adapter
from study.model.workbench import Workbench
from study.records.layout import ADAPTER
from study.records.notice import heed
from study.records.schema import Cost
from study.run.batches import PlannedBatches
from study.run.budget import budget_of
from study.run.checkpoints import TRAINER, read_seal, resume_from, save_adapter
from study.run.memory import give_back_at_once, peak_memory_bytes, reset_peak_memory
from study.run.optimizer import optimizer_options
from study.run.planned import Start
from study.run.reference import find_reference, recall_reference
from study.run.scores import initial_validation, score_validation
from study.run.trained import load_adapter
from study.run.trainer import ArmTrainer
from study.run.watch import ROW_WIDTH, OnValidation, Outcome, Watch


def train_run(
    workbench: Workbench,
    *,
    arm: str,
    settings: Settings,
    seed: int,
    folder: Path | None,
    on_validation: OnValidation | None = None,
    start: Start | None = None,
) -> Outcome:
    """Train an adapter with one arm's loss; leave it on the base model.

    Args:
        workbench: Base model and encoded splits.
        arm: Name of an arm that has a loss.
        settings: The arm's hyperparameters, ``learning_rate`` among them.
        seed: Decides the adapter's start, the order of pairs and dropout.
        folder: Where logged steps, checkpoints and the adapter go; a checkpoint
            found there is resumed from. None keeps nothing; a hidden folder is
            for resuming alone, no tracker hears of it.
        on_validation: Told of every scoring of held-out pairs.
        start: Whose adapter the arm continues; None begins with a fresh one. A whole run
            of another set-up may be continued by any arm.

    Raises:
        StoppedError: a notice came that time runs out; a checkpoint is saved.
    """
    heed()
    loss = ARMS[arm].loss
    assert loss is not None, f"{arm} trains nothing"
    is_whole = start is not None and start.scale is not None
    assert is_whole or (start is None) == (ARMS[arm].starts_from is None), f"{arm} lacks its start"
    training, budget = budget_of(workbench, arm=arm, seed=seed)
    give_back_at_once()
    model = fresh_adapter(workbench.base, workbench.recipe.adapter, seed=seed)
    initial_validation(workbench)  # while the adapter still changes nothing
    if start is not None and start.record["status"] == "diverged":
        return _not_begun(workbench, start)
    if start is not None:
        model = load_adapter(workbench, start.folder.path, seed=seed, scale=start.scale or 1.0)
    hyperparameters = {name: v for name, v in settings.items() if name != "learning_rate"}
    with tempfile.TemporaryDirectory() as nowhere:
        args = _arguments(
            workbench,
            own_training(training, arm),
            learning_rate=settings["learning_rate"],
            seed=seed,
            folder=folder,
            nowhere=nowhere,
        )
        is_main = args.process_index == 0
        with args.main_process_first():
            checkpoint, logged = resume_from(folder, tidy=is_main, width=ROW_WIDTH)
        earlier = [row for row in logged if row["split"] == "train"]
        batches = PlannedBatches(
            workbench.train,
            training,
            arm=arm,
            seed=seed,
            world=args.world_size,
            device=workbench.device.type,
            value_bytes=workbench.base.dtype.itemsize,
            in_step=workbench.base.is_shared,
        )
        reset_peak_memory(workbench.device)
        reference = recall_reference(checkpoint) or find_reference(
            workbench, batches, start=start, share=args.process_index
        )
        watch = Watch(
            workbench,
            batches,
            folder if is_main else None,
            on_validation,
            _first_scores(workbench, start),
        )
        watch.recall_memory(logged)
        if checkpoint is not None:
            watch.resumed = read_seal(Path(checkpoint)).get("window") or None
        unlogged_s = watch.resumed["seconds"] if watch.resumed else 0.0
        trainer = ArmTrainer(
            loss=functools.partial(loss, **hyperparameters),
            batches=batches,
            reference=reference,
            watch=watch,
            model=model,
            args=args,
        )
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=checkpoint)
    if watch.noticed and watch.outcome.status == "ok":
        heed()
    seconds = time.perf_counter() - started - watch.validation_s
    outcome = watch.outcome
    outcome.budget = budget
    outcome.start = None if start is None else start.facts
    outcome.parameters = workbench.base.n_parameters()
    own: Cost = {
        "train_s": round(seconds + unlogged_s + sum(row["seconds"] for row in earlier), 3),
        "steps": trainer.state.global_step,
        "train_tokens": watch.tokens + sum(row["tokens"] for row in earlier),
        "peak_memory_bytes": peak_memory_bytes(workbench.device),
    }
    outcome.cost = _whole_cost(own, reference.cost, {} if start is None else start.record["cost"])
    if folder is not None and is_main and outcome.status == "ok":
        save_adapter(model, folder / ADAPTER)
    return outcome


def _whole_cost(own: Cost, reference: Cost, start: Cost) -> dict[str, Any]:
    """Charge a run for its reference and its start."""
    seconds = own["train_s"] + reference.get("reference_s", 0.0) + start.get("train_s", 0.0)
    tokens = own["train_tokens"] + reference.get("reference_tokens", 0)
    return {
        "train_s": round(seconds, 3),
        "steps": own["steps"] + start.get("steps", 0),
        "train_tokens": tokens + start.get("train_tokens", 0),
        "peak_memory_bytes": max(own["peak_memory_bytes"], start.get("peak_memory_bytes", 0)),
        **reference,
    }


def _not_begun(workbench: Workbench, start: Start) -> Outcome:
    """Return the outcome of a run whose start diverged: it diverged there."""
    return Outcome(
        status="diverged",
        divergence=cast(dict[str, Any], start.record["divergence"]),
        start=start.facts,
        cost=dict(start.record["cost"]),
        parameters=workbench.base.n_parameters(),
    )


def _first_scores(workbench: Workbench, start: Start | None) -> dict[str, float] | None:
    """Return the validation scores that a run begins with, None for those of the base.

    A start has them in its record; a whole run was scored on other pairs.
    """
    if start is None:
        return None
    if start.scale is not None:
        return score_validation(workbench)
    return {name: value for name, value in start.record["scores"].items() if value is not None}


def _arguments(
    workbench: Workbench,
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path | None,
    nowhere: str,
) -> TrainingArguments:
    """Translate a recipe; a run without a folder leaves nothing behind."""
    base = workbench.base
    keep = folder is not None and training.checkpoint_every_steps > 0
    return TrainingArguments(
        output_dir=nowhere if folder is None else str(folder / TRAINER),
        max_steps=training.max_steps,
        per_device_train_batch_size=1,
        learning_rate=learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_steps,
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
        save_total_limit=2,  # one to go back to
        report_to=trackers() if folder is not None and folder.name[0] != "." else ["none"],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=base.device.type == "cuda",
        label_names=[],
        **optimizer_options(training),
    )
