"""Text that nobody vetted stays text."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from paper.escape import CLIP_CHARACTERS, generated_html, generated_tex, printable, tex


@given(st.text(st.characters(codec=None)))
def test_html_shows_all_of_a_text_and_none_of_its_markup(text: str) -> None:
    escaped = generated_html(text)
    shown = re.sub(r'<span class="codepoint">(.*?)</span>', r"\1", escaped)

    assert "<" not in shown
    assert ">" not in shown
    assert re.sub(r"\[U\+[0-9A-F]+\]", "", html.unescape(shown)) == re.sub(
        r"\[U\+[0-9A-F]+\]", "", _without_invisible(text)
    )


@pytest.mark.parametrize(
    ("character", "name"),
    [("\x00", "U+0000"), ("\x1b", "U+001B"), ("\u200b", "U+200B"), ("\u202e", "U+202E"),
     ("\ufeff", "U+FEFF"), ("\ud800", "U+D800"), ("\ue000", "U+E000")],
)  # fmt: skip
def test_html_names_characters_that_cannot_be_seen(character: str, name: str) -> None:
    assert generated_html(f"a{character}b") == (f'a<span class="codepoint">[{name}]</span>b')


def test_html_keeps_scripts_emoji_and_lines_as_they_are() -> None:
    text = "漢字 עברית 😀\nnext\tcell"

    assert generated_html(text) == text


def test_printable_replaces_what_a_file_cannot_hold() -> None:
    assert printable("a\x00b\ud800c\nd\te") == "a\ufffdb\ufffdc\nd\te"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/\allowbreak{}etc/\allowbreak{}passwd\}"),
        ("100 % a_b $x$ & #", r"100 \% a\_b \$x\$ \& \#"),
        ("^^5c ~", r"\textasciicircum{}\textasciicircum{}5c \textasciitilde{}"),
        ("--runs ,, ''", r"-{}-runs ,{}, '{}'"),
        ("a\n\nb", "a b"),
        ("[x] *", "{[}x] {*}"),
        ("−3·10⁻³", r"\ensuremath{-}3·10\textsuperscript{\ensuremath{-}}\textsuperscript{3}"),
        ("± β", r"\ensuremath{\pm} \ensuremath{\beta}"),
        ("😀", r"\described{grinning face}"),
        ("ﬁ é", "fi é"),
        ("e\u0301", "é"),
        ("漢", r"\codepoint{6F22}"),
        ("\u200b", r"\codepoint{200B}"),
    ],
)  # fmt: skip
def test_tex_escapes(text: str, expected: str) -> None:
    assert tex(text) == expected


@given(st.text(st.characters(codec=None)), st.booleans())
def test_tex_of_any_text_has_balanced_braces_and_no_special_characters(
    text: str, scripts: bool
) -> None:
    for escaped in (tex(text, scripts=scripts), generated_tex(text, scripts=scripts)):
        plain = re.sub(r"\\[{}$&#%_]", "", escaped)
        plain = re.sub(r"\\[a-zA-Z]+", "", plain).replace("\\ ", "")

        assert plain.count("{") == plain.count("}")
        assert not set(plain) & set("\\$&#%_^\n\x00")
        assert "\n" not in escaped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, β and 100 %", r"plain, \ensuremath{\beta} and 100 \%"),
        ("😀", r"\emoji{grinning face}{😀}"),
        ("漢字。", r"\script{chinese}{漢\scriptbreak{}字。}"),
        ("漢字カナ", r"\script{japanese}{漢\scriptbreak{}字\scriptbreak{}カ\scriptbreak{}ナ}"),
        ("第3（a", r"\script{chinese}{第}\scriptbreak{}3\scriptbreak{}\script{chinese}{（}a"),
        ("한국어, 韓", r"\script{korean}{한국어}, \script{korean}{韓}"),
        ("ชาวโลก", r"\script{thai}{ชา\scriptbreak{}ว\scriptbreak{}โล\scriptbreak{}ก}"),
        ("мир", r"\script{european}{мир}"),
        ("αβ β", r"\script{european}{αβ} \ensuremath{\beta}"),
        ("Việt", r"Vi\script{latin}{ệ}t"),
        ("a שלום b", r"a \rtl{\script{hebrew}{שלום}} b"),
        ("שלום (a) 12.5!", r"\rtl{\script{hebrew}{שלום} )\ltr{a}( \ltr{12.5}!}"),
        ("سلام 3", r"\rtl{\script{arabic}{سلام} \ltr{3}}"),
        ("می\u200cخواهم", "\\rtl{\\script{arabic}{می\u200cخواهم}}"),
    ],
)  # fmt: skip
def test_tex_for_lualatex_sets_each_script_in_its_font_and_direction(
    text: str, expected: str
) -> None:
    assert tex(text, scripts=True) == expected


def test_generated_lines_that_run_right_to_left_are_paragraphs_of_their_own() -> None:
    assert generated_tex("user: שלום\nHi", scripts=True) == (
        r"\rtlparagraph{\leavevmode\strut{}\ltr{user}: \script{hebrew}{שלום}}"
        r"\leavevmode\strut{}Hi"
    )


def test_a_long_word_may_break_between_any_four_letters() -> None:
    assert tex("W" * 40).count(r"\allowbreak{}") == 9
    assert generated_tex("W" * 40).count(r"\allowbreak{}") == 39


def test_a_nul_in_generated_text_is_named_and_never_taken_for_a_space() -> None:
    assert generated_tex("a\x00 \x00b") == (
        r"\leavevmode\strut{}a\codepoint{0000} \codepoint{0000}b"
    )


def test_tex_says_how_much_of_a_long_text_it_leaves_out() -> None:
    rest = 10_000 - CLIP_CHARACTERS

    assert generated_tex("x" * 10_000).endswith(rf"\clipped{{{rest:,}}}")
    assert tex("x" * 10_000).endswith(rf"\clipped{{{rest:,}}}")
    assert "clipped" not in tex("x" * CLIP_CHARACTERS)


def test_tex_keeps_the_lines_and_indents_of_generated_text() -> None:
    assert generated_tex("a\n\n  b") == (
        r"\leavevmode\strut{}a\hfil\break\strut{}\hfil\break\strut{}\ \ b"
    )


def test_escaped_text_is_marked_safe() -> None:
    assert all(isinstance(made("<%>"), Markup) for made in (generated_html, generated_tex, tex))


def _without_invisible(text: str) -> str:
    spans = generated_html(text.replace("<", "").replace(">", "").replace("&", ""))
    hidden = set(re.findall(r"\[U\+([0-9A-F]+)\]</span>", spans))
    kept = text.replace("\r\n", "\n")
    return "".join(character for character in kept if f"{ord(character):04X}" not in hidden)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("😀", r"\described{grinning face}"),
        ("a👩‍💻b", r"a\described{woman, personal computer}b"),
        ("👍🏽", r"\described{thumbs up sign, skin type 4}"),
        ("❤️", r"\described{heavy black heart}"),
        ("✅☀", r"\described{white heavy check mark}\described{black sun with rays}"),
        ("🇩🇪🇫🇷", r"\described{flag DE}\described{flag FR}"),
        ("1️⃣#️⃣", r"\described{key one}\described{key number sign}"),
        (
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            r"\described{flag GBENG}",
        ),
        ("1 # * © ™ ↔", r"1 \# {*} © \texttrademark{} \ensuremath{\leftrightarrow}"),
        ("\u200d\ufe0f", r"\codepoint{200D}\codepoint{FE0F}"),
        ("\U0001fbff", r"\codepoint{1FBFF}"),
    ],
)
def test_emoji_are_named_in_words_without_a_font(text: str, named: str) -> None:
    assert str(tex(text)) == named
    assert str(generated_tex(text)).removeprefix(r"\leavevmode\strut{}") == named


def test_joined_emoji_stay_whole_in_html() -> None:
    assert str(generated_html("👩‍💻 \u200d")) == ('👩‍💻 <span class="codepoint">[U+200D]</span>')
