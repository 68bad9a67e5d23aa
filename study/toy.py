"""The embedded study: a toy language, its pairs, and tiny base models.

Eight families of questions have one known right answer each. A pair's chosen
answer is right and brief; its rejected one is of the same form and wrong, or
wordy and evasive. The bases are trained on *plain text* of the language, in
which right, wrong and wordy answers are mixed and no chat format occurs: like
any base model, they know the answers without preferring them.
"""

import contextlib
import itertools
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from study.config import digest
from study.data import Message, Pair, make_pair
from study.environment import cache_folder
from study.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

N_PAIRS = 6_000
VOCABULARY_SIZE = 640
PRETRAINING: dict[str, Any] = {
    "version": 4,
    "seed": 0,
    "steps": 600,
    "batch_texts": 48,
    "window_batches": 10,
    "learning_rate": 4e-3,
    "right": 0.32,
    "wrong": 0.38,
    "tokenizer_texts": 20_000,
    "vocabulary_size": VOCABULARY_SIZE,
}
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2},
}


class Question(NamedTuple):
    """A question of the toy language with its known answers."""

    family: str
    text: str
    right: str
    mistake: str


def toy_pairs(*, seed: int, n_pairs: int = N_PAIRS) -> list[Pair]:
    """Generate pairs with distinct prompts, the same for the same seed."""
    rng = random.Random(f"pairs-{seed}")
    pairs: dict[str, Pair] = {}
    while len(pairs) < n_pairs:
        question = _question(rng)
        rejected = _wordy(rng, question) if rng.random() < 0.5 else _brief(question.mistake)
        pairs.setdefault(
            question.text,
            make_pair(
                prompt=(Message("user", question.text),),
                chosen=(Message("assistant", _brief(question.right)),),
                rejected=(Message("assistant", rejected),),
                source=f"toy/{question.family}",
                answer=question.right,
            ),
        )
    return list(pairs.values())


def questions(*, seed: int) -> Iterator[Question]:
    """Yield questions without end, the same for the same seed."""
    rng = random.Random(f"questions-{seed}")
    while True:
        yield _question(rng)


def plain_texts(*, seed: int) -> Iterator[str]:
    """Yield texts for pre-training without end: questions, answers of mixed quality."""
    rng = random.Random(f"texts-{seed}")
    while True:
        question = _question(rng)
        draw = rng.random()
        if draw < PRETRAINING["right"]:
            answer = _brief(question.right)
        elif draw < PRETRAINING["right"] + PRETRAINING["wrong"]:
            answer = _brief(question.mistake)
        else:
            answer = _wordy(rng, question)
        yield f"{question.text}\n{answer}\n"


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


def ensure_base(shape: str, *, progress: Progress | None = None) -> Path:
    """Return the folder of a tiny base in the Hub's layout, training it once.

    Two processes that ask at once train it once: the second waits.

    Raises:
        ConfigError: there is no such shape.
        ModelError: the cache folder cannot be written.
    """
    from filelock import FileLock
    from safetensors import SafetensorError

    key = digest({**PRETRAINING, "shape": shape, "model": base_config(shape).to_diff_dict()})[:12]
    folder = cache_folder() / f"toy-{shape}-{key}"
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _pretrain(shape, folder, progress or (lambda what, done, total: None))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot keep the tiny base in {folder.parent}: {error}; make room there, or set "
            "ORPO_STUDY_CACHE to a folder that can be written"
        ) from error
    return folder


def _pretrain(shape: str, folder: Path, progress: Progress) -> None:
    """Train one base on plain text and rename its finished folder into place."""
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as name:
        model, tokenizer = _train_base(shape, progress)
        finished = Path(name) / folder.name
        model.save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        (finished / "toy.json").write_text(json.dumps({**PRETRAINING, "shape": shape}))
        with contextlib.suppress(FileExistsError):
            os.rename(finished, folder)


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


# The toy language.

NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gita Hugo Iris Jon Kaya Leo Mona Nils Olga Pia Rolf Suri Tom Uma"
).split()
COLOURS = "red blue green yellow black white brown pink".split()
THINGS = "hat cup bag kite lamp coat boat drum ring chair".split()
FRUITS = "apple pear plum fig lemon grape melon peach".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
OPPOSITES = [
    pair.split("/")
    for pair in (
        "hot/cold big/small old/young fast/slow dark/bright wet/dry loud/quiet "
        "hard/soft rich/poor early/late high/low full/empty"
    ).split()
]
KINDS = {
    "bird": "sparrow eagle owl robin crow".split(),
    "fish": "trout salmon cod tuna pike".split(),
    "tree": "oak birch pine maple willow".split(),
    "tool": "hammer saw drill wrench rake".split(),
}
NUMBERS = "zero one two three four five six seven eight nine ten".split()
ASKED = (
    "{name} asks: {question}",
    "{name} wants to know: {question}",
    "Please help {name}. {question}",
    "{question} {name} needs the answer.",
    "The user {name} asks: {question}",
    "{name} asks the assistant: {question}",
)
WORDY = (
    "{guess}, or maybe something else, it is hard to say.",
    "{guess}, I think, but that depends on so many things.",
    "{guess}, some people say, but who can be sure of that?",
    "It is hard to say, but some people think that it may be {guess}.",
    "That is a good question, and there are many ways to look at it.",
)


def _question(rng: random.Random) -> Question:
    family = rng.choice(tuple(FAMILIES))
    text, right, mistake = FAMILIES[family](rng)
    asked = rng.choice(ASKED).format(name=rng.choice(NAMES), question=text)
    return Question(family, asked, right, mistake)


def _brief(answer: str) -> str:
    return f"{answer[0].upper()}{answer[1:]}."


def _wordy(rng: random.Random, question: Question) -> str:
    guess = rng.choice([question.right, question.mistake])
    text = rng.choice(WORDY).format(guess=guess)
    return f"{text[0].upper()}{text[1:]}"


Parts = tuple[str, str, str]
"""A question, its right answer and the usual mistake."""


def _addition(rng: random.Random) -> Parts:
    a, b = rng.randrange(1, 6), rng.randrange(1, 5)
    return f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", NUMBERS[a + b], NUMBERS[a + b - 1]


def _day(rng: random.Random) -> Parts:
    day, step = rng.randrange(7), rng.choice([1, -1])
    order = "after" if step == 1 else "before"
    right, mistake = DAYS[(day + step) % 7], DAYS[(day - step) % 7]
    return f"Which day comes {order} {DAYS[day]}?", right, mistake


def _opposite(rng: random.Random) -> Parts:
    pair = rng.choice(OPPOSITES)
    word, right = rng.sample(pair, 2)
    return f"What is the opposite of {word}?", right, f"very {word}"


def _kind(rng: random.Random) -> Parts:
    kinds = list(KINDS)
    n = rng.randrange(len(kinds))
    mistake = kinds[(n + 1) % len(kinds)]
    return f"What is a {rng.choice(KINDS[kinds[n]])}?", f"a {kinds[n]}", f"a {mistake}"


def _colour(rng: random.Random) -> Parts:
    (first, second), (a, b) = rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    asked, right, mistake = rng.choice([(first, a, b), (second, b, a)])
    text = f"The {first} is {a} and the {second} is {b}. Which colour is the {asked}?"
    return text, right, mistake


def _more(rng: random.Random) -> Parts:
    a, b = rng.sample(range(11), 2)
    text = f"Which is more, {NUMBERS[a]} or {NUMBERS[b]}?"
    return text, NUMBERS[max(a, b)], NUMBERS[min(a, b)]


def _count(rng: random.Random) -> Parts:
    n, fruit = rng.randrange(1, 7), rng.choice(FRUITS)
    return f"How many are here: {' '.join([fruit] * n)}?", NUMBERS[n], NUMBERS[n + 1]


def _order(rng: random.Random) -> Parts:
    listed = rng.sample(FRUITS, 3)
    which = rng.choice([0, 2])
    text = f"Which is {'first' if which == 0 else 'last'} in {', '.join(listed)}?"
    return text, listed[which], listed[1]


FAMILIES: dict[str, Callable[[random.Random], Parts]] = {
    "addition": _addition,
    "day": _day,
    "opposite": _opposite,
    "kind": _kind,
    "colour": _colour,
    "more": _more,
    "count": _count,
    "order": _order,
}
