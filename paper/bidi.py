"""The order of text that runs both ways: runs of one direction, as Unicode orders them.

TeX is told the direction of every run and no more, so that a line that mixes
Arabic, Latin words and numbers has to be cut into runs first.

Source: UAX #9, https://www.unicode.org/reports/tr9/, rules P2, W1 to W7, N1, N2,
I1 and I2, with N0 for brackets of ASCII. Deviation: no explicit embeddings or
isolates, whose characters the report shows by their code points.
"""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Final

MIRRORED: Final = str.maketrans("()[]{}<>«»‹›≤≥", ")(][}{><»«›‹≥≤")
"""Characters whose shape turns round where text runs right to left."""

_STRONG: Final = {"L": 0, "R": 1, "AL": 1}
_SIDED: Final = ("L", "R", "EN", "AN")
_CLOSED_BY: Final = {"(": ")", "[": "]", "{": "}"}


def base_level(text: str) -> int:
    """Return 1 where the first strong character runs right to left, else 0 (rule P2)."""
    return next((_STRONG[kind] for kind in map(_kind, text) if kind in _STRONG), 0)


def directed_runs(text: str, base: int) -> list[tuple[int, str]]:
    """Cut a line into (level, text), in the order in which it is read.

    Level 0 runs left to right, 1 right to left, 2 left to right inside of 1.

    Args:
        text: one line.
        base: the line's own level, 0 or 1.
    """
    kinds = _without_weak([_kind(character) for character in text], base)
    kinds = _without_neutrals(_with_brackets(text, kinds, base), base)
    levels = [_level(kind, base) for kind in kinds]
    places = itertools.groupby(range(len(text)), key=levels.__getitem__)
    return [(level, "".join(text[place] for place in group)) for level, group in places]


def _kind(character: str) -> str:
    return unicodedata.bidirectional(character) or "L"


def _without_weak(kinds: Sequence[str], base: int) -> list[str]:
    """Resolve marks, numbers and what stands between numbers (rules W1 to W7)."""
    start = "R" if base else "L"
    found: list[str] = []
    for kind in kinds:
        found.append((found[-1] if found else start) if kind == "NSM" else kind)
    found = [
        "AN" if kind == "EN" and strong == "AL" else kind
        for kind, strong in zip(found, _strong_before(found, start), strict=True)
    ]
    found = ["R" if kind == "AL" else kind for kind in found]
    for place in range(1, len(found) - 1):
        before, kind, after = found[place - 1 : place + 2]
        if before == after and (before, kind) in {("EN", "CS"), ("AN", "CS"), ("EN", "ES")}:
            found[place] = before
    for order in (range(1, len(found)), range(len(found) - 2, -1, -1)):
        step = order.step
        for place in order:  # signs beside a number belong to it, from either side
            if found[place] == "ET" and found[place - step] == "EN":
                found[place] = "EN"
    return [
        "L" if kind == "EN" and strong == "L" else kind
        for kind, strong in zip(found, _strong_before(found, start), strict=True)
    ]


def _strong_before(kinds: Sequence[str], start: str) -> list[str]:
    """Return for every place the last strong kind up to it."""
    found = []
    for kind in kinds:
        start = kind if kind in _STRONG else start
        found.append(start)
    return found


def _with_brackets(text: str, kinds: Sequence[str], base: int) -> list[str]:
    """Give both brackets of a pair one direction, by what they hold (rule N0)."""
    found, own = list(kinds), "R" if base else "L"
    for opening, closing in _pairs(text):
        inside = {_side(kind) for kind in found[opening + 1 : closing] if kind in _SIDED}
        before = next((_side(kind) for kind in found[opening::-1] if kind in _SIDED), own)
        if inside:
            found[opening] = found[closing] = own if own in inside or before == own else before
    return found


def _pairs(text: str) -> list[tuple[int, int]]:
    """Return the places of brackets that open and close each other, by where they open."""
    pairs, waiting = [], list[tuple[str, int]]()
    for place, character in enumerate(text):
        if character in _CLOSED_BY:
            waiting.append((_CLOSED_BY[character], place))
        elif any(closing == character for closing, _ in waiting):
            while waiting[-1][0] != character:
                waiting.pop()
            pairs.append((waiting.pop()[1], place))
    return sorted(pairs)


def _without_neutrals(kinds: Sequence[str], base: int) -> list[str]:
    """Give what has no direction that of both its sides, or of the line (rules N1, N2)."""
    found: list[str] = []
    start = "R" if base else "L"
    groups = [
        (known, list(group))
        for known, group in itertools.groupby(kinds, key=lambda kind: kind in _SIDED)
    ]
    for number, (known, group) in enumerate(groups):
        before = _side(found[-1]) if found else start
        after = _side(groups[number + 1][1][0]) if number + 1 < len(groups) else start
        found += group if known else [before if before == after else start] * len(group)
    return found


def _side(kind: str) -> str:
    return "L" if kind == "L" else "R"


def _level(kind: str, base: int) -> int:
    """Return a character's level (rules I1 and I2)."""
    if kind == "L":
        return 2 * base
    return 1 if kind == "R" else 2
