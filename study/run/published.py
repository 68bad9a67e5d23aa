"""Answers as an article's published code generates them, from the adapter on the base.

Each fault is named as the rung that mends it (``study.config.ladder``); the answers
stand beside the study's own, to be scored by the analysis.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.data.pairs import Message, Pair, make_pair
from study.data.tokens import encode_prompt, end_of_turn
from study.engine.greedy import by_chance, draw_answers, likeliest
from study.engine.lora import merged_adapters
from study.model.workbench import Workbench
from study.records.files import write_jsonl
from study.records.layout import answers_name
from study.run.prompts import Asked, distinct_prompts, generation_row


def answer_as_published(
    workbench: Workbench, ways: Mapping[str, Mapping[str, Any]], *, seed: int, folder: Path | None
) -> None:
    """Answer the test prompts once more in each way; write a file for each.

    Args:
        workbench: base model with the adapter to answer with, and pairs.
        ways: name -> ``flaws``, ``max_new_tokens``, ``temperature`` and ``top_p``.
        seed: of what is drawn.
        folder: of the run; files are named by ``answers_name``. None writes none.
    """
    limit = workbench.recipe.evaluation.generated_answers
    asked = distinct_prompts(workbench.test, workbench.pairs, limit=limit)
    for name, how in ways.items():
        pairs = [one.pairs[0] for one in asked]
        if "first-turns" in how["flaws"]:
            pairs = [first_turns(pair) for pair in pairs]
        texts = _answer(workbench, pairs, how, seed=seed)
        rows = [
            generation_row(
                Asked(first=one.first, pairs=(pair,)), {"text": text.strip(), "reasoning": ""}
            )
            | {"example_id": one.first.example_id}
            for one, pair, text in zip(asked, pairs, texts, strict=True)
        ]
        if folder is not None:
            write_jsonl(folder / answers_name(name), rows)


def first_turns(pair: Pair) -> Pair:
    """Return the first user's turn of a dialogue with the first assistant's as its answer."""
    turns = (*pair.prompt, *pair.chosen)
    asked, answered = (
        next((turn for turn in turns if turn.role == role), turns[0])
        for role in ("user", "assistant")
    )
    return make_pair(
        prompt=(asked,), chosen=(answered,), rejected=pair.rejected, source=pair.source
    )


def bare_prompt(prompt: Sequence[Message], tokenizer: Any) -> list[int]:
    """Return the ids of a prompt's text without any template, as the tokenizer begins a text."""
    ids: list[int] = tokenizer("\n".join(message.content for message in prompt))["input_ids"]
    return ids


def _answer(
    workbench: Workbench, pairs: Sequence[Pair], how: Mapping[str, Any], *, seed: int
) -> list[str]:
    base, recipe = workbench.base, workbench.recipe
    tokenizer, flaws = base.tokenizer, how["flaws"]
    room = recipe.data.max_prompt_tokens
    write = bare_prompt if "template-of-prompts" in flaws else encode_prompt
    is_drawn = "sampling" in flaws
    ends = (end_of_turn(tokenizer), tokenizer.eos_token_id)
    with base.without_gradients(), base.precision(), merged_adapters(base.model.eval()):
        found = draw_answers(
            base.model,
            [list(write(pair.prompt, tokenizer))[-room:] for pair in pairs],
            limit=how["max_new_tokens"] if is_drawn else recipe.evaluation.max_new_tokens,
            end=ends[0],
            pad=tokenizer.pad_token_id,
            pick=by_chance(seed=seed, temperature=how["temperature"], top_p=how["top_p"])
            if is_drawn
            else likeliest,
            way="batched" if base.checked is None else base.checked.generation,
            batch=recipe.evaluation.batch_pairs,
        )
    cut = [next((n for n, token in enumerate(ids) if token in ends), len(ids)) for ids in found]
    return [
        str(tokenizer.decode(ids[:n], skip_special_tokens=True))
        for ids, n in zip(found, cut, strict=True)
    ]
