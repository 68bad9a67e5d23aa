"""Values of a row as turns: texts, messages, transcripts, and how an answer follows a prompt."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study.data.pairs import VISIBLE, Message, squeezed
from study.data.tools import TOOLS, tool_name

Row = Mapping[str, Any]


ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai"),
        "assistant",
    ),
}


CALL_ROLES = {"tool", "function", "function_call", "tool_call", "tool_response", "observation"}


CALLS = ("tool_calls", "function_call")
"""Keys of a turn that calls a tool."""


SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "sys_prompt")
"""Columns that hold a system turn."""


PLACES = ("path", "paths", "url", "urls", "file")


PICTURES = (
    *("images", "image", "videos", "video", "audios", "audio"),
    *(f"{kind}_{what}" for kind in ("image", "video", "audio") for what in PLACES),
    *("pictures", "picture", "img", "pixel_values"),
)
"""Columns of what only a model with other senses can take in."""


PLACED = re.compile(r"\s*<(image|video|audio)>|.*\n\s*<(image|video|audio)>\s*$", re.DOTALL)
"""A text that begins or ends with the place of a picture, as LLaVA and ms-swift mark it."""


TEXT_PARTS = {"text", "input_text", "output_text"}
"""Types of the parts of a content that are text, the last two OpenAI's."""


CALL_PARTS = {"tool_use", "tool_result", "tool_call", "function_call"}


HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


OPENING = re.compile(r"\s*Human:")


PRINTED = re.compile(r"\s*+(?:\[\s*+)?\{\s*+'[^']*+'\s*+:")
"""Dictionaries as Python prints them; JSON has double quotes."""


WRITTEN = re.compile(r'\s*+[\[{][\s\[{]*+"')


class Unusable(Exception):  # noqa: N818 - its text is the reason, not an error to print
    """A row cannot become a pair; the text is the reason it is counted under."""


# Values -> turns


def read_turns(value: Any, column: str, role: str) -> list[Message]:
    """Read text as one turn of ``role``, or one turn or a list of turns as it stands.

    Raises:
        Unusable: it is none of these, or holds what is no text.
    """
    if isinstance(value, dict):
        inner = value.get("messages")
        value = inner if isinstance(inner, list) else [value]
    if not isinstance(value, list):
        return [Message(role, text_of(value, column))]
    return [_message(turn, column) for turn in value]


def _message(turn: Any, column: str) -> Message:
    if not isinstance(turn, dict):
        raise Unusable(f"a turn in {column} is not a role with a content")
    named = text_of(turn.get("role", turn.get("from")), f"role in {column}").strip().lower()
    if named in CALL_ROLES or any(map(turn.get, CALLS)):
        raise Unusable(f"a call of a tool in {column}, which cannot be used")
    role = ROLES.get(named)
    if role is None:
        raise Unusable(f"unknown role in {column} (known: {', '.join(ROLES)})")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, (list, dict)):
        parts = content if isinstance(content, list) else [content]
        return Message(role, "".join(_part(part, column) for part in parts))
    return Message(role, text_of(content, column))


def _part(part: Any, column: str) -> str:
    """Return the text of one part of a content, e.g. ``{"type": "text", "text": …}``."""
    if not isinstance(part, dict):
        return text_of(part, column)
    kind = part.get("type", "text")
    if kind in CALL_PARTS:
        raise Unusable(f"a call of a tool in {column}, which cannot be used")
    if kind not in TEXT_PARTS:
        raise Unusable(f"images or other parts that are no text in {column}")
    return text_of(part.get("text"), column)


def text_of(value: Any, column: str) -> str:
    """Return a value that is plain text.

    Raises:
        Unusable: it is not.
    """
    if value is None:
        raise Unusable(f"missing {column}")
    if not isinstance(value, str):
        raise Unusable(f"{column} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unusable(f"{column} is not text (lone surrogates)") from None
    if PRINTED.match(value) and re.search(r"'(content|value)'\s*:", value):
        raise Unusable(f"{column} is a list of turns printed by Python; write it as JSON")
    if parse_turns(value) is not None:
        raise Unusable(f"{column} is a list of turns inside a text; write it as a list")
    return value


def parse_turns(text: str) -> Any:
    """Return the turn, the turns or the object of messages that a text holds as JSON, or None."""
    if not WRITTEN.match(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    turns = value if isinstance(value, list) else [value]
    if len(turns) == 1 and isinstance(turns[0], dict) and "messages" in turns[0]:
        inner = turns[0]["messages"]
        turns = inner if isinstance(inner, list) else []
    return value if turns and all(map(is_turn, turns)) else None


def is_turn(value: Any) -> bool:
    """Tell whether a value is a role with a content, whatever other keys it has."""
    return isinstance(value, dict) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )


def transcript(text: str) -> list[Message]:
    """Read ``Human: … Assistant: …``; the last turn is the assistant's.

    Raises:
        Unusable: it does not begin or end so.
    """
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


# Prompts


def asked(row: Row, column: str) -> list[Message]:
    """Read the turns before the answer; a text takes in what other columns say of it.

    ``history`` and turns in ``context`` come before it, a text in ``context`` above
    it, and ``input`` below it, each unless it says the same.
    """
    text = row.get(column)
    if not isinstance(text, str) or column == "history":
        turns = read_turns(text, column, "user")
    elif OPENING.match(text) and text.rstrip().endswith(ASSISTANT.strip()):
        turns = transcript(text)[:-1]
    else:
        (turn,) = read_turns(text, column, "user")
        said = turn.content
        if column != "context":
            context = _beside(row, "context")
            said = _together(said, context, f"{context}\n\n{said}")
        if column != "input":  # a newline, as in LLaMA-Factory
            given = _beside(row, "input")
            said = _together(said, given, f"{said}\n{given}")
        turns = [*_history(row), Message("user", said)]
    return turns


def _beside(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if not value or _are_turns(value) else text_of(value, column)


def _together(said: str, other: str, both: str) -> str:
    """Return ``both``, or one of the two where it says all that the other does."""
    if not VISIBLE.search(other) or squeezed(other) in squeezed(said):
        return said
    return other if not VISIBLE.search(said) or squeezed(said) in squeezed(other) else both


def _history(row: Row) -> list[Message]:
    """Read earlier turns: messages, or pairs of a question and its answer."""
    turns = read_turns(row["context"], "context", "user") if _are_turns(row.get("context")) else []
    value = row.get("history")
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable("history is one text; give it as a list of turns") from None
    if not value:
        return turns
    if _are_turns(value):
        return [*turns, *read_turns(value, "history", "user")]
    if not isinstance(value, list) or not all(isinstance(r, list) and len(r) == 2 for r in value):
        raise Unusable("history is neither turns nor pairs of a question and its answer")
    for question, answer in value:
        turns.append(Message("user", text_of(question, "history")))
        turns.append(Message("assistant", text_of(answer, "history")))
    return turns


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def with_system(row: Row, dialogue: list[Message]) -> list[Message]:
    """Put the row's system turn first, where a dialogue has none; blank ones are left out."""
    if not any(turn.role == "system" for turn in dialogue):
        column = next((name for name in SYSTEMS if row.get(name)), None)
        if column:
            dialogue = [*read_turns(row[column], column, "system"), *dialogue]
    dialogue = [turn for turn in dialogue if turn.role != "system" or turn.content.strip()]
    if not dialogue:
        raise Unusable("no turns")
    return dialogue


def tools_of(row: Row) -> tuple[Message, ...]:
    """Return the tools that a row offers, as a turn of their own before all others.

    Raises:
        Unusable: they are no list of descriptions.
    """
    inside = (row.get(column) for column in ("input", "prompt", "chosen"))
    value = row.get("tools") or next(
        (one["tools"] for one in inside if isinstance(one, dict) and one.get("tools")), None
    )
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [None]
    if not value:
        return ()
    if not isinstance(value, list) or not all(map(tool_name, value)):
        raise Unusable("tools are no list of named functions")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        raise Unusable("tools hold what is neither text nor a finite number") from None
    return (Message(TOOLS, text),)


# Prompt and answer


def joined(prompt: list[Message], side: list[Message], column: str) -> list[Message]:
    """Continue a prompt by an answer, which may repeat the prompt or its end.

    What repeats is told by what it says: white space may differ, and either
    may lack the system turn.

    Raises:
        Unusable: the answer is a dialogue that begins with something else.
    """
    if not prompt or not side or side[0].role == "assistant":
        return [*prompt, *side]
    rules, said = _apart(prompt)
    own, turns = _apart(side)
    if rules and own and not same(rules, own):
        raise Unusable(f"prompt and {column} have different system turns")
    n = next((n for n in range(min(len(said), len(turns)), 0, -1) if same(said[-n:], turns[:n])), 0)
    if not n and said and said[-1].role != "assistant" and turns and turns[0].role == "user":
        raise Unusable(f"{column} is a dialogue that does not go on from the prompt")
    return [*(rules or own), *said[: len(said) - n], *turns]


def _apart(turns: list[Message]) -> tuple[list[Message], list[Message]]:
    """Split off the system turns at the start."""
    n = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return turns[:n], turns[n:]


def same(first: Sequence[Message], second: Sequence[Message]) -> bool:
    """Tell whether turns say the same, white space aside."""
    return first == second or (
        len(first) == len(second)
        and all(
            a.role == b.role and squeezed(a.content) == squeezed(b.content)
            for a, b in zip(first, second, strict=True)
        )
    )


def is_empty(turns: Iterable[Message]) -> bool:
    """Tell whether any of the turns shows a reader nothing."""
    return any(not VISIBLE.search(turn.content) for turn in turns)
