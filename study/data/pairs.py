"""A preference pair: what every form of data becomes."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from study.config.canonical import digest, digest_of_list

_UNSEEN = (
    "\\s\\x00-\\x1f\\x7f-\\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u2069\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
)
"""Characters that leave no mark: space, controls, zero width, writing direction."""


INVISIBLE, VISIBLE = re.compile(f"[{_UNSEEN}]+"), re.compile(f"[^{_UNSEEN}]")


ASCII_SPACES = dict.fromkeys((*range(33), 127), " ")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``; or ``tools`` before all others, with
    their descriptions as JSON, which the template writes where it pleases."""
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


def fingerprint(pairs: Iterable[Pair]) -> str:
    """Return the SHA-256 of the pairs' ids and content, in any order."""
    listed = [(p.example_id, p.cluster_id, p.source, p.answer or "", _content(p)) for p in pairs]
    return digest_of_list(sorted(listed))


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


def squeezed(text: str) -> str:
    """Return a text with every stretch of what cannot be seen as one space, none at its ends."""
    if text.isascii():
        return " ".join(text.translate(ASCII_SPACES).split())
    return " ".join(INVISIBLE.sub(" ", text).split())


def _opening(text: str) -> str:
    """Return what a prompt and its near copies share: its words as a reader sees them."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return squeezed(text.casefold())


def _plain(messages: Iterable[Message]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def _content(pair: Pair) -> list[list[list[str]]]:
    return [_plain(part) for part in (pair.prompt, pair.chosen, pair.rejected)]
