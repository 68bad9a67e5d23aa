"""Make text that nobody vetted safe and legible in HTML and in LaTeX.

Models write what they like: markup, control characters, scripts that no TeX
font has. Every function here returns ``Markup``, the one type that templates
do not escape again.
"""

import re
import unicodedata

from markupsafe import Markup, escape

CLIP_CHARACTERS = 1500
"""Longest text that the LaTeX report prints in full; a page must hold a table's cell."""


def generated_html(text: str) -> Markup:
    """Escape generated text for HTML and show its invisible characters."""
    return Markup("").join(
        _CODEPOINT.format(_codepoint(character)) if _is_invisible(character) else escape(character)
        for character in text.replace("\r\n", "\n")
    )


def printable(text: str) -> str:
    """Replace the characters that no HTML or JSON file may hold."""
    return "".join("\ufffd" if _is_invalid(character) else character for character in text)


def tex(text: object) -> Markup:
    """Escape one line of text for LaTeX; long words may break anywhere."""
    flat = re.sub(r"\s+", " ", _normalised(str(text)[:CLIP_CHARACTERS]))
    return Markup(re.sub(r"\S+", lambda word: _tex_word(word.group()), flat) + _rest(str(text)))  # noqa: S704 (escaped above)


def generated_tex(text: str) -> Markup:
    """Escape generated text for LaTeX, keep its lines and clip its length."""
    lines = _normalised(text[:CLIP_CHARACTERS]).expandtabs(4).splitlines() or [""]
    body = r"\hfil\break\strut{}".join(_tex_line(line) for line in lines)
    return Markup(rf"\leavevmode\strut{{}}{body}{_rest(text)}")  # noqa: S704 (escaped above)


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


def _tex_word(word: str) -> str:
    if len(word) < LONG_WORD:
        return _tex_characters(word)
    parts = re.findall(r".{1,4}", word, flags=re.DOTALL)
    if set(word) & set("/_.:|=-") and len(word) < 2 * LONG_WORD:
        parts = re.findall(r"[^/_.:|=-]*[/_.:|=-]+|[^/_.:|=-]+", word)
    return r"\allowbreak{}".join(_tex_characters(part) for part in parts)


def _tex_line(line: str) -> str:
    parts = re.split(r"(^ +| {2,})", line)
    return "".join(
        r"\ " * len(part)
        if number % 2
        else re.sub(r"[^ ]+", lambda word: _tex_letters(word.group()), part)
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
