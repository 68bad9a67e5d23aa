"""One setting as the usual script trains it: everything from the import on."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any


def train_with_trl(
    *,
    base: str,
    pairs: str,
    settings: dict[str, float],
    seed: int,
    steps: int,
    batch_pairs: int,
    warmup_steps: int,
    rank: int,
    alpha: int,
    target_modules: list[str],
    max_length: int,
    checkpointing: bool,
) -> dict[str, Any]:
    """Import, load, tokenise, train and evaluate with TRL's `ORPOTrainer`.

    Args:
        base: Folder of the base model.
        pairs: JSON file with ``train`` and ``validation`` pairs of messages.
        settings: ``learning_rate`` and ``beta``.
        seed: Of the adapter and of the order of pairs.
        steps: Updates.
        batch_pairs: Pairs of an update.
        warmup_steps: Of the linear schedule.
        rank: Of the LoRA adapter.
        alpha: Of the LoRA adapter.
        target_modules: Layers that get an adapter.
        max_length: Tokens of a prompt with its answer.
        checkpointing: Of activations; TRL's default is True.

    Returns:
        Seconds of each part and the losses; the process's own start and end
        are the caller's to time.
    """
    marks = [time.perf_counter()]
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    marks.append(time.perf_counter())
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    trained = _add_chat_tokens(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    marks.append(time.perf_counter())
    rows = json.loads(Path(pairs).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = ORPOTrainer(
            model=model,
            args=ORPOConfig(
                output_dir=nowhere,
                learning_rate=settings["learning_rate"],
                beta=settings["beta"],
                max_steps=steps,
                per_device_train_batch_size=batch_pairs,
                per_device_eval_batch_size=batch_pairs,
                warmup_steps=warmup_steps,
                max_length=max_length,
                activation_checkpointing=checkpointing,
                bf16=False,
                use_cpu=True,
                seed=seed,
                save_strategy="no",
                report_to=["none"],
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
            train_dataset=Dataset.from_list(rows["train"]),
            eval_dataset=Dataset.from_list(rows["validation"]),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=rank,
                lora_alpha=alpha,
                lora_dropout=0.0,
                target_modules=target_modules,
                trainable_token_indices={"embed_tokens": trained},
            ),
        )
        marks.append(time.perf_counter())
        training = trainer.train()
        marks.append(time.perf_counter())
        scores = trainer.evaluate()
    marks.append(time.perf_counter())
    names = ("import", "load", "tokenise", "train", "evaluate")
    parts = zip(names, marks, marks[1:], strict=False)
    return {
        **{f"{name}_s": end - begin for name, begin, end in parts},
        "steps": trainer.state.global_step,
        "train_loss": training.training_loss,
        "validation_loss": scores["eval_loss"],
    }


def _add_chat_tokens(tokenizer: Any) -> list[int]:
    """Give the base's tokenizer ChatML and a padding token, as `study.data.tokens` does."""
    from study.data.tokens import prepare_tokenizer

    return list(prepare_tokenizer(tokenizer))
