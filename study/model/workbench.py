"""What every run of one recipe shares in a process: base model and encoded pairs."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from study.config.recipe import Recipe
from study.data.load import load_pairs
from study.data.pairs import Pair, fingerprint
from study.data.splits import split_pairs
from study.data.tokens import encode
from study.engine.encoded import Encoded
from study.errors import DataError
from study.model.base import Base, load_base
from study.records.folders import facts_of

if TYPE_CHECKING:
    from study.model.toy import Progress


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
    """The record's ``data`` field: sizes, fingerprints, dropped rows."""
    start: dict[str, float] = field(default_factory=dict)
    """Validation scores of the untrained base, once they are known."""

    @property
    def device(self) -> torch.device:
        """The device of the base model."""
        return self.base.device


def open_workbench(recipe: Recipe, *, device: str, progress: "Progress | None" = None) -> Workbench:
    """Load the base model, read and split the pairs, and encode them.

    Raises:
        ModelError: the base model cannot be loaded as the recipe asks.
        DataError: the pairs cannot be read, or too few of them are usable.
    """
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    loaded = load_pairs(recipe.data)
    splits = split_pairs(loaded.pairs, recipe.data)
    base = load_base(recipe.model, device=device, progress=progress)
    encoded = {
        name: encode_split(getattr(splits, name), base, recipe)
        for name in ("train", "validation", "test")
    }
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
    summary["dropped"] = {reason: len(rows) for reason, rows in loaded.dropped.items()} | {
        f"useless after truncation, {name}": n_lost
        for name in encoded
        if (n_lost := len(getattr(splits, name)) - len(encoded[name]))
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


def _kept(pairs: Sequence[Pair], encoded: Sequence[Encoded]) -> list[Pair]:
    ids = {one.example_id for one in encoded}
    return [pair for pair in pairs if pair.example_id in ids]


def encode_split(pairs: Sequence[Pair], base: Base, recipe: Recipe) -> list[Encoded]:
    """Encode one split; pairs that the length limits make useless are left out.

    The record's ``data.dropped`` counts them.

    Raises:
        DataError: more than the recipe's share of pairs would be left out.
    """
    encoded, useless = [], []
    for pair in pairs:
        try:
            encoded.append(
                encode(
                    pair,
                    base.tokenizer,
                    max_prompt_tokens=recipe.data.max_prompt_tokens,
                    max_length_tokens=recipe.data.max_length_tokens,
                )
            )
        except DataError as error:
            useless.append(str(error))
    if len(useless) > recipe.data.max_dropped_share * len(pairs) or not encoded:
        raise DataError(
            f"{len(useless)} of {len(pairs)} pairs are useless after truncation to "
            f"{recipe.data.max_length_tokens} tokens, e.g. {(useless or ['none is left'])[0]}; "
            "raise data.max_length_tokens or data.max_dropped_share"
        )
    return encoded


def resolved_facts(workbench: Workbench) -> dict[str, Any]:
    """Return what a run depends on beyond its configuration: weights, pairs, device."""
    return facts_of(workbench.base.resolved, workbench.data_summary, str(workbench.device))
