"""Answers that a model generates, and how they compare with the chosen ones."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from study.data.pairs import Pair
from study.data.templates import split_reasoning
from study.data.tokens import answer_text, end_of_turn
from study.engine.encoded import Encoded
from study.engine.greedy import answer_greedily
from study.model.workbench import Workbench
from study.run.scores import chunks

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


def validation_rouge(workbench: Workbench) -> float:
    """Return the mean ROUGE-L of answers to validation prompts."""
    answered = workbench.validation[: workbench.recipe.evaluation.generated_answers]
    return generation_scores(generate(workbench, answered))["rougeL"]


def generate(workbench: Workbench, pairs: Sequence[Encoded]) -> list[dict[str, Any]]:
    """Answer the pairs' prompts greedily, in length-sorted batches.

    Returns:
        In the order of ``pairs``: example id, text, the reasoning before it,
        tokens of the answer (its end of turn included), whether it ended by
        itself, ROUGE and exact match of the text alone.
    """
    base = workbench.base
    end = end_of_turn(base.tokenizer)
    answers = []
    for pair, new in zip(pairs, continue_prompts(workbench, pairs), strict=True):
        ended = end in new
        ids = new[: new.index(end)] if ended else new
        reasoning, text = answer_text(base.tokenizer, ids)
        answers.append(
            {
                "example_id": pair.example_id,
                "text": text.strip(),
                "reasoning": reasoning,
                "response_tokens": len(ids) + ended,
                "ended": ended,
                **_compare(text, workbench.pairs[pair.example_id]),
            }
        )
    return answers


def continue_prompts(workbench: Workbench, pairs: Sequence[Encoded]) -> list[list[int]]:
    """Return the greedy answer's ids to each pair's prompt, in the order of ``pairs``.

    An answer ends with its end of turn, or after ``evaluation.max_new_tokens``.
    """
    workbench.base.model.eval()
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt_ids))
    found: list[list[int]] = [[]] * len(pairs)
    for indices in chunks(order, workbench.recipe.evaluation.batch_pairs):
        with torch.inference_mode(), workbench.base.precision():
            new = _continue(workbench, [pairs[i].prompt_ids for i in indices])
        for i, ids in zip(indices, new, strict=True):
            found[i] = ids
    return found


def _continue(workbench: Workbench, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Extend a batch of prompts greedily, in the way that suits the model."""
    base = workbench.base
    return answer_greedily(
        base.model,
        prompts,
        limit=workbench.recipe.evaluation.max_new_tokens,
        end=end_of_turn(base.tokenizer),
        pad=base.tokenizer.pad_token_id,
        way="batched" if base.checked is None else base.checked.generation,
    )


def _compare(text: str, pair: Pair) -> dict[str, float | None]:
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(list(ROUGE_TYPES)).score(reference(pair), text)
    exact = None if pair.answer is None else float(_plain(text) == _plain(pair.answer))
    return {**{name: score.fmeasure for name, score in scores.items()}, "exact_match": exact}


def reference(pair: Pair) -> str:
    """Return the chosen answer as text, without reasoning."""
    return "\n".join(split_reasoning(message.content)[1] for message in pair.chosen)


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .\n").split())


def generation_row(workbench: Workbench, answer: dict[str, Any]) -> dict[str, str]:
    """Return the row of ``generations.jsonl``: an answer, its prompt and its reference."""
    pair = workbench.pairs[answer["example_id"]]
    reasoning = {"reasoning": answer["reasoning"]} if answer["reasoning"] else {}
    return {
        "example_id": answer["example_id"],
        "prompt": "\n\n".join(f"{m.role}: {m.content}" for m in pair.prompt),
        "reference": reference(pair),
        "text": answer["text"],
        **reasoning,
    }


def generation_scores(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the means of the scores that answers have."""
    """Return the means of the scores that answers have."""
    """Return the means of the scores that answers have."""
    """Return means over the answers; a score that none of them has is left out."""
    names = ("response_tokens", "ended", *ROUGE_TYPES, "exact_match")
    known = {name: [a[name] for a in answers if a[name] is not None] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in known.items() if values}
