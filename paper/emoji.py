r"""Emoji: pictures where LuaLaTeX finds a font of them, else their names in words.

One picture may be several characters: a person, a joiner and a profession; two
letters for a flag; a digit in a frame. They become ``\emoji{name}{characters}``
for LuaLaTeX and ``\described{name}`` for pdfLaTeX.
"""

import unicodedata
from typing import Final

import regex

_ONE: Final = r"[\p{Emoji_Presentation}\p{Extended_Pictographic}]\ufe0f?\p{Emoji_Modifier}?"
_CLUSTER: Final = regex.compile(
    rf"\p{{RI}}{{2}}|[0-9#*]\ufe0f?\u20e3"
    rf"|\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{{2,6}}\U000e007f"
    rf"|{_ONE}(?:\u200d{_ONE})*"
)
"""A flag of a country, a key, a flag of a part of a country, or pictures joined to one;
see UTS 51, 1.4.9."""
_BETWEEN: Final = "\ufe0f\u200d\u20e3"
"""What chooses a picture's form or joins two, and has no name worth reading."""
_A: Final = 0x1F1E6
_TAG: Final = 0xE0000


def split_emoji(text: str) -> list[str]:
    """Cut text into plain text and emoji, in turn; plain text is first and last."""
    if text.isascii():
        return [text]
    parts, end = [], 0
    for found in _CLUSTER.finditer(text):
        if found.group() in "\N{COPYRIGHT SIGN}\N{REGISTERED SIGN}\N{TRADE MARK SIGN}↔":
            continue  # signs of text unless U+FE0F asks for a picture
        parts += [text[end : found.start()], found.group()]
        end = found.end()
    return [*parts, text[end:]]


def emoji_name(cluster: str) -> str | None:
    """Return what one emoji shows, in words of ASCII, or None where it has no name."""
    first = ord(cluster[0])
    if _A <= first < _A + 26:
        return "flag " + "".join(chr(ord(letter) - _A + ord("A")) for letter in cluster)
    if cluster[-1] == "\u20e3":
        return f"key {unicodedata.name(cluster[0]).lower().removeprefix('digit ')}"
    if cluster[-1] == "\U000e007f":
        return "flag " + "".join(chr(ord(tag) - _TAG) for tag in cluster[1:-1]).upper()
    names = [unicodedata.name(one, "") for one in cluster if one not in _BETWEEN]
    if not all(names):
        return None
    said = ", ".join(names).lower()
    return said.replace("emoji modifier fitzpatrick type-", "skin type ")


def set_emoji(cluster: str, *, picture: bool) -> str | None:
    """Return LaTeX for one emoji, or None where it has no name."""
    name = emoji_name(cluster)
    if name is None:
        return None
    return rf"\emoji{{{name}}}{{{cluster}}}" if picture else rf"\described{{{name}}}"
