"""Train a small reward model on a recipe's training pairs alone, to judge its runs by."""

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.nn import functional as F

from study.config.recipe import Recipe
from study.data.pairs import Pair, fingerprint
from study.errors import ModelError
from study.model.base import load_tokenizer, pick_device
from study.model.locate import TOY, locate
from study.records.files import write_json
from study.release.judge.questions import splits_of
from study.release.judge.reward import MADE_HERE
from study.run.prompts import text_of

RATE, TOY_RATE = 1e-5, 1e-3
"""Learning rates: of a pre-trained model, all of whose weights are trained, and of a tiny base."""

EPOCHS, TOY_EPOCHS = 1, 6


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a reward model is trained."""

    epochs: int | None = None
    """Passes over the pairs; None takes what suits the base."""
    batch_pairs: int = 16
    rate: float | None = None
    """Learning rate; None takes the one that suits the base."""
    seed: int = 0
    device: str = "auto"


def train_judge(
    recipe: Recipe, folder: Path, training: Training, *, say: Callable[[str], None]
) -> Path:
    """Train a reward model from a recipe's base by the Bradley-Terry loss, and write its folder.

    Loss: -log sigmoid(r(chosen) - r(rejected)), Ouyang et al. (2022), equation 1. All
    weights are trained, so that it suits small bases only.

    Raises:
        ModelError: the folder exists.
        DataError: the pairs cannot be read.
    """
    from transformers import AutoModelForSequenceClassification

    is_toy = recipe.model.name.startswith(TOY)
    training = dataclasses.replace(
        training,
        rate=training.rate or (TOY_RATE if is_toy else RATE),
        epochs=training.epochs or (TOY_EPOCHS if is_toy else EPOCHS),
    )
    if folder.exists():
        raise ModelError(f"{folder} exists; leave out --train to judge by it, or name another one")
    splits = splits_of(recipe)
    tokenizer, _ = load_tokenizer(recipe.model)
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            locate(recipe.model.name).path,
            revision=recipe.model.revision or "main",
            num_labels=1,
            dtype=torch.float32,
            use_safetensors=True,
            device_map={"": pick_device(training.device)},
        )
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.pad_token_id = tokenizer.pad_token_id
        _fit(model, _rows(splits.train, tokenizer), training, say=say)
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    model.save_pretrained(building)
    tokenizer.save_pretrained(building)
    made = {
        "base": recipe.model.name,
        "trained_on": fingerprint(splits.train),
        "pairs": len(splits.train),
        "epochs": training.epochs,
        "rate": training.rate,
        "seed": training.seed,
    }
    write_json(building / MADE_HERE, made)
    building.rename(folder)
    return folder


Rows = list[tuple[list[int], list[int]]]
"""Token ids of a pair's dialogue with the chosen answer, and with the rejected one."""


def _rows(pairs: Sequence[Pair], tokenizer: Any) -> Rows:
    def ids(pair: Pair, answer: str) -> list[int]:
        chat = [{"role": turn.role, "content": turn.content} for turn in pair.prompt]
        chat.append({"role": "assistant", "content": answer})
        return list(tokenizer.apply_chat_template(chat, return_dict=False))

    return [(ids(pair, text_of(pair.chosen)), ids(pair, text_of(pair.rejected))) for pair in pairs]


def _fit(model: Any, rows: Rows, training: Training, *, say: Callable[[str], None]) -> None:
    assert training.rate is not None
    assert training.epochs is not None
    rate, n_steps = training.rate, training.epochs * (len(rows) // training.batch_pairs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=n_steps + 1, pct_start=0.1
    )
    model.train()
    losses = []
    for step, batch in enumerate(_batches(rows, training), start=1):
        rewards = model(**_padded(batch, model.config.pad_token_id, model.device)).logits[:, 0]
        loss = -F.logsigmoid(rewards[0::2] - rewards[1::2]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 50 == 0 or step == n_steps:
            say(f"training the judge: step {step} of {n_steps}, loss {mean(losses[-50:]):.3f}")
    model.eval()


def _batches(rows: Rows, training: Training) -> Iterator[Rows]:
    rng, size = random.Random(f"judge-{training.seed}"), training.batch_pairs
    for _ in range(training.epochs or 0):
        order = rng.sample(rows, len(rows))
        yield from (order[i : i + size] for i in range(0, len(order) - size + 1, size))


def _padded(batch: Rows, pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Lay pairs out as rows, each chosen one before its rejected one."""
    flat = [row for pair in batch for row in pair]
    width = max(map(len, flat))
    ids = [row + [pad] * (width - len(row)) for row in flat]
    real = [[1] * len(row) + [0] * (width - len(row)) for row in flat]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(real, device=device),
    }
