"""A reward model as judge: any sequence classifier with one label, or two of which one is named."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from study.config.canonical import digest
from study.data.tools import TOOLS
from study.errors import ConfigError, ModelError, first_line, nearest
from study.model.folder import fingerprint
from study.model.locate import locate
from study.release.judge.questions import Ahead, Opinion, Question, Turns, plain_prompt
from study.run.scores import chunks

MADE_HERE = "judge.json"
"""In a judge's folder: what `study judge --train` made it from."""

TOO_LONG, NO_TEMPLATE, NOT_FINITE = (
    "longer than the judge reads",
    "refused by its chat template",
    "reward not finite",
)

OFF = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""By how much, relative to 1 + its size, a reward in a batch may differ from the one alone."""

Encoded = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which reward model, and how it computes."""

    name: str
    """A folder or a Hub id."""
    revision: str = ""
    label: str = ""
    """Of a model with two labels: the one that means the better answer, by name or number."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    batch: int = 16
    device: str = "cpu"


@dataclass
class RewardJudge:
    """A loaded reward model; the answer with the higher reward wins."""

    slug: str
    name: str
    identity: str
    settings: dict[str, Any]
    trained_on: str | None
    model: Any
    tokenizer: Any
    longest: int
    """Tokens that it reads."""
    label: int | None
    batch: int
    kind: Literal["reward", "endpoint"] = "reward"
    spent: dict[str, float] = field(default_factory=dict)
    known: dict[tuple[Turns, str], float | str] = field(default_factory=dict)
    """(prompt, answer) -> its reward, or why it has none."""
    tried: bool = False
    """Whether batches were held against single answers."""

    def compare(self, questions: Sequence[Question]) -> list[Opinion]:
        """Return an opinion for every question, in order."""
        wanted = [(q.prompt, text) for q in questions for text in (q.first, q.second)]
        self._score([one for one in dict.fromkeys(wanted) if one not in self.known])
        return [self._opinion(one) for one in questions]

    def ahead(self, questions: Sequence[Question]) -> Ahead | None:
        """Return nothing: a local model costs time alone."""
        return None

    def _opinion(self, asked: Question) -> Opinion:
        a, b = (self.known[asked.prompt, text] for text in (asked.first, asked.second))
        if isinstance(a, str) or isinstance(b, str):
            return Opinion(
                won=None,
                parts=(None if isinstance(a, str) else a, None if isinstance(b, str) else b),
                missing=a if isinstance(a, str) else str(b),
            )
        return Opinion(won=0.5 if a == b else float(a > b), parts=(a, b))

    def _score(self, texts: Sequence[tuple[Turns, str]]) -> None:
        encoded = {one: self._encode(*one) for one in texts}
        for one, found in encoded.items():
            if isinstance(found, str):
                self.known[one] = found
        rows = {one: found for one, found in encoded.items() if not isinstance(found, str)}
        order = sorted(rows, key=lambda one: len(rows[one]["input_ids"]))
        if order and not self.tried:
            self._try_batching([rows[order[0]], rows[order[-1]]])
        for indices in chunks(range(len(order)), self.batch):
            for i, reward in zip(
                indices, self._rewards([rows[order[i]] for i in indices]), strict=True
            ):
                self.known[order[i]] = reward if math.isfinite(reward) else NOT_FINITE

    def _encode(self, prompt: Turns, answer: str) -> Encoded | str:
        """Return the tokens of a dialogue, or why there are none."""
        if self.tokenizer.chat_template:
            chat = [{"role": t.role, "content": t.content} for t in prompt if t.role != TOOLS]
            chat.append({"role": "assistant", "content": answer})
            try:
                ids = self.tokenizer.apply_chat_template(chat, return_dict=False)
            except Exception:  # noqa: BLE001 - foreign code may raise anything
                return NO_TEMPLATE
            found = {"input_ids": list(ids), "attention_mask": [1] * len(ids)}
        else:
            found = dict(self.tokenizer(plain_prompt(prompt), answer))
        return found if len(found["input_ids"]) <= self.longest else TOO_LONG

    def _rewards(self, rows: Sequence[Encoded]) -> list[float]:
        batch = (
            {key: torch.tensor([value]) for key, value in rows[0].items()}
            if len(rows) == 1
            else self.tokenizer.pad(
                {k: [row[k] for row in rows] for k in rows[0]}, return_tensors="pt"
            )
        )
        with torch.inference_mode():
            device = self.model.device
            logits = self.model(**{k: v.to(device) for k, v in batch.items()}).logits.float()
        if self.label is None:
            return [float(value) for value in logits[:, 0]]
        return [float(value) for value in logits[:, self.label] - logits[:, 1 - self.label]]

    def _try_batching(self, rows: Sequence[Encoded]) -> None:
        """Score one by one where padding changes a reward.

        A decoder's head reads the last token that is no padding; where padding is the
        end of the text too, or unknown to the model, that is another token in a batch.
        """
        self.tried = True
        if (
            self.batch == 1
            or self.model.config.pad_token_id is None
            or not self.tokenizer.pad_token
        ):
            self.batch = 1
            return
        alone = [self._rewards([row])[0] for row in rows]
        limit = OFF.get(self.model.dtype, OFF[torch.float32])
        together = self._rewards(rows)
        if any(abs(a - b) > limit * (1 + abs(a)) for a, b in zip(alone, together, strict=True)):
            self.batch = 1


def load_reward(wanted: Wanted) -> RewardJudge:
    """Load a reward model.

    Raises:
        ModelError: it cannot be loaded, its head was never trained, it has no
            tokenizer, or its labels are no reward.
        ConfigError: a label is asked for that it does not have.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = locate(_place(wanted.name)).path
    options: dict[str, Any] = {"revision": wanted.revision or "main", "trust_remote_code": False}
    on_cpu = wanted.device == "cpu"
    dtype = (
        "auto" if wanted.dtype == "auto" and not on_cpu else wanted.dtype.replace("auto", "float32")
    )
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            device_map={"": wanted.device},
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ModelError(
            f"cannot load {wanted.name!r} as a sequence classifier: {first_line(error)}; a reward "
            "model is a folder or Hub id with config.json and safetensors of an architecture that "
            "transformers knows for sequence classification"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"{wanted.name!r} has no trained head: {', '.join(missing[:3])} would be random; a "
            "language model is no judge, take one that was trained as a reward model"
        )
    label = _label(wanted, model.config)
    tokenizer = _tokenizer(AutoTokenizer, path, wanted.name, options)
    n_rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > n_rows:
        raise ModelError(
            f"the tokenizer of {wanted.name!r} has {len(tokenizer)} tokens and its model {n_rows}; "
            "they do not belong together"
        )
    identity = getattr(model.config, "_commit_hash", None) or fingerprint(Path(path))
    settings = {
        "labels": model.config.num_labels,
        "label": None if label is None else model.config.id2label[label],
        "dtype": str(model.dtype).removeprefix("torch."),
        "chat_template": bool(tokenizer.chat_template),
    }
    short = Path(wanted.name).name if Path(wanted.name).is_dir() else wanted.name.replace("/", "--")
    made = Path(path) / MADE_HERE
    return RewardJudge(
        slug=f"{short}-{digest([identity, settings])[:8]}",
        name=Path(wanted.name).name if Path(wanted.name).is_dir() else wanted.name,
        identity=identity,
        settings=settings,
        trained_on=json.loads(made.read_text())["trained_on"] if made.is_file() else None,
        model=model.eval(),
        tokenizer=tokenizer,
        longest=_longest(model.config, tokenizer),
        label=label,
        batch=wanted.batch,
    )


def _place(name: str) -> str:
    """Return a folder's absolute path, or the Hub id that a name is."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


def _label(wanted: Wanted, config: Any) -> int | None:
    """Return which of two labels means the better answer; None where there is one."""
    names = {int(number): str(name) for number, name in config.id2label.items()}
    if len(names) == 1:
        if wanted.label:
            raise ConfigError(f"{wanted.name!r} has one label, its reward; leave out --label")
        return None
    if len(names) > 2:
        raise ModelError(
            f"{wanted.name!r} has {len(names)} labels ({', '.join(list(names.values())[:5])}); a "
            "judge has one, its reward, or two of which one means the better answer"
        )
    said = {**{str(number): number for number in names}, **{v: k for k, v in names.items()}}
    if wanted.label not in said:
        listed = " or ".join(names.values())
        raise ConfigError(
            f"{wanted.name!r} has two labels; say which means the better answer: --label {listed}"
            + (nearest(wanted.label, said) if wanted.label else "")
        )
    return said[wanted.label]


def _tokenizer(loader: Any, path: str, name: str, options: dict[str, Any]) -> Any:
    try:
        found = loader.from_pretrained(path, **options)
    except Exception as error:
        raise ModelError(
            f"{name!r} has no tokenizer that can be read: {first_line(error)}; save its tokenizer "
            "into the same folder"
        ) from error
    if not len(found):
        raise ModelError(f"the tokenizer of {name!r} is empty; save its own into the same folder")
    return found


def _longest(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a model reads; many tokenizers say that they do not know."""
    known = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    return min(int(n) for n in (*known, 1_000_000) if n and n > 0)
