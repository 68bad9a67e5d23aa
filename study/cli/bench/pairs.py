"""Pairs to measure on: real ones where they are, else generated ones of their lengths."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from study.data.load import load_pairs
from study.data.pairs import Pair
from study.data.tokens import encode, prepare_tokenizer
from study.engine.encoded import Encoded
from study.errors import DataError

BATCH_PAIRS = 8
MAX_PROMPT_TOKENS, MAX_LENGTH_TOKENS = 512, 1024  # TRL's defaults
QUICK_SHARE = 8
"""A quick run divides the limits of prompts and answers by this."""
VOCABULARY = 8_192
DRAWN_BATCHES = 48
"""Batches among which those are chosen that are padded like all of them."""

SOURCES = {"hh": "hh_rlhf_transcripts.jsonl.gz", "sharegpt": "sharegpt_pairs.json"}
"""Real pairs by short name: files of the folder of real pairs."""

LOG_LENGTHS = {
    "hh": ((4.34, 0.95), (3.35, 0.94), (3.55, 0.93)),
    "sharegpt": ((5.17, 1.07), (5.36, 1.25), (5.54, 1.05)),
}
"""Mean and deviation of the log of the real pairs' tokens: prompt, chosen, rejected."""


class Sample(NamedTuple):
    """Batches of pairs and how they are padded, beside all that were drawn."""

    batches: list[list[Encoded]]
    origin: str
    """``real``, or ``generated`` with the reason."""
    padding_share: float
    """Of the tokens in TRL's batches."""
    padding_share_of_all: float

    @property
    def pairs(self) -> list[Encoded]:
        """All pairs of the sample."""
        return [pair for batch in self.batches for pair in batch]

    def grouped(self) -> list[list[Encoded]]:
        """Return the same pairs in batches of similar length."""
        order = sorted(self.pairs, key=lambda pair: pair.n_tokens, reverse=True)
        return chunks(order, BATCH_PAIRS)


def draw_sample(
    source: str, data: Path, n_batches: int, *, seed: int, quick: bool = False
) -> Sample:
    """Draw batches of eight whose cost in TRL's layout is like that of many.

    A few random batches may hold one long pair or none, which alone moves TRL's
    cost by half. Of all runs of ``n_batches`` consecutive ones among those
    drawn, the one is taken whose padded tokens per distinct token are nearest
    to those of all.
    """
    limit = QUICK_SHARE if quick else 1
    pairs, origin = draw_pairs(source, data, DRAWN_BATCHES * BATCH_PAIRS, seed=seed)
    cut = [cut_pair(pair, MAX_PROMPT_TOKENS // limit, MAX_LENGTH_TOKENS // limit) for pair in pairs]
    drawn = [batch for batch in chunks(cut, BATCH_PAIRS) if len(batch) == BATCH_PAIRS]
    typical = _work(drawn)
    runs = [drawn[i : i + n_batches] for i in range(len(drawn) - n_batches + 1)]
    chosen = min(runs, key=lambda batches: abs(_work(batches) - typical))
    return Sample(chosen, origin, padding_share(chosen), padding_share(drawn))


def draw_pairs(source: str, data: Path, n_pairs: int, *, seed: int) -> tuple[list[Encoded], str]:
    """Draw pairs of a source as tokens; say whether they are real or generated."""
    file = data / SOURCES[source]
    if not file.is_file():
        return generate_pairs(source, n_pairs, seed=seed), "generated: the real ones are absent"
    known = [data / name for name in SOURCES.values() if (data / name).is_file()]
    loaded = {path: _load(path) for path in known}
    tokenizer = train_tokenizer(list(loaded.values()))
    usable: list[Encoded] = []
    generator = torch.Generator().manual_seed(seed)
    for index in torch.randperm(len(loaded[file]), generator=generator).tolist():
        with contextlib.suppress(DataError):  # sides that are equal once they are cut
            usable.append(
                encode(
                    loaded[file][index],
                    tokenizer,
                    max_prompt_tokens=MAX_PROMPT_TOKENS,
                    max_length_tokens=MAX_LENGTH_TOKENS,
                )
            )
        if len(usable) == n_pairs:
            break
    return usable, "real"


def generate_pairs(source: str, n_pairs: int, *, seed: int) -> list[Encoded]:
    """Return random tokens with log-normal lengths like those of the real pairs."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [
        [
            max(2, int(math.exp(mean + deviation * torch.randn((), generator=generator).item())))
            for mean, deviation in LOG_LENGTHS[source]
        ]
        for _ in range(n_pairs)
    ]
    pairs = pairs_of(lengths, vocabulary=VOCABULARY, seed=seed)
    return [cut_pair(pair, MAX_PROMPT_TOKENS, MAX_LENGTH_TOKENS) for pair in pairs]


def pairs_of(lengths: Sequence[Sequence[int]], *, vocabulary: int, seed: int) -> list[Encoded]:
    """Return random tokens as pairs of given lengths: prompt, chosen, rejected."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Encoded.of(
            str(number),
            *(torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in row),
        )
        for number, row in enumerate(lengths)
    ]


def lengths_of(pairs: Sequence[Encoded]) -> list[list[int]]:
    """Return the lengths of pairs: prompt, chosen, rejected."""
    return [[p.n_prompt, p.n_chosen, p.n_rejected] for p in pairs]


def cut_pair(pair: Encoded, prompt_tokens: int, length_tokens: int) -> Encoded:
    """Cut a pair to limits, the prompt from the left."""
    prompt = pair.prompt_ids[-prompt_tokens:]
    room = length_tokens - len(prompt)
    return pair.with_ids(prompt, pair.chosen_ids[:room], pair.rejected_ids[:room])


def train_tokenizer(sources: Sequence[Sequence[Pair]]) -> Any:
    """Train byte-level BPE of 8,192 tokens on the texts of pairs, with ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        (m.content for pairs in sources for p in pairs for m in (*p.prompt, *p.chosen)),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - 3,  # ChatML's two tokens and padding follow
            special_tokens=["<|end_of_text|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end_of_text|>")
    prepare_tokenizer(tokenizer)
    return tokenizer


def padded_batch(
    pairs: Sequence[Encoded], sides: Sequence[str] = ("chosen", "rejected")
) -> dict[str, Tensor]:
    """Return pairs as TRL's collator hands them to its trainer."""
    batch = {}
    for side in sides:
        answers = [getattr(pair, f"{side}_ids") for pair in pairs]
        rows = [[*pair.prompt_ids, *ids] for pair, ids in zip(pairs, answers, strict=True)]
        width = max(map(len, rows))
        batch[f"{side}_input_ids"] = _pad(rows, width, 0)
        batch[f"{side}_attention_mask"] = _pad([[1] * len(row) for row in rows], width, 0)
        hidden = [[-100] * pair.n_prompt for pair in pairs]
        labels = [[*start, *ids] for start, ids in zip(hidden, answers, strict=True)]
        batch[f"{side}_labels"] = _pad(labels, width, -100)
    return batch


def padded_tokens(batches: Sequence[Sequence[Encoded]], *, rejected: bool = True) -> int:
    """Count the tokens of TRL's batches, padding included."""
    if not rejected:
        rows = [[p.n_prompt + p.n_chosen for p in batch] for batch in batches]
        return sum(len(row) * max(row) for row in rows)
    widths = (max(map(_row_length, batch)) for batch in batches)
    return sum(2 * len(batch) * width for batch, width in zip(batches, widths, strict=True))


def padding_share(batches: Sequence[Sequence[Encoded]]) -> float:
    """Return the share of padding in TRL's batches."""
    real = sum(pair.n_tokens + pair.n_prompt for batch in batches for pair in batch)
    return 1 - real / padded_tokens(batches)


def chunks(pairs: Sequence[Encoded], size: int) -> list[list[Encoded]]:
    """Cut pairs into batches."""
    return [list(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def _work(batches: Sequence[Sequence[Encoded]]) -> float:
    """Return TRL's tokens, padding included, for each distinct one."""
    return padded_tokens(batches) / sum(pair.n_tokens for batch in batches for pair in batch)


def _row_length(pair: Encoded) -> int:
    return pair.n_prompt + max(pair.n_chosen, pair.n_rejected)


def _pad(rows: Sequence[Sequence[int]], width: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _load(file: Path) -> tuple[Pair, ...]:
    from study.config.recipe import load_recipe

    recipe = load_recipe("tiny-llama").override([f"data.name={file}"])
    return tuple(load_pairs(recipe.data).pairs)
