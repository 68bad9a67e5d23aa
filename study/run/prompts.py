"""What is asked of a model and what its answers are held against.

One answer per distinct prompt. Pairs that share a prompt, as in data with
several rankings of it, are answered once; the answer's scores stand in the row
of the first of them, so that no prompt counts twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from study.data.pairs import Message, Pair
from study.data.templates import split_reasoning
from study.engine.encoded import Encoded
from study.run.rouge import ROUGE_TYPES, TOKENIZER, distinct_2, rouge

GENERATED: Final = ("response_tokens", "ended", *ROUGE_TYPES, "exact_match", "distinct_2")
"""Columns of an answer's scores; null in rows of pairs that none was generated for."""

SCORING: Final = {"tokenizer": TOKENIZER, "references": "nearest of the prompt"}
"""What a record says of how its answers were scored. Older records say nothing:
they have `rouge_score`'s own tokenizer, and an answer for each pair."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A distinct prompt, by the ids that a model sees, and the pairs that share it."""

    first: Encoded
    pairs: tuple[Pair, ...]

    @property
    def references(self) -> tuple[str, ...]:
        """The distinct chosen answers, without those that another pair rejects, if any is left."""
        chosen = dict.fromkeys(text_of(pair.chosen) for pair in self.pairs)
        rejected = {text_of(pair.rejected) for pair in self.pairs}
        return tuple(text for text in chosen if text not in rejected) or tuple(chosen)


def distinct_prompts(
    encoded: Iterable[Encoded], pairs: Mapping[str, Pair], *, limit: int | None = None
) -> list[Asked]:
    """Group pairs by their prompts, the prompts in order of appearance.

    Args:
        encoded: pairs as token ids.
        pairs: the same as text, by example id.
        limit: prompts to return; None for all.
    """
    groups: dict[tuple[int, ...], list[Encoded]] = {}
    for one in encoded:
        groups.setdefault(one.prompt_ids, []).append(one)
    return [
        Asked(first=group[0], pairs=tuple(pairs[one.example_id] for one in group))
        for group in list(groups.values())[:limit]
    ]


def score_answer(asked: Asked, text: str, *, reasoning: str = "") -> dict[str, float | None]:
    """Score an answer against the references of its prompt.

    Args:
        asked: the prompt.
        text: the answer without its reasoning.
        reasoning: what came before; it counts for repetition alone.

    Returns:
        ROUGE against the nearest reference, exact match (None where no right
        answer is known) and `study.run.rouge.distinct_2`.
    """
    known = [_plain(pair.answer) for pair in asked.pairs if pair.answer is not None]
    return {
        **rouge(asked.references, text),
        "exact_match": float(_plain(text) in known) if known else None,
        "distinct_2": distinct_2(f"{reasoning}\n{text}"),
    }


def generation_row(asked: Asked, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of ``generations.jsonl``: an answer, its prompt and its reference.

    ``reasoning`` is there where the answer had some, ``references`` where the
    prompt has others than the first pair's.
    """
    pair, references = asked.pairs[0], asked.references
    reference = text_of(pair.chosen)
    return {
        "example_id": pair.example_id,
        "prompt": prompt_text(pair.prompt),
        "reference": reference,
        "text": answer["text"],
        **({"reasoning": answer["reasoning"]} if answer["reasoning"] else {}),
        **({"references": list(references)} if references != (reference,) else {}),
    }


def prompt_text(prompt: Iterable[Message]) -> str:
    """Return a prompt's turns as one text, each with its speaker."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)


def text_of(answer: Iterable[Message]) -> str:
    """Return an answer's turns as one text, without reasoning."""
    return "\n".join(split_reasoning(message.content)[1] for message in answer)


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .\n").split())
