"""ROUGE as one article's published code scored it, from the answers on record.

The article on Llama-3.2-1B reports ROUGE of base, SFT and ORPO. Its code does
three things that change the figure, and two of them can be done again here:

1. what is compared with the chosen answer is the prompt with the answer behind it;
2. the sum over the first 1,001 of 2,000 examples is divided by all 2,000;
3. of a dialogue it takes the first question and the first answer.

Deviation: (3) changes which answer is generated, so dialogues of several turns
keep the question that was answered. Our answers are greedy, come from the chat
template and are as long as the recipe allows; the article samples without it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer

ROUGE: Final = ("rouge1", "rouge2", "rougeL")


SCORED: Final = 1001 / 2000
"""Share of the examples that the article's code scores; it divides by all."""


TURN: Final = re.compile(r"(?:^|\n\n)(system|user|assistant|tool): ")


def published_scores(
    generations: Sequence[Mapping[str, str]],
    *,
    share: float = SCORED,
    with_prompt: bool = True,
) -> dict[str, npt.NDArray[np.float64]]:
    """Score answers as the article's code did, or with some of its faults mended.

    Args:
        generations: N rows of ``generations.jsonl`` of one run, in file order.
        share: of the examples, the first ones, that is scored.
        with_prompt: score the prompt and the answer behind it.

    Returns:
        ``rouge1``, ``rouge2``, ``rougeL`` -> ``(N,)`` F scores whose mean is the
        figure that the code would have printed: examples that it does not reach
        are zero.
    """
    n = len(generations)
    scores = np.zeros((n, len(ROUGE)))
    scored = generations[: math.ceil(n * share)]
    if scored:
        before = [f"{prompt_text(row['prompt'])}\n" if with_prompt else "" for row in scored]
        texts = [f"{prompt}{row['text']}" for prompt, row in zip(before, scored, strict=True)]
        scores[: len(scored)] = _rouge(scored, texts)
    return dict(zip(ROUGE, scores.T, strict=True))


def as_published(generations: Sequence[Mapping[str, str]]) -> npt.NDArray[np.float64]:
    """Return ROUGE-L alone of ``published_scores``, ``(N,)``."""
    return published_scores(generations)["rougeL"]


def prompt_text(prompt: str) -> str:
    """Return a recorded prompt without the names of its speakers and its system turn."""
    parts = TURN.split(prompt)
    if len(parts) == 1:
        return prompt
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return "\n".join(text for role, text in turns if role != "system")


def _rouge(rows: Sequence[Mapping[str, str]], texts: Sequence[str]) -> list[list[float]]:
    """Return the F scores of texts against the rows' references, ``(N, 3)``."""
    scorer = RougeScorer(list(ROUGE))
    found = [scorer.score(row["reference"], text) for row, text in zip(rows, texts, strict=True)]
    return [[float(scores[name].fmeasure) for name in ROUGE] for scores in found]
