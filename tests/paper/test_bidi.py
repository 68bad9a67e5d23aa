"""Runs of one direction, by hand after the examples and rules of UAX #9."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper.bidi import base_level, directed_runs


@pytest.mark.parametrize(
    ("text", "base", "expected"),
    [
        ("abc 12", 0, [(0, "abc 12")]),
        ("a אב ג b", 0, [(0, "a "), (1, "אב ג"), (0, " b")]),
        ("אב abc, 12.5% ג", 1,
         [(1, "אב "), (2, "abc, 12.5%"), (1, " ג")]),
        ("אב 15% 3,4 -5", 1, [(1, "אב "), (2, "15%"), (1, " "), (2, "3,4"), (1, " -"), (2, "5")]),
        ("سلام 1,2+3", 1, [(1, "سلام "), (2, "1,2"), (1, "+"), (2, "3")]),
        ("see (אב) 12, now", 0, [(0, "see ("), (1, "אב"), (0, ") "), (2, "12"), (0, ", now")]),
        ("אב (ab אב) 3", 1, [(1, "אב ("), (2, "ab"), (1, " אב) "), (2, "3")]),
        ("אב (c) ד", 1, [(1, "אב ("), (2, "c"), (1, ") ד")]),
        ("אָב!", 1, [(1, "אָב!")]),
        ("אב.", 0, [(1, "אב"), (0, ".")]),
        ("", 0, []),
    ],
)  # fmt: skip
def test_a_line_is_cut_into_runs(text: str, base: int, expected: list[tuple[int, str]]) -> None:
    assert directed_runs(text, base) == expected


@pytest.mark.parametrize(
    ("text", "level"), [("12 אב abc", 1), ("-> abc אב", 0), ("سلام", 1), ("12 !", 0), ("", 0)]
)
def test_the_first_strong_character_decides_a_lines_direction(text: str, level: int) -> None:
    assert base_level(text) == level


@given(st.text(st.sampled_from("ab אבسل12.,%+-()[] \u0301\u05b8١٢")), st.sampled_from([0, 1]))
def test_runs_are_the_line_and_neighbours_differ(text: str, base: int) -> None:
    runs = directed_runs(text, base)
    levels = [level for level, _ in runs]

    assert "".join(run for _, run in runs) == text
    assert all(one != other for one, other in itertools.pairwise(levels))
    assert set(levels) <= {base, 1, 2}
