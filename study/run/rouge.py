"""ROUGE in any script: `rouge_score` with words that it can read.

`rouge_score` reads nothing but ``[a-z0-9]``, so that two equal Chinese or
Arabic answers share no word and score 0. Here a word is a run of letters,
their marks and digits of any script, which is `rouge_score`'s own rule where
all of them are ASCII. Scripts that put no space between words are read
character by character, since only a dictionary could cut them: Han and kana,
and what Unicode calls complex context (Thai, Lao, Khmer, Myanmar and their
like; UAX #29, section 4, and UAX #14, class SA). Korean writes spaces and is
read by words.
"""

import functools
import itertools
import unicodedata
from collections.abc import Sequence
from typing import Final

import regex
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

ROUGE_TYPES: Final = ("rouge1", "rouge2", "rougeL")
TOKENIZER: Final = "unicode-words-1"
"""Names the rule for words in every record; a change of the rule changes the name."""

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Line_Break=SA}]"
_WORD: Final = regex.compile(
    rf"(?=[\p{{L}}\p{{N}}])(?:{_UNSPACED}\p{{M}}*|(?:(?!{_UNSPACED})[\p{{L}}\p{{M}}\p{{N}}])+)"
)
_INVISIBLE: Final = regex.compile(r"(?!\u200b)[\p{Cf}\p{Variation_Selector}]")
"""Joiners, soft hyphens, marks of direction; not the zero-width space, which parts words."""


class UnicodeWords(Tokenizer):  # type: ignore[misc] # the library has no types
    """Words of any script, for `rouge_score`."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return words(text)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, compatible forms made equal (NFKC).

    On ASCII they are those of `rouge_score`.
    """
    if not text.isascii():
        plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
        text = unicodedata.normalize("NFKC", plain.lower())  # lower letters may compose anew
    found: list[str] = _WORD.findall(text.lower())
    return found


def rouge(references: Sequence[str], text: str) -> dict[str, float]:
    """Return the F scores of a text against the reference that is nearest to it.

    The maximum over references, for each score by itself, is that of Lin (2004),
    section 2.1, https://aclanthology.org/W04-1013/.
    """
    scores = _scorer().score_multi(list(references), text)
    return {name: float(scores[name].fmeasure) for name in ROUGE_TYPES}


def distinct_2(text: str) -> float:
    """Return the share of distinct pairs of neighbouring words among all of a text.

    1 where no pair comes twice, as in a text of fewer than three words; near 0
    where an answer goes round in circles. Deviation: Li et al. (2016),
    arXiv:1510.03055, divide the distinct pairs of a whole corpus by its number
    of words; here each answer stands for itself, so that it can be tested.
    """
    found = words(text)
    pairs = list(itertools.pairwise(found))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(ROUGE_TYPES), tokenizer=UnicodeWords())
