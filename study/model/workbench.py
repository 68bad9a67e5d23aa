"""What every run of one recipe shares in a process: base model and encoded pairs."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from study.config.canonical import digest
from study.config.environment import require_optimizer
from study.config.recipe import Recipe
from study.data.encoding import cut_all, encode_all
from study.data.load import load_pairs
from study.data.pairs import Pair, fingerprint
from study.data.splits import split_pairs
from study.data.tokens import fingerprint_tokens
from study.engine.encoded import Encoded
from study.errors import DataError
from study.model.base import Base, load_base
from study.model.cache import Progress, unheard
from study.model.selfcheck import check_base
from study.records.processes import n_processes


@dataclass
class Workbench:
    """A base model, loaded once, and the splits, encoded once."""

    recipe: Recipe
    base: Base
    train: list[Encoded]
    validation: list[Encoded]
    test: list[Encoded]
    pairs: dict[str, Pair]
    """Validation and test pairs by example id, for prompts and references."""
    data_summary: dict[str, Any]
    """The record's ``data`` field: sizes, fingerprints of messages and tokens, dropped rows,
    columns that were not read."""
    untrained: dict[str, float] = field(default_factory=dict)
    """Validation scores of the untrained base, once they are known."""
    references: dict[str, Any] = field(default_factory=dict)
    """Log-probabilities of starts, see ``study.run.reference``."""

    @property
    def device(self) -> torch.device:
        """The device of the base model."""
        return self.base.device


def open_workbench(recipe: Recipe, *, device: str, progress: Progress = unheard) -> Workbench:
    """Load the base model, read and split the pairs, and encode them.

    Raises:
        ConfigError: the recipe's optimiser cannot run here.
        ModelError: the base model cannot be loaded as the recipe asks.
        DataError: the pairs cannot be read, or too few of them are usable.
    """
    require_optimizer(recipe.training.optimizer, device)
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    loaded = load_pairs(recipe.data)
    splits = split_pairs(loaded.pairs, recipe.data)
    sharded = recipe.training.sharding == "fsdp" and n_processes() > 1
    base = load_base(recipe.model, device=device, progress=progress, sharded=sharded)
    encoded: dict[str, list[Encoded]] = {}
    left_out: dict[str, int] = {}
    for name in ("train", "validation", "test"):
        encoded[name], reasons = encode_split(getattr(splits, name), base, recipe)
        left_out |= {f"{reason}, {name}": n for reason, n in reasons.items()}
    base.checked = check_base(base, recipe.adapter, longest_row=_longest_row(recipe, encoded))
    gc.collect()
    gc.freeze()  # the base and the pairs stay: spare every later collection the walk over them
    held_out = [*splits.validation, *splits.test]
    summary: dict[str, Any] = {
        name: {
            "pairs": len(encoded[name]),
            "fingerprint": fingerprint(_kept(getattr(splits, name), encoded[name])),
        }
        for name in encoded
    }
    summary["source"] = recipe.data.name
    summary["form"] = loaded.form
    if loaded.unread:
        summary["not_read"] = list(loaded.unread)
    summary["dropped"] = {reason: len(rows) for reason, rows in loaded.dropped.items()} | left_out
    summary["tokens"] = {
        **{name: fingerprint_tokens(part) for name, part in encoded.items()},
        "template": digest(base.tokenizer.chat_template),
        "template_date": recipe.model.template_date,
    }
    return Workbench(
        recipe=recipe,
        base=base,
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded["test"],
        pairs={pair.example_id: pair for pair in held_out},
        data_summary=summary,
    )


def _longest_row(recipe: Recipe, encoded: dict[str, list[Encoded]]) -> int:
    """Return the most tokens of a prompt with an answer, given or to be generated."""
    n_new = recipe.evaluation.max_new_tokens if recipe.evaluation.generated_answers else 0
    return max(
        pair.n_prompt + max(pair.n_chosen, pair.n_rejected, n_new)
        for pairs in encoded.values()
        for pair in pairs
    )


def _kept(pairs: Sequence[Pair], encoded: Sequence[Encoded]) -> list[Pair]:
    ids = {one.example_id for one in encoded}
    return [pair for pair in pairs if pair.example_id in ids]


def encode_split(
    pairs: Sequence[Pair], base: Base, recipe: Recipe
) -> tuple[list[Encoded], dict[str, int]]:
    """Encode one split; pairs that cannot be used are left out and counted by reason.

    Raises:
        DataError: more than the recipe's share of pairs would be left out.
    """
    found = cut_all(encode_all(pairs, base.tokenizer), base.tokenizer, recipe.data)
    if refusal := found.refusal(recipe.data):
        raise DataError(refusal)
    return found.encoded, found.reasons()
