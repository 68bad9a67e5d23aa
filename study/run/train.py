"""One training loop for every arm.

The loop is `transformers.Trainer`'s; what differs between two arms is the one
line that looks up the loss. Batches are planned before training: the same
pairs in the same order for every arm with the same seed.
"""

import functools
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainingArguments

from study.arms import ARMS, Settings
from study.config.environment import trackers
from study.config.recipe import TrainingConfig
from study.model.adapter import fresh_adapter
from study.model.workbench import Workbench
from study.records.layout import ADAPTER
from study.run.batches import PlannedBatches
from study.run.budget import budget_of
from study.run.checkpoints import TRAINER, read_seal, resume_from, save_adapter
from study.run.memory import peak_memory_bytes, reset_peak_memory
from study.run.scores import initial_validation
from study.run.trainer import ArmTrainer
from study.run.watch import OnValidation, Outcome, Watch


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
        arm: Name of an arm that has a loss.
        settings: The arm's hyperparameters, ``learning_rate`` among them.
        seed: Decides the adapter's start, the order of pairs and dropout.
        folder: Where logged steps, checkpoints and the adapter go; a checkpoint
            found there is resumed from. None keeps nothing; a hidden folder is
            for resuming alone, no tracker hears of it.
        on_validation: Told of every scoring of held-out pairs.
    """
    loss = ARMS[arm].loss
    assert loss is not None, f"{arm} trains nothing"
    recipe = workbench.recipe
    training, budget = budget_of(workbench, arm=arm, seed=seed)
    model = fresh_adapter(workbench.base, recipe.adapter, seed=seed)
    initial_validation(workbench)  # while the adapter still changes nothing
    hyperparameters = {name: v for name, v in settings.items() if name != "learning_rate"}
    with tempfile.TemporaryDirectory() as nowhere:
        args = _arguments(
            workbench,
            training,
            learning_rate=settings["learning_rate"],
            seed=seed,
            folder=folder,
            nowhere=nowhere,
        )
        is_main = args.process_index == 0
        with args.main_process_first():
            checkpoint, logged = resume_from(folder, tidy=is_main)
        earlier = [row for row in logged if row["split"] == "train"]
        batches = PlannedBatches(
            workbench.train,
            training,
            arm=arm,
            seed=seed,
            world=args.world_size,
            device=workbench.device.type,
            value_bytes=workbench.base.dtype.itemsize,
        )
        watch = Watch(workbench, batches, folder if is_main else None, on_validation)
        watch.recall_memory(logged)
        if checkpoint is not None:
            watch.resumed = read_seal(Path(checkpoint)).get("window") or None
        unlogged_s = watch.resumed["seconds"] if watch.resumed else 0.0
        trainer = ArmTrainer(
            loss=functools.partial(loss, **hyperparameters),
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
    outcome.budget = budget
    outcome.parameters = workbench.base.n_parameters()
    outcome.cost = {
        "train_s": round(seconds + unlogged_s + sum(row["seconds"] for row in earlier), 3),
        "steps": trainer.state.global_step,
        "train_tokens": watch.tokens + sum(row["tokens"] for row in earlier),
        "peak_memory_bytes": peak_memory_bytes(workbench.device),
    }
    if folder is not None and is_main and outcome.status == "ok":
        save_adapter(model, folder / ADAPTER)
    return outcome


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
        save_total_limit=2,  # one to go back to
        report_to=trackers() if folder is not None and folder.name[0] != "." else ["none"],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=base.device.type == "cuda",
        label_names=[],
    )
