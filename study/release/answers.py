"""Answers of trained models to anybody's prompts, several arms side by side."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from study.data.pairs import Message
from study.data.tokens import answer_text, encode_prompt, end_of_turn
from study.engine.greedy import answer_greedily
from study.errors import DataError, RowError
from study.records.released import AnswerRow
from study.release.chosen import ChosenRun
from study.release.loaded import attach, load_run
from study.run.scores import chunks

Turns = Sequence[Message]

ROLES = ("system", "user", "assistant")


class Answerer:
    """One base in memory, and the adapters of several of its runs in turn."""

    def __init__(self, runs: Sequence[ChosenRun], *, device: str, limit: int | None = None) -> None:
        """Load the base of runs that share a recipe.

        Args:
            runs: one for each arm.
            device: where to compute.
            limit: new tokens of an answer at most; None takes the recipe's.
        """
        self.runs = {run.arm: run for run in runs}
        first = runs[0]
        self.limit = limit or first.recipe.evaluation.max_new_tokens
        self.batch = first.recipe.evaluation.batch_pairs
        self.base = load_run(first, device=device)

    def answer(self, arm: str, prompts: Sequence[Turns]) -> list[str]:
        """Return an arm's greedy answers, in the order of ``prompts``.

        Raises:
            RowError: the chat template cannot write a prompt.
        """
        attach(self.base, self.runs[arm])
        check = self.runs[arm].record.get("self_check") or {}
        tokenizer = self.base.tokenizer
        ids = [encode_prompt(turns, tokenizer) for turns in prompts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = [""] * len(ids)
        for indices in chunks(order, self.batch):
            with torch.inference_mode(), self.base.precision():
                new = answer_greedily(
                    self.base.model,
                    [ids[i] for i in indices],
                    limit=self.limit,
                    end=end_of_turn(tokenizer),
                    pad=tokenizer.pad_token_id,
                    way=check.get("generation", "batched"),
                )
            for i, tokens in zip(indices, new, strict=True):
                kept = tokens[:-1] if tokens[-1:] == [end_of_turn(tokenizer)] else tokens
                found[i] = answer_text(tokenizer, kept)[1].strip()
        return found

    def side_by_side(self, prompts: Sequence[Turns]) -> list[AnswerRow]:
        """Answer prompts by every arm."""
        answers = {arm: self.answer(arm, prompts) for arm in self.runs}
        return [
            {
                "prompt": [{"role": turn.role, "content": turn.content} for turn in turns],
                "answers": {arm: texts[number] for arm, texts in answers.items()},
                "seeds": {arm: run.seed for arm, run in self.runs.items()},
                "digests": {arm: run.record["digest"] for arm, run in self.runs.items()},
            }
            for number, turns in enumerate(prompts)
        ]


def read_prompts(path: Path) -> list[Turns]:
    """Read prompts: a line of text each, or JSON Lines with ``prompt`` or ``messages``.

    Raises:
        DataError: the file cannot be read, or a line holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read prompts from {path}: {error}") from error
    of_json = path.suffix in (".jsonl", ".json")
    found = [
        _turns(line, path, number) if of_json else (Message("user", line.strip()),)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"{path} holds no prompt; write one a line")
    return found


def chat(answerer: Answerer, lines: Iterable[str], say: Callable[[str], None]) -> None:
    """Talk with every arm at once; each goes on from its own answers.

    ``/new`` begins a new conversation; ``/quit`` or the end of input ends it.
    """
    told: dict[str, list[Message]] = {arm: [] for arm in answerer.runs}
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/new":
            told = {arm: [] for arm in answerer.runs}
            say("a new conversation")
        elif text:
            for arm, turns in told.items():
                turns.append(Message("user", text))
                try:
                    (answer,) = answerer.answer(arm, [turns])
                except RowError as error:
                    turns.pop()
                    say(f"{arm}: {error}")
                    continue
                turns.append(Message("assistant", answer))
                say(f"{arm}: {answer}")


def _turns(line: str, path: Path, number: int) -> Turns:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is not JSON ({error})") from error
    asked = row.get("messages", row.get("prompt")) if isinstance(row, Mapping) else None
    if isinstance(asked, str) and asked.strip():
        return (Message("user", asked),)
    if isinstance(asked, list) and asked and all(_is_turn(turn) for turn in asked):
        return tuple(Message(turn["role"], turn["content"]) for turn in asked)
    raise DataError(
        f"{path}, line {number} has no prompt; give it `prompt`, a text, or `messages`, turns with "
        f"a role ({', '.join(ROLES)}) and a content"
    )


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, Mapping)
        and turn.get("role") in ROLES
        and isinstance(turn.get("content"), str)
    )
