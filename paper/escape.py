"""Make text that nobody vetted safe and legible in HTML and in LaTeX.

Models write what they like: markup, control characters, scripts that no TeX
font has. Every function here returns ``Markup``, the one type that templates
do not escape again. For pdfLaTeX a character without a font becomes its code
point, and emoji their names; with ``scripts``, for LuaLaTeX, they are printed,
in their own direction.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

from paper.bidi import MIRRORED, base_level, directed_runs
from paper.emoji import set_emoji, split_emoji
from paper.scripts import break_between, language, script_runs, set_run

CLIP_CHARACTERS = 1500
"""Longest text that the LaTeX report prints in full; a page must hold a table's cell."""


def generated_html(text: str) -> Markup:
    """Escape generated text for HTML and show its invisible characters."""
    return Markup("").join(
        escape(part) if number % 2 else _legible_html(part)
        for number, part in enumerate(split_emoji(text.replace("\r\n", "\n")))
    )


def _legible_html(text: str) -> Markup:
    return Markup("").join(
        _CODEPOINT.format(_codepoint(character)) if _is_invisible(character) else escape(character)
        for character in text
    )


def printable(text: str) -> str:
    """Replace the characters that no HTML or JSON file may hold."""
    return "".join("\ufffd" if _is_invalid(character) else character for character in text)


def tex(text: object, *, scripts: bool = False) -> Markup:
    """Escape one line of text for LaTeX; long words may break anywhere."""
    flat = re.sub(r"\s+", " ", _normalised(str(text)[:CLIP_CHARACTERS]))
    if not scripts:
        return Markup(_tex_words(flat, "") + _rest(str(text)))  # noqa: S704 (escaped above)
    ideographs = language(flat)
    base = base_level(flat)
    line = _directed(flat, base, lambda run: _tex_words(run, ideographs))
    return Markup((rf"\rtl{{{line}}}" if base else line) + _rest(str(text)))  # noqa: S704 (escaped above)


def generated_tex(text: str, *, scripts: bool = False) -> Markup:
    """Escape generated text for LaTeX, keep its lines and clip its length."""
    lines = _normalised(text[:CLIP_CHARACTERS]).expandtabs(4).splitlines() or [""]
    if not scripts:
        return _paragraph((_tex_line(line, "") for line in lines), _rest(text))
    ideographs = language(text)
    bases = [base_level(SPEAKER.sub("", line)) for line in lines]
    written = [
        _directed(line, base, lambda run: _tex_line(run, ideographs))
        for line, base in zip(lines, bases, strict=True)
    ]
    paragraphs = [
        (base, [written[place] for place in group])
        for base, group in itertools.groupby(range(len(lines)), key=bases.__getitem__)
    ]
    last = len(paragraphs) - 1
    return Markup("").join(
        _paragraph(part, _rest(text) * (number == last), is_rtl=bool(base))
        for number, (base, part) in enumerate(paragraphs)
    )


SPEAKER = re.compile(r"^(system|user|assistant|tool): ")
"""What names a turn in a printed prompt; it says nothing about its direction."""


def _paragraph(lines: Iterable[str], rest: str, *, is_rtl: bool = False) -> Markup:
    body = r"\leavevmode\strut{}" + r"\hfil\break\strut{}".join(lines)
    if is_rtl:
        end = rf"\ltr{{{rest}}}" if rest else ""
        return Markup(rf"\rtlparagraph{{{body}{end}}}")  # noqa: S704 (its lines are escaped)
    return Markup(body + rest)  # noqa: S704 (its lines are escaped)


def _directed(line: str, base: int, escaped: Callable[[str], str]) -> str:
    """Escape a line run by run, each in its direction; brackets turn round."""
    runs = directed_runs(line, base)
    if all(level == 0 for level, _ in runs):
        return escaped(line)
    inner = [
        (level > 0, escaped(run.translate(MIRRORED) if level == 1 else run), level)
        for level, run in runs
    ]
    parts = []
    for turned, group in itertools.groupby(inner, key=lambda part: part[0]):
        text = "".join(rf"\ltr{{{run}}}" if level == 2 else run for _, run, level in group)
        parts.append(rf"\rtl{{{text}}}" if turned and not base else text)
    return "".join(parts)


_CODEPOINT = Markup('<span class="codepoint">{}</span>')


def _rest(text: str) -> str:
    rest = len(text) - CLIP_CHARACTERS
    return f" \\clipped{{{rest:,}}}" if rest > 0 else ""


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} and character not in "\n\t"


def _is_invalid(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t"


def _codepoint(character: str) -> str:
    return f"[U+{ord(character):04X}]"


def _normalised(text: object) -> str:
    return unicodedata.normalize("NFC", str(text).replace("\r\n", "\n"))


LONG_WORD = 18
"""Characters from which a word gets break points of its own."""


def _tex_words(text: str, ideographs: str) -> str:
    return re.sub(r"\S+", lambda word: _in_scripts(word.group(), ideographs, _tex_word), text)


def _in_scripts(word: str, ideographs: str, latin: Callable[[str], str]) -> str:
    """Escape a word, its runs of other scripts in theirs; none where there is no language."""
    return "".join(
        (set_emoji(part, picture=bool(ideographs)) or latin(part))
        if number % 2
        else _without_emoji(part, ideographs, latin)
        for number, part in enumerate(split_emoji(word))
    )


def _without_emoji(word: str, ideographs: str, latin: Callable[[str], str]) -> str:
    if not ideographs or word.isascii():
        return latin(word)
    runs = script_runs(word, ideographs, _is_printed)
    parts = [set_run(script, run) if script else latin(run) for script, run in runs]
    breaks = [break_between(one, other) for one, other in itertools.pairwise(runs)]
    return "".join(itertools.chain(*zip(parts, [*breaks, ""], strict=True)))


def _is_printed(character: str) -> bool:
    return character in _TEX or _is_plain(character)


def _tex_word(word: str) -> str:
    if len(word) < LONG_WORD:
        return _tex_characters(word)
    parts = re.findall(r".{1,4}", word, flags=re.DOTALL)
    if set(word) & set("/_.:|=-") and len(word) < 2 * LONG_WORD:
        parts = re.findall(r"[^/_.:|=-]*[/_.:|=-]+|[^/_.:|=-]+", word)
    return r"\allowbreak{}".join(_tex_characters(part) for part in parts)


def _tex_line(line: str, ideographs: str) -> str:
    parts = re.split(r"(^ +| {2,})", line)
    return "".join(
        r"\ " * len(part)
        if number % 2
        else re.sub(
            r"[^ ]+", lambda word: _in_scripts(word.group(), ideographs, _tex_letters), part
        )
        for number, part in enumerate(parts)
    )


def _tex_letters(word: str) -> str:
    if len(word) <= 10:
        return _tex_characters(word)
    return r"\allowbreak{}".join(_tex_characters(character) for character in word)


def _tex_characters(word: str) -> str:
    joined = "".join(_tex_character(character) for character in word)
    return re.sub(r"([-,'])(?=\1)", r"\1{}", joined)


def _tex_character(character: str) -> str:
    if character in _TEX:
        return _TEX[character]
    if _is_plain(character):
        return character
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and all(letter in _TEX or _is_plain(letter) for letter in plain):
        return "".join(_tex_character(letter) for letter in plain)
    return rf"\codepoint{{{ord(character):04X}}}"


def _is_plain(character: str) -> bool:
    return character in _IN_FONT or (character.isascii() and character.isprintable())


def _ranges(*bounds: tuple[int, int]) -> frozenset[str]:
    return frozenset(chr(code) for low, high in bounds for code in range(low, high + 1))


_IN_FONT = _ranges((0xA1, 0xAC), (0xAE, 0x148), (0x14A, 0x17E), (0x2018, 0x2019)) - _ranges(
    (0x126, 0x127), (0x138, 0x138), (0x13F, 0x140), (0x149, 0x149), (0x166, 0x167)
)
"""Characters that inputenc and Latin Modern print as they stand."""


def _math(names: str, characters: str) -> dict[str, str]:
    return {
        character: rf"\ensuremath{{\{name}}}"
        for character, name in zip(characters, names.split(), strict=True)
    }


def _scripts(characters: str, plain: str, command: str) -> dict[str, str]:
    return {
        character: rf"\{command}{{{_TEX_ASCII.get(letter, letter)}}}"
        for character, letter in zip(characters, plain, strict=True)
    }


_TEX_ASCII = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "*": "{*}",
}
"""``[`` and ``*`` are harmless but after ``\\\\``, where they become arguments."""
_TEX = (
    _TEX_ASCII
    | {
        "\N{NO-BREAK SPACE}": "~",
        "\N{NARROW NO-BREAK SPACE}": r"\,",
        "\N{EN DASH}": r"\textendash{}",
        "\N{EM DASH}": r"\textemdash{}",
        "\N{LEFT DOUBLE QUOTATION MARK}": r"\textquotedblleft{}",
        "\N{RIGHT DOUBLE QUOTATION MARK}": r"\textquotedblright{}",
        "\N{DOUBLE LOW-9 QUOTATION MARK}": r"\quotedblbase{}",
        "\N{HORIZONTAL ELLIPSIS}": r"\textellipsis{}",
        "\N{BULLET}": r"\textbullet{}",
        "\N{EURO SIGN}": r"\texteuro{}",
        "\N{TRADE MARK SIGN}": r"\texttrademark{}",
        "\N{MINUS SIGN}": r"\ensuremath{-}",
        "\N{MICRO SIGN}": r"\ensuremath{\mu}",
    }
    | _scripts("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", "textsuperscript")
    | {"⁻": r"\textsuperscript{\ensuremath{-}}", "⁺": r"\textsuperscript{+}"}
    | _scripts("₀₁₂₃₄₅₆₇₈₉", "0123456789", "textsubscript")
    | _math(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma "
        "tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega",
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
    )
    | _math(
        "leq geq neq approx equiv sim infty partial nabla sum prod int in notin cap cup subset "
        "forall exists uparrow downarrow leftarrow rightarrow leftrightarrow Rightarrow "
        "cdot times div pm",
        "≤≥≠≈≡∼∞∂∇∑∏∫∈∉∩∪⊂∀∃↑↓←→↔⇒⋅×÷±",
    )
    | {"√": r"\ensuremath{\surd}"}
)
