"""Answers that a model generates, one for each distinct prompt."""

import math
from collections.abc import Sequence
from typing import Any

from study.data.tokens import answer_text, end_of_turn
from study.engine.encoded import Encoded
from study.engine.greedy import answer_greedily
from study.engine.lora import merged_adapters
from study.model.workbench import Workbench
from study.run.prompts import GENERATED, distinct_prompts, generation_row, score_answer


def validation_rouge(workbench: Workbench) -> float:
    """Return the mean ROUGE-L of answers to validation prompts."""
    limit = workbench.recipe.evaluation.generated_answers
    return generation_scores(generate(workbench, workbench.validation, limit=limit))["rougeL"]


def generate(
    workbench: Workbench, pairs: Sequence[Encoded], *, limit: int | None = None
) -> list[dict[str, Any]]:
    """Answer the pairs' distinct prompts greedily.

    Args:
        workbench: base model and pairs.
        pairs: those that share a prompt get one answer, under the id of the first.
        limit: prompts that are answered, in the order of ``pairs``; None for all.

    Returns:
        In the order of ``pairs``: example id, text, the reasoning before it, the
        scores `GENERATED` (tokens count reasoning and the end of turn; ROUGE and
        exact match see the text alone), and ``row``, that of ``generations.jsonl``.
    """
    base = workbench.base
    end = end_of_turn(base.tokenizer)
    prompts = distinct_prompts(pairs, workbench.pairs, limit=limit)
    found = continue_prompts(workbench, [asked.first for asked in prompts])
    answers = []
    for asked, new in zip(prompts, found, strict=True):
        ended = end in new
        ids = new[: new.index(end)] if ended else new
        reasoning, text = answer_text(base.tokenizer, ids)
        said = {"text": text.strip(), "reasoning": reasoning}
        answers.append(
            {
                "example_id": asked.first.example_id,
                **said,
                "response_tokens": len(ids) + ended,
                "ended": ended,
                **score_answer(asked, text, reasoning=reasoning),
                "row": generation_row(asked, said),
            }
        )
    return answers


def continue_prompts(workbench: Workbench, pairs: Sequence[Encoded]) -> list[list[int]]:
    """Return the greedy answer's ids to each pair's prompt, in the order of ``pairs``.

    An answer ends with its end of turn, or after ``evaluation.max_new_tokens``.
    """
    base, evaluation = workbench.base, workbench.recipe.evaluation
    with base.without_gradients(), base.precision(), merged_adapters(base.model.eval()):
        return answer_greedily(
            base.model,
            [pair.prompt_ids for pair in pairs],
            limit=evaluation.max_new_tokens,
            end=end_of_turn(base.tokenizer),
            pad=base.tokenizer.pad_token_id,
            way="in slots" if base.checked is None else base.checked.generation,
            batch=evaluation.batch_pairs,
        )


def generation_scores(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return means over the answers; a score that none of them has is left out."""
    known = {name: [a[name] for a in answers if a[name] is not None] for name in GENERATED}
    return {name: math.fsum(values) / len(values) for name, values in known.items() if values}
