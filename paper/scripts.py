r"""Scripts that pdfLaTeX cannot print: which font has them, and where lines may break.

Each run of such a script becomes ``\script{name}{text}``, for which LuaLaTeX
loads a Noto font. TeX breaks lines at spaces alone, so the other places are
ours: between characters of Chinese and Japanese, but before closing and after
opening marks, and between clusters of Thai and its neighbours, whose words only
a dictionary could tell.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import regex


@dataclass(frozen=True, kw_only=True)
class Font:
    """A Noto font, and the Debian package that has it."""

    file: str
    package: str = "fonts-noto-core"
    options: str = "Renderer=HarfBuzz"
    """Options of fontspec; HarfBuzz joins letters and places marks where it knows the script."""


def _cjk(index: int) -> Font:
    options = f"Renderer=HarfBuzz,FontIndex={index}"
    return Font(file="NotoSansCJK-Regular.ttc", package="fonts-noto-cjk", options=options)


_CJK: Final = {"japanese": _cjk(0), "korean": _cjk(1), "chinese": _cjk(2)}
"""One font for each language, because they draw the same ideographs differently."""
_OF_THEIR_OWN: Final = (
    "Arabic", "Hebrew", "Devanagari", "Thai", "Armenian", "Bengali", "Ethiopic", "Georgian",
    "Gujarati", "Gurmukhi", "Kannada", "Khmer", "Lao", "Malayalam", "Myanmar", "Oriya", "Sinhala",
    "Syriac", "Tamil", "Telugu", "Thaana",
)  # fmt: skip
EMOJI: Final = "emoji"
_LATIN: Final = "latin"
"""Letters that Latin Modern has for LuaLaTeX alone: Vietnamese, Romanian."""

FONTS: Final = {
    **_CJK,
    EMOJI: Font(file="NotoColorEmoji.ttf", package="fonts-noto-color-emoji"),
    "european": Font(file="NotoSans-Regular.ttf"),
    **{
        name.casefold(): Font(
            file=f"NotoSans{name}-Regular.ttf", options=f"Renderer=HarfBuzz,Script={name}"
        )
        for name in _OF_THEIR_OWN
    },
}
"""Script -> font."""

_SCRIPT: Final = regex.compile(
    r"(?P<cjk>[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Hangul}\p{scx=Bopomofo}"
    r"\u3000-\u303f\uff01-\uff60\uffe0-\uffe6])"
    r"|(?P<latin>[\u01a0\u01a1\u01af\u01b0\u0218-\u021b\u1ea0-\u1ef9])"
    r"|(?P<european>[\p{Cyrillic}\p{Greek}\u0180-\u024f\u1e00-\u1eff])"
    + "".join(rf"|(?P<{name.casefold()}>\p{{scx={name}}})" for name in _OF_THEIR_OWN)
)
_GREEK: Final = regex.compile(r"\p{Greek}{2,}")
"""A Greek word; a letter alone is a symbol, which TeX has."""
_WITH_LAST: Final = regex.compile(r"[\p{Mn}\p{Mc}\u200c\u200d]")
"""Marks and joiners, which belong to the script before them."""
_BY_CLUSTER: Final = {"thai", "lao", "khmer", "myanmar"}
_CLUSTER: Final = regex.compile(
    r"(?:[\u0e40-\u0e44\u0ec0-\u0ec4]|\X\u17d2)*\X[\u0e30\u0e32\u0e33\u0eb0\u0eb2\u0eb3]*"
)
"""A letter with its marks and, in Thai and Lao, the vowels before and behind it;
Khmer's sign U+17D2 puts the next letter below it."""
_NOT_FIRST: Final = regex.compile(
    r"[\p{Pe}\p{Pf}\p{Mn}、。，．・：；？！ー々ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ％]"
)
_NOT_LAST: Final = regex.compile(r"[\p{Ps}\p{Pi}]")
_OPENS: Final = regex.compile(r"[\p{L}\p{N}\p{Ps}\p{Pi}]")
LUALATEX: Final = "% !TEX program = lualatex"
"""First line of a document that sets scripts, which TeX editors know too."""
LONG_RUN: Final = 24
"""Clusters from which a run without spaces gets break points, whatever its script."""
BREAK: Final = r"\scriptbreak{}"


def language(text: str) -> str:
    """Return the language whose shapes a text's ideographs take."""
    if regex.search(r"[\p{Hiragana}\p{Katakana}]", text):
        return "japanese"
    return "korean" if regex.search(r"\p{Hangul}", text) else "chinese"


def script_runs(
    text: str, ideographs: str, is_printed: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """Cut text into (script, run); the script is empty where no Noto font is wanted.

    Args:
        text: without spaces.
        ideographs: the language that ideographs are printed in.
        is_printed: whether the document's own fonts have a character.
    """
    greek = {place for word in _GREEK.finditer(text) for place in range(*word.span())}
    names: list[str] = []
    for place, character in enumerate(text):
        if names and names[-1] and _WITH_LAST.match(character):
            names.append(names[-1])
        elif is_printed(character) and place not in greek:
            names.append("")
        else:
            name = _script_of(character)
            names.append(ideographs if name == "cjk" else name)
    places = itertools.groupby(range(len(text)), key=names.__getitem__)
    return [(name, "".join(text[place] for place in group)) for name, group in places]


def set_run(script: str, text: str) -> str:
    """Return LaTeX for a run of one script, with the places where a line may break."""
    clusters: list[str] = _CLUSTER.findall(text)
    if script in _CJK and (script != "korean" or len(clusters) >= LONG_RUN):
        broken = "".join(map(_before, clusters, clusters[1:])) + clusters[-1]
    elif script in _BY_CLUSTER:
        broken = BREAK.join(clusters)
    else:
        starts = range(0, len(clusters), LONG_RUN)
        broken = BREAK.join("".join(clusters[start : start + LONG_RUN]) for start in starts)
    return rf"\script{{{script}}}{{{broken}}}"


def scripts_of(source: str) -> list[str]:
    """Return the scripts that a LaTeX document sets, in order; emoji are one."""
    found = set(regex.findall(r"\\script\{(\w+)\}", source))
    return sorted(found | ({EMOJI} if r"\emoji{" in source else set()))


def break_between(run: tuple[str, str], other: tuple[str, str]) -> str:
    """Return the break between two neighbouring runs of a word, or nothing."""
    (script, text), (next_script, following) = run, other
    if not {script, next_script} & {"chinese", "japanese"}:
        return ""
    may = _OPENS.match(following) and not _NOT_FIRST.match(following)
    return BREAK if may and not _NOT_LAST.match(text[-1]) else ""


@functools.cache
def _script_of(character: str) -> str:
    found = _SCRIPT.match(character)
    return str(found.lastgroup) if found else ""


def _before(cluster: str, after: str) -> str:
    """Return a cluster with a break behind it, unless marks forbid one."""
    forbidden = _NOT_LAST.match(cluster) or _NOT_FIRST.match(after)
    return cluster if forbidden else cluster + BREAK
