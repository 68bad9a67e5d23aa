"""Answers that a model generates, one for each distinct prompt."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from study.data.tokens import answer_text, end_of_turn
from study.engine.encoded import Encoded
from study.model.workbench import Workbench
from study.run.prompts import GENERATED, distinct_prompts, generation_row, score_answer
from study.run.scores import chunks


def validation_rouge(workbench: Workbench) -> float:
    """Return the mean ROUGE-L of answers to validation prompts."""
    limit = workbench.recipe.evaluation.generated_answers
    return generation_scores(generate(workbench, workbench.validation, limit=limit))["rougeL"]


def generate(
    workbench: Workbench, pairs: Sequence[Encoded], *, limit: int | None = None
) -> list[dict[str, Any]]:
    """Answer the pairs' distinct prompts greedily, in length-sorted batches.

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
    """Extend a batch of prompts greedily; rows that have ended leave the batch."""
    from transformers import DynamicCache

    base, limit = workbench.base, workbench.recipe.evaluation.max_new_tokens
    end, pad = end_of_turn(base.tokenizer), base.tokenizer.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=base.device)
    starts = torch.tensor([width - len(p) for p in prompts], device=base.device)
    positions = torch.arange(width, device=base.device) - starts[:, None]
    mask = (positions >= 0).long()
    cache = DynamicCache(config=base.causal.config)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for _ in range(limit):
        logits = base.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
        going = []
        for place, (row, token) in enumerate(zip(rows, ids[:, 0].tolist(), strict=True)):
            answers[row].append(token)
            if token != end:
                going.append(place)
        if not going:
            break
        positions = positions[:, -1:] + 1
        if len(going) < len(rows):
            kept = torch.tensor(going, device=base.device)
            cache.batch_select_indices(kept)
            ids, mask, positions = ids[kept], mask[kept], positions[kept]
            rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return answers


def generation_scores(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return means over the answers; a score that none of them has is left out."""
    known = {name: [a[name] for a in answers if a[name] is not None] for name in GENERATED}
    return {name: math.fsum(values) / len(values) for name, values in known.items() if values}
