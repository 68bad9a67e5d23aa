"""Preference pairs: rows in any known form, validated, split by prompt cluster.

Rows come from a file, a folder, the Hub or the toy language. `FORMS` recognises
them by their columns and turns each row into two whole dialogues; one function
then cuts both before their last answer. A row that cannot be used is dropped
under a reason, with its number counted from 1; blank lines are not counted.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.data.files import PRINTED_TURNS, parse_turns
from study.data.pairs import INVISIBLE, Message, Pair, make_pair
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


# Rows -> pairs


class Unusable(Exception):  # noqa: N818 - its text is the reason, not an error to print
    """A row cannot become a pair; the text is the reason it is counted under."""


Dialogues = tuple[list[Message], list[Message]]
"""The whole conversation that ends in the chosen and in the rejected answer."""


def to_pair(row: Any, form: "Form", source: str) -> Pair:
    """Convert one row.

    Raises:
        Unusable: the row is not a pair; the text says why.
    """
    if not isinstance(row, dict):
        raise Unusable("not a record with one value per column")
    (*prompt, chosen), (*rejected_prompt, rejected) = (
        _with_system(row, dialogue) for dialogue in form.convert(row)
    )
    if any(answer.role != "assistant" for answer in (chosen, rejected)):
        raise Unusable("last turn is not the assistant's")
    if prompt != rejected_prompt:
        raise Unusable("prompts differ between the sides")
    if not prompt or any(_is_empty(turn) for turn in prompt):
        raise Unusable("empty prompt, or an empty turn in it")
    if any(turn.role == "system" for turn in prompt[1:]):
        raise Unusable("a system turn that is not the first turn")
    if prompt[-1].role != "user":
        raise Unusable("turn before the answer is not the user's")
    for side, answer in zip(SIDES, (chosen, rejected), strict=True):
        if _is_empty(answer):
            raise Unusable(f"empty answer in {side}")
    if chosen.content.strip() == rejected.content.strip():
        raise Unusable("chosen equals rejected")
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
        raise Unusable("no turns")
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
        raise Unusable("transcript has no assistant turn")
    if HUMAN in answer:
        raise Unusable("last turn is not the assistant's")
    if not OPENING.match(head):
        raise Unusable("transcript does not begin with 'Human:'")
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
        raise Unusable("earlier turns in 'history'; give the row as conversations")
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
        raise Unusable(f"a turn in {column} is not a role with a content")
    role = ROLES.get(_text(turn.get("role", turn.get("from")), f"role in {column}").lower())
    if role is None:
        raise Unusable(f"unknown role in {column} (known: {', '.join(ROLES)})")
    return Message(role, _text(turn.get("content", turn.get("value")), column))


def _text(value: Any, column: str) -> str:
    if value is None:
        raise Unusable(f"missing {column}")
    if not isinstance(value, str):
        raise Unusable(f"{column} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unusable(f"{column} is not text (lone surrogates)") from None
    if PRINTED_TURNS.match(value):
        raise Unusable(f"{column} is a list of turns printed by Python; write it as JSON")
    if parse_turns(value) is not None:
        raise Unusable(f"{column} is a list of turns inside a text; write it as a list")
    return value


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
    sample = columns_of(rows)
    votes = Counter(form.name for row in rows if (form := form_of(row, sample)) is not None)
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


def columns_of(rows: Iterable[Any]) -> dict[str, Any]:
    """Return every column of the rows with its first value that is not null."""
    sample: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict):
            for column, value in row.items():
                if sample.get(column) is None:
                    sample[column] = value
    return sample


def form_of(row: Any, columns: Iterable[str]) -> Form | None:
    """Return the form of one row; a column that it leaves out counts as null."""
    if not isinstance(row, dict):
        return None
    whole = {**dict.fromkeys(columns), **row}
    return next((form for form in FORMS if form.fits(whole)), None)
