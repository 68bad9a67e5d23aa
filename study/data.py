"""Preference pairs: rows in any known form, validated, split by prompt cluster.

Rows come from a file, a folder, the Hub or the toy language. `FORMS` recognises
them by their columns and turns each row into two whole dialogues; one function
then cuts both before their last answer. A row that cannot be used is dropped
under a reason, with its number counted from 1; blank lines are not counted.
"""

import csv
import gzip
import io
import json
import os
import re
import sys
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from study.config import DataConfig, digest
from study.errors import DataError

Row = Mapping[str, Any]
SIDES = ("chosen", "rejected")
ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
}
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
OPENING = re.compile(r"\s*Human:")
INVISIBLE = re.compile(
    "[\\s\\x00-\\x1f\\x7f-\\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u2069\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0]+"
)
"""Characters that leave no mark: space, controls, zero width, writing direction."""
SHOWN_ROWS = 8
"""Row numbers that a message lists per reason."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a preferred and a dispreferred answer."""

    prompt: tuple[Message, ...]
    """Every turn before the answer; the last one is the user's."""
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    cluster_id: str
    """Equal for prompts with the same opening; never on two sides of a split."""
    source: str
    example_id: str
    """Names the content: prompt, chosen and rejected."""
    answer: str | None = None
    """The known right answer, for exact match; the toy language alone has one."""


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """The usable pairs of a source, and what became of its other rows."""

    pairs: tuple[Pair, ...]
    form: str
    n_rows: int
    dropped: Mapping[str, tuple[int, ...]]
    """Reason -> numbers of the rows dropped for it, counted from 1."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Three sets of pairs that share no prompt cluster and no example."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def __post_init__(self) -> None:
        """Refuse splits that overlap."""
        for first, second in combinations(("train", "validation", "test"), 2):
            for field in ("cluster_id", "example_id"):
                a, b = (
                    {getattr(pair, field) for pair in getattr(self, name)}
                    for name in (first, second)
                )
                if a & b:
                    raise DataError(
                        f"{first} and {second} share {len(a & b)} values of {field}, e.g. "
                        f"{min(a & b)}; split the pairs by prompt cluster"
                    )


def load_pairs(config: DataConfig) -> LoadedPairs:
    """Read every usable pair of a source and count the rows that are not.

    Raises:
        DataError: the source cannot be read, its form is not known, or more
            than ``max_dropped_share`` of its rows cannot be used.
    """
    if config.name == "toy":
        from study.toy import toy_pairs

        toy = tuple(toy_pairs(seed=config.seed))
        return LoadedPairs(toy, form="toy", n_rows=len(toy), dropped={})
    rows = read_rows(config)
    if not rows:
        raise DataError(f"{config.name} has no rows; name a source that has some")
    form = recognise(rows, config.name)
    loaded = _convert(rows, form, _source_name(config.name))
    _check_dropped(loaded, config)
    return loaded


def split_pairs(pairs: Iterable[Pair], config: DataConfig) -> Splits:
    """Deal whole prompt clusters to test, validation and train, in this order.

    The order of clusters depends on the seed and their ids alone. What the last
    cluster of a split holds beyond the size asked for is left out of all.

    Raises:
        DataError: there are too few pairs for the sizes asked for.
    """
    pairs = tuple(pairs)
    clusters: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        clusters[pair.cluster_id].append(pair)
    order = sorted(clusters, key=lambda name: (digest([config.seed, name]), name))
    queue = [sorted(clusters[name], key=lambda pair: pair.example_id) for name in reversed(order)]
    test = _deal(queue, config.test_pairs)
    validation = _deal(queue, config.validation_pairs)
    train = _deal(queue, config.train_pairs or len(pairs))
    if (
        len(test) < config.test_pairs
        or len(validation) < config.validation_pairs
        or len(train) < max(config.train_pairs, 1)
    ):
        raise DataError(
            f"{config.name} has {len(pairs)} usable pairs in {len(clusters)} prompt clusters, "
            f"too few for {config.test_pairs} test, {config.validation_pairs} validation and "
            f"{config.train_pairs or 'at least 1'} train pairs (clusters stay whole); ask for "
            "fewer with --set data.train_pairs=N (0 is all the rest), "
            "--set data.validation_pairs=N or --set data.test_pairs=N"
        )
    return Splits(train, validation, test)


def fingerprint(pairs: Iterable[Pair]) -> str:
    """Return the SHA-256 of the pairs' ids and content, in any order."""
    return digest(
        sorted(
            [pair.example_id, pair.cluster_id, pair.source, pair.answer or "", _content(pair)]
            for pair in pairs
        )
    )


def make_pair(
    *,
    prompt: tuple[Message, ...],
    chosen: tuple[Message, ...],
    rejected: tuple[Message, ...],
    source: str,
    answer: str | None = None,
) -> Pair:
    """Build a pair; its ids follow from its content."""
    asked = [turn for turn in prompt if turn.role == "user"] or list(prompt)
    opening = [[turn.role, _opening(turn.content)] for turn in asked[:1]]
    content = [_plain(part) for part in (prompt, chosen, rejected)]
    return Pair(
        prompt, chosen, rejected, digest(opening)[:16], source, digest(content)[:16], answer
    )


def _opening(text: str) -> str:
    """Return what a prompt and its near copies share: its words as a reader sees them."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(INVISIBLE.sub(" ", text.casefold()).split())


def dropped_lines(dropped: Mapping[str, Sequence[int]]) -> list[str]:
    """Describe dropped rows, one line per reason, the most frequent first."""
    return [
        f"{reason}: {len(rows)} (row{'s' * (len(rows) > 1)} "
        f"{', '.join(map(str, rows[:SHOWN_ROWS]))}{', …' * (len(rows) > SHOWN_ROWS)})"
        for reason, rows in sorted(dropped.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _deal(queue: list[list[Pair]], n_pairs: int) -> tuple[Pair, ...]:
    taken: list[Pair] = []
    while queue and len(taken) < n_pairs:
        taken += queue.pop()
    return tuple(taken[:n_pairs])


def _plain(messages: Iterable[Message]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def _content(pair: Pair) -> list[list[list[str]]]:
    return [_plain(part) for part in (pair.prompt, pair.chosen, pair.rejected)]


# Rows -> pairs


class _Unusable(Exception):  # noqa: N818 - its text is the reason, not an error to print
    """A row cannot become a pair; the text is the reason it is counted under."""


Dialogues = tuple[list[Message], list[Message]]
"""The whole conversation that ends in the chosen and in the rejected answer."""


def _convert(rows: Sequence[Any], form: "Form", source: str) -> LoadedPairs:
    pairs: dict[str, Pair] = {}
    dropped: dict[str, list[int]] = defaultdict(list)
    columns = _columns(rows)
    for number, row in enumerate(rows, start=1):
        try:
            other = _form_of(row, columns)
            if other and other.convert is not form.convert and not form.begins_as:
                raise _Unusable(f"a row of another form: {other.name}")  # noqa: TRY301
            pair = _to_pair(row, form, source)
            if pair.example_id in pairs:
                raise _Unusable("duplicate pair")  # noqa: TRY301 - one place counts them all
            pairs[pair.example_id] = pair
        except _Unusable as reason:
            dropped[str(reason)].append(number)
    counts = {reason: tuple(numbers) for reason, numbers in dropped.items()}
    return LoadedPairs(tuple(pairs.values()), form=form.name, n_rows=len(rows), dropped=counts)


def _check_dropped(loaded: LoadedPairs, config: DataConfig) -> None:
    n_dropped = loaded.n_rows - len(loaded.pairs)
    if loaded.pairs and n_dropped <= config.max_dropped_share * loaded.n_rows:
        return
    reasons = "".join(f"\n  {line}" for line in dropped_lines(loaded.dropped))
    raise DataError(
        f"{n_dropped} of {loaded.n_rows} rows of {config.name}, read as {loaded.form}, cannot be "
        f"used; data.max_dropped_share allows {config.max_dropped_share:.0%}:{reasons}\n"
        "mend these rows, or allow more with --set data.max_dropped_share=SHARE"
    )


def _to_pair(row: Any, form: "Form", source: str) -> Pair:
    """Convert one row.

    Raises:
        _Unusable: the row is not a pair; the text says why.
    """
    if not isinstance(row, dict):
        raise _Unusable("not a record with one value per column")
    (*prompt, chosen), (*rejected_prompt, rejected) = (
        _with_system(row, dialogue) for dialogue in form.convert(row)
    )
    if any(answer.role != "assistant" for answer in (chosen, rejected)):
        raise _Unusable("last turn is not the assistant's")
    if prompt != rejected_prompt:
        raise _Unusable("prompts differ between the sides")
    if not prompt or any(_is_empty(turn) for turn in prompt):
        raise _Unusable("empty prompt, or an empty turn in it")
    if any(turn.role == "system" for turn in prompt[1:]):
        raise _Unusable("a system turn that is not the first turn")
    if prompt[-1].role != "user":
        raise _Unusable("turn before the answer is not the user's")
    for side, answer in zip(SIDES, (chosen, rejected), strict=True):
        if _is_empty(answer):
            raise _Unusable(f"empty answer in {side}")
    if chosen.content.strip() == rejected.content.strip():
        raise _Unusable("chosen equals rejected")
    named = row.get("source")
    return make_pair(
        prompt=tuple(prompt),
        chosen=(chosen,),
        rejected=(rejected,),
        source=_text(named, "source") if isinstance(named, str) and named else source,
    )


def _is_empty(turn: Message) -> bool:
    return not INVISIBLE.sub("", turn.content)


def _with_system(row: Row, dialogue: list[Message]) -> list[Message]:
    """Put the column ``system`` first, where a dialogue has no such turn."""
    if row.get("system") and not any(turn.role == "system" for turn in dialogue):
        dialogue = [*_turns(row, "system", "system"), *dialogue]
    dialogue = [turn for turn in dialogue if turn.role != "system" or turn.content.strip()]
    if not dialogue:
        raise _Unusable("no turns")
    return dialogue


def _texts(row: Row) -> Dialogues:
    return _both(row, _turns(row, "prompt", "user"))


def _explicit(row: Row) -> Dialogues:
    """Join prompt and answers; answers that repeat the prompt are whole already."""
    prompt = _turns(row, "prompt", "user")
    chosen, rejected = (_turns(row, side, "assistant") for side in SIDES)
    n = len(prompt)
    if chosen[:n] == prompt == rejected[:n]:
        return chosen, rejected
    return [*prompt, *chosen], [*prompt, *rejected]


def _dialogues(row: Row) -> Dialogues:
    """Take whole dialogues; bare answers are put after the text of ``prompt``."""
    chosen, rejected = (_turns(row, side, "assistant") for side in SIDES)
    if "prompt" in row and all(
        turns and turns[0].role == "assistant" for turns in (chosen, rejected)
    ):
        return _both(row, _turns(row, "prompt", "user"))
    return chosen, rejected


def _transcripts(row: Row) -> Dialogues:
    """Read transcripts; a column ``prompt`` holds the part that both share."""
    shared = _text(row["prompt"], "prompt") if "prompt" in row else ""
    chosen, rejected = (_transcript(shared + _text(row.get(side), side)) for side in SIDES)
    return chosen, rejected


def _transcript(text: str) -> list[Message]:
    head, marker, answer = text.rpartition(ASSISTANT)
    if not marker:
        raise _Unusable("transcript has no assistant turn")
    if HUMAN in answer:
        raise _Unusable("last turn is not the assistant's")
    if not OPENING.match(head):
        raise _Unusable("transcript does not begin with 'Human:'")
    parts = re.split(r"\n\n(Human|Assistant):", "\n\n" + head.lstrip())[1:]
    turns = [
        Message(ROLES["human" if who == "Human" else "assistant"], content.strip())
        for who, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return [*turns, Message("assistant", answer.strip())]


def _sharegpt(row: Row) -> Dialogues:
    return _both(row, _turns(row, "conversations", "user"))


def _alpaca(row: Row) -> Dialogues:
    """Join instruction and input by a newline, as LLaMA-Factory does."""
    parts = [_text(row.get("instruction"), "instruction"), _text(row.get("input") or "", "input")]
    prompt = "\n".join(part for part in parts if part.strip())
    if row.get("history") not in (None, "", "[]", []):
        raise _Unusable("earlier turns in 'history'; give the row as conversations")
    return _both(row, [Message("user", prompt)])


def _orca(row: Row) -> Dialogues:
    return _both(row, _turns(row, "question", "user"))


def _shared_beginning(row: Row) -> Dialogues:
    """Take as prompt the words with which both texts begin, as TRL does."""
    chosen, rejected = (_text(row.get(side), side) for side in SIDES)
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - characters are meant
    *_, last = ["", *shared.rsplit(maxsplit=1)]
    n = len(shared) - (len(last) if shared.endswith(last) else 0)
    prompt = Message("user", chosen[:n].strip())
    return (
        [prompt, Message("assistant", chosen[n:])],
        [prompt, Message("assistant", rejected[n:])],
    )


def _both(row: Row, prompt: list[Message]) -> Dialogues:
    chosen, rejected = ([*prompt, *_turns(row, side, "assistant")] for side in SIDES)
    return chosen, rejected


def _turns(row: Row, column: str, role: str) -> list[Message]:
    """Read text as one turn of ``role``, or one turn or a list of turns as it stands."""
    value = row.get(column)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return [Message(role, _text(value, column))]
    return [_message(turn, column) for turn in value]


def _message(turn: Any, column: str) -> Message:
    if not isinstance(turn, dict):
        raise _Unusable(f"a turn in {column} is not a role with a content")
    role = ROLES.get(_text(turn.get("role", turn.get("from")), f"role in {column}").lower())
    if role is None:
        raise _Unusable(f"unknown role in {column} (known: {', '.join(ROLES)})")
    return Message(role, _text(turn.get("content", turn.get("value")), column))


def _text(value: Any, column: str) -> str:
    if value is None:
        raise _Unusable(f"missing {column}")
    if not isinstance(value, str):
        raise _Unusable(f"{column} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unusable(f"{column} is not text (lone surrogates)") from None
    if PRINTED_TURNS.match(value):
        raise _Unusable(f"{column} is a list of turns printed by Python; write it as JSON")
    if _parse_turns(value) is not None:
        raise _Unusable(f"{column} is a list of turns inside a text; write it as a list")
    return value


PRINTED_TURNS = re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'")
WRITTEN_TURNS = re.compile(r'\s*(\[\s*)?\{\s*"(role|content|from|value)"')


def _parse_turns(text: str) -> Any:
    """Return the turn or the turns that a text holds as JSON, or None."""
    if not WRITTEN_TURNS.match(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    turns = value if isinstance(value, list) else [value]
    are_turns = all(
        isinstance(turn, dict)
        and ({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys())
        for turn in turns
    )
    return value if are_turns else None


# Forms


@dataclass(frozen=True, kw_only=True)
class Form:
    """A known layout of columns and how one of its rows is read."""

    name: str
    columns: Mapping[str, type | tuple[type, ...]]
    """Column -> type of its values; all of them must be there."""
    convert: Callable[[Row], Dialogues]
    begins_as: re.Pattern[str] | None = None
    """What the text of the row, from ``prompt`` or else ``chosen`` on, begins with."""
    without: frozenset[str] = frozenset()
    """Columns that this form cannot have, as it would lose what they hold."""

    def fits(self, sample: Row) -> bool:
        """Tell whether the columns, each with one of its values, are of this form."""
        return (
            all(isinstance(sample.get(name), kind) for name, kind in self.columns.items())
            and not self.without & sample.keys()
            and (
                self.begins_as is None
                or self._begins(
                    sample["chosen"] if sample.get("prompt") is None else sample["prompt"]
                )
            )
        )

    def _begins(self, text: Any) -> bool:
        assert self.begins_as is not None
        return isinstance(text, str) and bool(self.begins_as.match(text))


TEXTS: Mapping[str, type] = {"chosen": str, "rejected": str}
LISTS: Mapping[str, type] = {"chosen": list, "rejected": list}
FORMS = (
    Form(
        name="ShareGPT (conversations, chosen, rejected)",
        columns={"conversations": list} | dict.fromkeys(SIDES, (dict, list, str)),
        convert=_sharegpt,
    ),
    Form(
        name="HH-RLHF transcripts (chosen, rejected)",
        columns=TEXTS,
        convert=_transcripts,
        begins_as=OPENING,
    ),
    Form(
        name="TRL preference, conversational (prompt, chosen, rejected)",
        columns={"prompt": (list, dict)} | dict.fromkeys(SIDES, (dict, list, str)),
        convert=_explicit,
    ),
    Form(
        name="whole dialogues (prompt, chosen, rejected)",
        columns={"prompt": str, **LISTS},
        convert=_dialogues,
    ),
    Form(
        name="TRL preference, text (prompt, chosen, rejected)",
        columns={"prompt": str, **TEXTS},
        convert=_texts,
    ),
    Form(
        name="Alpaca-style (instruction, input, chosen, rejected)",
        columns={"instruction": str, **TEXTS},
        convert=_alpaca,
    ),
    Form(
        name="orca (system, question, chosen, rejected)",
        columns={"question": str, **TEXTS},
        convert=_orca,
    ),
    Form(
        name="TRL preference, conversational, implicit prompt (chosen, rejected)",
        columns=LISTS,
        convert=_dialogues,
    ),
    Form(
        name="TRL preference, text, implicit prompt (chosen, rejected)",
        columns=TEXTS,
        convert=_shared_beginning,
        without=frozenset(
            "prompt question instruction input query context history messages".split()
        )
        | {"conversation", "conversations"},
    ),
)
"""Every known form; the first that fits is taken."""


def recognise(rows: Sequence[Any], name: str) -> Form:
    """Find the form of most rows by their columns and the types of the values.

    Raises:
        DataError: no form fits, or the rows hold single answers with a label.
    """
    sample = _columns(rows)
    votes = Counter(form.name for row in rows if (form := _form_of(row, sample)) is not None)
    if votes:
        winner = max(votes, key=votes.__getitem__)
        return next(form for form in FORMS if form.name == winner)
    columns = ", ".join(f"{column} ({type(value).__name__})" for column, value in sample.items())
    if {"completion", "label"} <= sample.keys():
        raise DataError(
            f"{name} holds unpaired answers (columns {columns}); ORPO needs a chosen and a "
            "rejected answer per prompt: join good and bad completions of a prompt into one row"
        )
    known = "".join(f"\n  {form.name}" for form in FORMS)
    raise DataError(
        f"{name} has columns {columns or '(none)'}, which are of no known form; "
        f"rename them to one of:{known}"
    )


def _columns(rows: Iterable[Any]) -> dict[str, Any]:
    """Return every column of the rows with its first value that is not null."""
    sample: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict):
            for column, value in row.items():
                if sample.get(column) is None:
                    sample[column] = value
    return sample


def _form_of(row: Any, columns: Iterable[str]) -> Form | None:
    """Return the form of one row; a column that it leaves out counts as null."""
    if not isinstance(row, dict):
        return None
    whole = {**dict.fromkeys(columns), **row}
    return next((form for form in FORMS if form.fits(whole)), None)


# Sources -> rows

SUFFIX = re.compile(r"\.(parquet|jsonl|json|csv)(\.gz)?$", re.IGNORECASE)
SHARD = re.compile(r"-\d+-of-(\d+)")


def read_rows(config: DataConfig) -> list[Any]:
    """Read all rows of a local file, a local folder or a Hub dataset.

    Raises:
        DataError: there is no such source, or it cannot be read; the message
            names the file and the line where one is known.
    """
    path = _local_path(config.name)
    try:
        is_folder, is_file = bool(config.name) and path.is_dir(), path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_folder = is_file = False
    if is_folder:
        saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
        return _read_saved(path, config) if saved else _read_folder(path, config.split)
    if is_file:
        return _read_file(path)
    if not re.fullmatch(r"[\w-][\w.-]{0,95}(/[\w.-]{1,96})?", config.name) or SUFFIX.search(
        config.name
    ):
        raise DataError(
            f"there is no file or folder {config.name[:200]!r}, and it is no Hub dataset id; "
            "data.name takes a path, an id such as mlabonne/orpo-dpo-mix-40k, or 'toy'"
        )
    return _read_hub(config)


def _read_hub(config: DataConfig) -> list[Any]:
    import datasets

    try:
        found = datasets.load_dataset(
            config.name, revision=config.revision or None, split=config.split or None
        )
    except Exception as error:  # a download fails in ways of many libraries
        raise DataError(
            f"cannot load {config.name} (revision {config.revision or 'newest'!r}, split "
            f"{config.split!r}) from the Hub: {type(error).__name__}: {error}; check id, revision, "
            "split and network, or give a local file with --set data.name=FILE"
        ) from error
    return _choose_split(found, config)


def _read_saved(path: Path, config: DataConfig) -> list[Any]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged folders fail in ways of many libraries
        raise DataError(
            f"cannot read the saved dataset {path}: {type(error).__name__}: {error}; save it again "
            "with save_to_disk"
        ) from error
    return _choose_split(found, config)


def _choose_split(found: Any, config: DataConfig) -> list[Any]:
    if not isinstance(found, dict):
        return list(found.to_list())
    return list(found[_pick(list(found), config.split, config.name)].to_list())


def _read_folder(folder: Path, split: str) -> list[Any]:
    """Read one split of a folder in the Hub's layout, in the order of its shards."""
    files = sorted(
        path
        for path in (*folder.iterdir(), *(folder / "data").glob("*"))
        if path.is_file() and SUFFIX.search(path.name) and path.name != "dataset_infos.json"
    )
    splits: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        splits[SUFFIX.sub("", path.name).split("-")[0]].append(path)
    shards = splits[_pick(list(splits), split, str(folder))]
    if (numbered := SHARD.search(shards[0].name)) and len(shards) != int(numbered[1]):
        raise DataError(
            f"{folder} has {len(shards)} of {numbered[1]} shards, the first being "
            f"{shards[0].name}; download the missing ones"
        )
    return [row for path in shards for row in _read_file(path)]


def _pick(available: Sequence[str], asked: str, name: str) -> str:
    if asked in available:
        return asked
    if not asked and len(available) == 1:
        return available[0]
    raise DataError(
        f"{name} has no split {asked!r}; it has {', '.join(available) or 'no data files'}; "
        "choose one with --set data.split=SPLIT"
    )


def _read_file(path: Path) -> list[Any]:
    suffix = SUFFIX.search(path.name)
    if suffix is None:
        raise DataError(
            f"{path} is of no known type; files end in .json, .jsonl, .csv or .parquet, "
            "each also with .gz"
        )
    return _READERS[suffix[1].lower()](path, _read_bytes(path))


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; copy or download it again") from error
    if content.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer, not the file; fetch it with 'git lfs pull'")
    return content


def _decode(path: Path, content: bytes) -> str:
    if content[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise DataError(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from error
    if (position := text.find("\0")) >= 0:
        line = text.count("\n", 0, position) + 1
        raise DataError(f"{path}, line {line}: a NUL byte; the file is damaged or not UTF-8 text")
    return text


def _read_json(path: Path, content: bytes) -> list[Any]:
    """Read a list of records; a file that is no list is taken as JSON Lines."""
    text = _decode(path, content)
    if not text.lstrip().startswith("["):
        return _read_jsonl(path, content)
    return list(_parse_json(path, text, first_line=1))


def _read_jsonl(path: Path, content: bytes) -> list[Any]:
    # Not str.splitlines: U+2028 and its like may stand inside a JSON string.
    lines = _decode(path, content).split("\n")
    return [
        _parse_json(path, line, first_line=number)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parse_json(path: Path, text: str, *, first_line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        what = getattr(error, "msg", str(error))
        raise DataError(
            f"{path}, line {line}: not JSON ({what}); a .json file is one list of records, "
            "a .jsonl file one record per line"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, but refuse one that gives a key two values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"key {twice!r} twice in one object")
    return made


def _read_csv(path: Path, content: bytes) -> list[Any]:
    """Read records under a header; a row of another width is kept as a list."""
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(_decode(path, content), newline=""), strict=True)
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV ({error}); fields with quotes, commas or "
            "line breaks must be quoted"
        ) from error
    finally:
        csv.field_size_limit(limit)
    _require_distinct(path, header)
    return [
        dict(zip(header, map(_csv_value, row), strict=True)) if len(row) == len(header) else row
        for row in rows
    ]


def _csv_value(field: str) -> Any:
    """Read a field that holds turns as JSON; any other is text."""
    turns = _parse_turns(field)
    return field if turns is None else turns


def _read_parquet(path: Path, content: bytes) -> list[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(pa.BufferReader(content)).read()
        _require_distinct(path, table.column_names)
        return list(table.to_pylist())
    except DataError:
        raise
    except Exception as error:  # damaged files fail in many ways
        what = _first_line(error)
        raise DataError(f"cannot read {path} as Parquet: {what}; write it again") from error


def _require_distinct(path: Path, columns: Sequence[str]) -> None:
    if len(set(columns)) < len(columns):
        raise DataError(f"{path} names a column twice; rename one of them")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


_READERS: Mapping[str, Callable[[Path, bytes], list[Any]]] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}


def _source_name(name: str) -> str:
    """Name a source without the folders of the machine it lies on."""
    path = _local_path(name)
    return path.resolve().name if path.exists() else name


def _local_path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # '~name' of no known user is an ordinary name
        return Path(name)
