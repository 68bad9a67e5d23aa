"""The tiny base models of the embedded study, trained once and cached.

They are trained on plain text of the toy language (`study.data.toy`), in which
right, wrong and wordy answers are mixed and no chat format occurs: like any base
model, they know the answers without preferring them.
"""

import contextlib
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.config.canonical import digest
from study.data.toy import RIGHT_SHARE, WRONG_SHARE, plain_texts
from study.errors import ConfigError
from study.model.cache import Progress, keep, unheard

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

VOCABULARY_SIZE = 640


PRETRAINING: dict[str, Any] = {
    "version": 4,
    "seed": 0,
    "steps": 600,
    "batch_texts": 48,
    "window_batches": 10,
    "learning_rate": 4e-3,
    "right": RIGHT_SHARE,
    "wrong": WRONG_SHARE,
    "tokenizer_texts": 20_000,
    "vocabulary_size": VOCABULARY_SIZE,
}


SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2},
}


def base_config(shape: str) -> "LlamaConfig":
    """Return the configuration of a tiny base, without any chat tokens.

    Raises:
        ConfigError: there is no such shape.
    """
    from transformers import LlamaConfig

    if shape not in SHAPES:
        raise ConfigError(f"there is no toy base {shape!r}; toy bases are {', '.join(SHAPES)}")
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        **SHAPES[shape],
    )


def ensure_base(shape: str, *, progress: Progress = unheard) -> Path:
    """Return the folder of a tiny base in the Hub's layout, training it once.

    Raises:
        ConfigError: there is no such shape.
        ModelError: the cache folder cannot be written.
    """
    key = digest({**PRETRAINING, "shape": shape, "model": base_config(shape).to_diff_dict()})[:12]

    def pretrain(folder: Path) -> None:
        model, tokenizer = _train_base(shape, progress)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "toy.json").write_text(json.dumps({**PRETRAINING, "shape": shape}))

    return keep(f"toy-{shape}-{key}", pretrain, what="the tiny base")


def _train_base(shape: str, progress: Progress) -> tuple[Any, "PreTrainedTokenizerFast"]:
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = train_tokenizer()
    batches = _batches(plain_texts(seed=PRETRAINING["seed"]))
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(PRETRAINING["seed"])
        model = LlamaForCausalLM(base_config(shape)).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=PRETRAINING["learning_rate"], weight_decay=0.01, fused=True
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PRETRAINING["learning_rate"], total_steps=PRETRAINING["steps"], pct_start=0.1
        )
        for step in range(PRETRAINING["steps"]):
            loss = model(**_pad(tokenizer, next(batches))).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            progress(f"training the tiny {shape} base", step + 1, PRETRAINING["steps"])
    return model, tokenizer


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Yield batches of texts of similar length: a window's worth sorted, then shuffled."""
    rng = random.Random(f"batches-{PRETRAINING['seed']}")
    size, window = PRETRAINING["batch_texts"], PRETRAINING["window_batches"]
    while True:
        block = sorted(itertools.islice(texts, size * window), key=len)
        batches = [block[i : i + size] for i in range(0, len(block), size)]
        yield from rng.sample(batches, len(batches))


def _pad(tokenizer: "PreTrainedTokenizerFast", texts: list[str]) -> dict[str, Any]:
    """Return right-padded ids with BOS and EOS, and labels that skip the padding."""
    import torch

    rows = [[0, *tokenizer(text, add_special_tokens=False)["input_ids"], 1] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": real,
        "labels": torch.where(real.bool(), ids, -100),
    }


def train_tokenizer() -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer that puts BOS before a text, like Llama's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = plain_texts(seed=PRETRAINING["seed"] + 1)
    backend.train_from_iterator(
        (next(texts) for _ in range(PRETRAINING["tokenizer_texts"])),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: faster for tiny matrices, and the same sums everywhere."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
