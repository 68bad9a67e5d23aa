"""ROUGE in any script, and equal to `rouge_score` where that can read."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from study.run.rouge import ROUGE_TYPES, distinct_2, rouge, words

ASCII = st.text(st.characters(codec="ascii"))
SCRIPTS = {
    "Chinese": "我喜欢吃苹果。",
    "Japanese": "今日はラーメンを食べました。",
    "Korean": "안녕하세요, 세계!",
    "Arabic": "مرحبا بالعالم، كيف حالك؟",
    "Hebrew": "שלום עולם, מה שלומך?",
    "Russian": "Привет, мир! Как дела?",
    "Greek": "Καλημέρα κόσμε",
    "Thai": "สวัสดีชาวโลก",
    "Lao": "ສະບາຍດີຊາວໂລກ",
    "Khmer": "សួស្តីពិភពលោក",
    "Burmese": "မင်္ဂလာပါကမ္ဘာ",
    "Hindi": "नमस्ते दुनिया",
    "Amharic": "ሰላም ልዑል",
}


@given(ASCII)
def test_words_of_ascii_text_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == DefaultTokenizer().tokenize(text)


@given(ASCII, ASCII)
def test_scores_of_ascii_text_are_those_of_rouge_score(reference: str, text: str) -> None:
    expected = RougeScorer(list(ROUGE_TYPES)).score(reference, text)

    assert rouge([reference], text) == {name: expected[name].fmeasure for name in ROUGE_TYPES}


@given(st.text(st.sampled_from(string.ascii_letters + string.digits + " ’—…“”😀→")))
def test_typographic_marks_part_words_as_rouge_score_parts_them(text: str) -> None:
    assert words(text) == DefaultTokenizer().tokenize(text.replace("…", "..."))


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_an_answer_equal_to_its_reference_scores_1_in_every_script(text: str) -> None:
    assert rouge([text], text) == dict.fromkeys(ROUGE_TYPES, 1.0)
    assert rouge([text], "another answer")["rouge1"] == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我有3个 apples", ["我", "有", "3", "个", "apples"]),
        ("ラーメン。", ["ラ", "ー", "メ", "ン"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("안녕하세요, 세계!", ["안녕하세요", "세계"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Ce café, naïve don’t", ["ce", "café", "naïve", "don", "t"]),
        ("cafe\u0301", ["café"]),
        ("ＡＢＣ１", ["abc1"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("a\u200bb so\u00adft \u202ertl", ["a", "b", "soft", "rtl"]),
        ("❤️ 😀 — …", []),
    ],
)
def test_words_by_example(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_words_are_found_again_among_themselves(text: str) -> None:
    found = words(text)

    assert words(" ".join(found)) == found


def test_the_nearest_reference_counts_for_each_score() -> None:
    first, second = "the cat sat", "a dog ran off"
    scores = rouge([first, second], "a dog ran")

    assert scores == rouge([second], "a dog ran")
    assert scores["rougeL"] == pytest.approx(2 * 3 / (3 + 4))


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 1.0), ("one", 1.0), ("one two three", 1.0), ("no no no no no", 1 / 4),
     ("a b a b a", 2 / 4), ("好好好", 1 / 2)],
)  # fmt: skip
def test_the_share_of_distinct_word_pairs_by_hand(text: str, share: float) -> None:
    assert distinct_2(text) == share
