"""A file of many pairs, and what takes it: this study, `datasets`, the tokenizer alone."""

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from study.cli.bench.pairs import LOG_LENGTHS
from study.config.recipe import load_recipe

LETTERS = "eeeeeeaaaaooooiiinnnrrrtttssslllddmmppccuugbfhvkyäéñößøčжнтоиλσ日本語"
WORD_TOKENS = 1.6
"""Tokens of a made-up word, about."""
COLUMNS = ("prompt", "chosen", "rejected")


def write_pairs(file: Path, n_pairs: int) -> None:
    """Write JSON lines of pairs as long as HH-RLHF's, in words of several scripts."""
    rng = np.random.default_rng(0)
    letters = rng.choice(list(LETTERS), size=(8_000, 9))
    words = ["".join(row[: 2 + n % 8]) for n, row in enumerate(letters)]
    weights = 1 / np.arange(2, len(words) + 2)
    lengths = [
        np.maximum(2, np.exp(rng.normal(mean, deviation, n_pairs)) / WORD_TOKENS).astype(int)
        for mean, deviation in LOG_LENGTHS["hh"]
    ]
    with file.open("w", encoding="utf-8") as lines:
        for row in np.minimum(np.stack(lengths, axis=1), 2_000).tolist():
            drawn = iter(rng.choice(words, size=sum(row), p=weights / weights.sum()).tolist())
            texts = [" ".join(next(drawn) for _ in range(n)) for n in row]
            pair = dict(zip(COLUMNS, texts, strict=True))
            print(json.dumps(pair, ensure_ascii=False), file=lines)


def ours(*, file: str) -> dict[str, Any]:
    """Read, check, split and encode the file as a run does that finds nothing in the cache."""
    import tempfile

    from study.data.encoding import cut_all, encode_all
    from study.data.load import load_pairs
    from study.data.splits import split_pairs

    tokenizer, data = _tokenizer(), _recipe(file).data
    with (
        tempfile.TemporaryDirectory() as empty,
        mock.patch.dict(os.environ, {"ORPO_STUDY_CACHE": empty}),
    ):
        take = _Stopwatch()
        pairs = take("check", lambda: load_pairs(data).pairs)
        splits = take("split", lambda: split_pairs(pairs, data))
        found = take(
            "encode", lambda: cut_all(encode_all(splits.train, tokenizer), tokenizer, data)
        )
        return take.measured | {"n_encoded": len(found.encoded)}


def datasets_alone(*, file: str) -> dict[str, Any]:
    """Read the file with `datasets` and map the tokenizer over its columns."""
    import tempfile

    import datasets

    tokenizer = _tokenizer()

    def encode(rows: Any) -> dict[str, Any]:
        return {name: tokenizer(rows[name])["input_ids"] for name in COLUMNS}

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        take = _Stopwatch()
        found = take(
            "check",
            lambda: datasets.load_dataset("json", data_files=file, split="train", cache_dir=folder),
        )
        take("split", lambda: found.train_test_split(test_size=0.05, seed=0))
        take("encode", lambda: found.map(encode, batched=True))
    return take.measured


def tokenizer_alone(*, file: str) -> dict[str, Any]:
    """Encode the file's texts in one call of the tokenizers library, on all cores."""
    tokenizer = _tokenizer().backend_tokenizer
    with Path(file).open(encoding="utf-8") as lines:
        texts = [text for line in lines for text in json.loads(line).values()]
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    take = _Stopwatch()
    take("encode", lambda: [tokenizer.encode_batch(texts[at : at + 3_072]) and None
                            for at in range(0, len(texts), 3_072)])  # fmt: skip
    return take.measured


STAGES: tuple[Callable[..., dict[str, Any]], ...] = (tokenizer_alone, datasets_alone, ours)


class _Stopwatch:
    """Seconds of named steps, and the most memory that they took over what was there before."""

    def __init__(self) -> None:
        self._before = _peak_bytes()
        self._cpu_s: dict[str, float] = {}
        self._wall_s: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        began, used = time.perf_counter(), time.process_time()
        found = step()
        self._cpu_s[name] = time.process_time() - used
        self._wall_s[name] = time.perf_counter() - began
        return found

    @property
    def measured(self) -> dict[str, Any]:
        peak_bytes = _peak_bytes() - self._before
        return {"cpu_s": self._cpu_s, "wall_s": self._wall_s, "peak_bytes": peak_bytes}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _recipe(file: str) -> Any:
    splits = ("data.train_pairs=0", "data.validation_pairs=100", "data.test_pairs=100")
    name = f"data.name={json.dumps(file)}"
    return load_recipe("tiny-llama").override([name, "data.max_bytes=20000000000", *splits])


def _tokenizer() -> Any:
    from study.model.base import prepare_as_asked
    from study.model.toy import train_tokenizer

    tokenizer = train_tokenizer()
    prepare_as_asked(tokenizer, load_recipe("tiny-llama").model)
    return tokenizer
