"""How a row becomes dialogues: one function, or a maker of functions, for each idea of a form.

Each yields two dialogues for every pair in the row: one that ends in the better
answer, one in the worse.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

from study.data.pairs import Message
from study.data.turns import Row, Unusable, asked, joined, read_turns, text_of, transcript

SIDES = ("chosen", "rejected")


Dialogues = tuple[list[Message], list[Message]]
"""The whole conversation that ends in the better and in the worse answer."""


Convert = Callable[[Row], Iterator[Dialogues]]


def answers(prompt: str, better: str = "chosen", worse: str = "rejected") -> Convert:
    """Read a prompt's column and those of its answers; several worse ones are several pairs."""

    def convert(row: Row) -> Iterator[Dialogues]:
        turns = asked(row, prompt)
        (good, *others), bad = _several(row.get(better), better), _several(row.get(worse), worse)
        if others:
            raise Unusable(f"several answers in {better}")
        for one in bad:
            yield joined(turns, good, better), joined(turns, one, worse)

    return convert


def _several(value: Any, column: str) -> list[list[Message]]:
    """Read one answer, or each of a list of texts or of dialogues."""
    is_list = isinstance(value, list) and value and isinstance(value[0], (str, list))
    if is_list and all(type(one) is type(value[0]) for one in value):
        return [read_turns(one, column, "assistant") for one in value]
    return [read_turns(value, column, "assistant")]


def dialogues(row: Row) -> Iterator[Dialogues]:
    """Take whole dialogues; bare answers are put after the text of ``prompt``."""
    (chosen, *others), rejected = (_several(row.get(side), side) for side in SIDES)
    if others:
        raise Unusable("several answers in chosen")
    for one in rejected:
        bare = all(turns and turns[0].role == "assistant" for turns in (chosen, one))
        prompt = asked(row, "prompt") if "prompt" in row and bare else []
        yield [*prompt, *chosen], [*prompt, *one]


def transcripts(row: Row) -> Iterator[Dialogues]:
    """Read transcripts; a column ``prompt`` holds the part that both share, or repeat."""
    shared = text_of(row["prompt"], "prompt") if "prompt" in row else ""
    chosen, rejected = (text_of(row.get(side), side) for side in SIDES)
    if all(side.strip().startswith(shared.strip()) for side in (chosen, rejected)):
        shared = ""
    yield transcript(shared + chosen), transcript(shared + rejected)


def shared_beginning(row: Row) -> Iterator[Dialogues]:
    """Take as prompt the words with which both texts begin, as TRL does."""
    chosen, rejected = (text_of(row.get(side), side) for side in SIDES)
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - characters are meant
    *_, last = ["", *shared.rsplit(maxsplit=1)]
    n = len(shared) - (len(last) if shared.endswith(last) else 0)
    prompt = Message("user", chosen[:n].strip())
    yield (
        [prompt, Message("assistant", chosen[n:])],
        [prompt, Message("assistant", rejected[n:])],
    )


def answered(worse: str) -> Convert:
    """Read messages that end in the better answer, and a column with a worse one."""

    def convert(row: Row) -> Iterator[Dialogues]:
        *prompt, good = read_turns(row.get("messages"), "messages", "user") or [Message("", "")]
        if good.role != "assistant":
            raise Unusable("messages do not end with the assistant's turn")
        for bad in _several(row.get(worse), worse):
            yield [*prompt, good], joined(prompt, bad, worse)

    return convert


def openai(row: Row) -> Iterator[Dialogues]:
    """Read the file that OpenAI's preference fine-tuning takes."""
    given = row.get("input")
    messages = given.get("messages") if isinstance(given, dict) else None
    prompt = read_turns(messages, "input.messages", "user")
    better, worse = (
        read_turns(row.get(side), side, "assistant")
        for side in ("preferred_output", "non_preferred_output")
    )
    yield joined(prompt, better, "preferred_output"), joined(prompt, worse, "non_preferred_output")


def best_first(row: Row) -> Iterator[Dialogues]:
    """Read Alpaca's list of outputs, of which the first is the best."""
    prompt, (best, *worse) = asked(row, "instruction"), _several(row.get("output"), "output")
    if not worse:
        raise Unusable("one answer in output; it takes the better and the worse")
    for one in worse:
        yield joined(prompt, best, "output"), joined(prompt, one, "output")


def ranked(prompt: str, answers: str, marks: str = "") -> Convert:
    """Read answers with ranks or scores: the best against the worst, one pair a row."""

    def convert(row: Row) -> Iterator[Dialogues]:
        given = row.get(answers)
        if not isinstance(given, list) or not given:
            raise Unusable(f"no list of answers in {answers}")
        values = row.get(marks) if marks else [_mark(one, answers) for one in given]
        if not isinstance(values, list) or len(values) != len(given):
            raise Unusable(f"{marks} has not one number for each of {answers}")
        sign = -1 if marks.startswith("rank") else 1
        goodness = [sign * number(value, marks or f"mark in {answers}") for value in values]
        if min(goodness) == max(goodness):
            raise Unusable("no answer is better than another")
        turns = asked(row, prompt)
        best, worst = (
            joined(turns, _ranked_text(given[goodness.index(one)], answers), answers)
            for one in (max(goodness), min(goodness))
        )
        yield best, worst

    return convert


def _mark(one: Any, column: str) -> float:
    """Return how good an answer is said to be: its rank turned round, or its score."""
    if not isinstance(one, dict):
        raise Unusable(f"an answer in {column} has no rank or score")
    if one.get("rank") is not None:
        return -number(one["rank"], f"rank in {column}")
    found = next((one[key] for key in SCORES if one.get(key) is not None), None)
    return number(found, f"rank or score in {column}")


SCORES = ("overall_score", "score", "rating", "reward")


def _ranked_text(one: Any, column: str) -> list[Message]:
    if isinstance(one, dict) and "role" not in one:
        keys = ("answer", "response", "text", "content", "output")
        one = next((one[key] for key in keys if one.get(key) is not None), None)
    return read_turns(one, column, "assistant")


def number(value: Any, column: str) -> float:
    """Return a value that is a number, or a text of one.

    Raises:
        Unusable: it is not, or it is not a number's size.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Unusable(f"missing {column}" if value is None else f"{column} is no number") from None
    if found != found:  # noqa: PLR0124 - NaN alone
        raise Unusable(f"missing {column}")
    return found


def judged(
    prompt: str,
    first: str,
    second: str,
    verdict: str,
    first_is_better: Callable[[Any], bool | None],
) -> Convert:
    """Read two answers and which is better; where neither is, the row is no pair."""

    def convert(row: Row) -> Iterator[Dialogues]:
        value = row.get(verdict)
        if value is None:
            raise Unusable(f"missing {verdict}")
        preferred = first_is_better(value)
        if preferred is None:
            raise Unusable("neither answer is preferred")
        columns = (first, second) if preferred else (second, first)
        turns = asked(row, prompt) if prompt else []
        better, worse = (
            joined(turns, read_turns(row.get(one), one, "assistant"), one) for one in columns
        )
        yield better, worse

    return convert


def by_sign(value: Any) -> bool | None:
    """Read HelpSteer's preference, from -3 (the first is much better) to 3."""
    strength = number(value, "preference")
    return None if strength == 0 else strength < 0


def by_label(value: Any) -> bool:
    """Read SHP's label: 1 where the first answer is better."""
    return not by_index(value)


def by_index(value: Any) -> bool:
    """Read the number of the better answer, 0 or 1."""
    found = number(value, "number of the better answer")
    if found not in {0, 1}:
        raise Unusable("number of the better answer is neither 0 nor 1")
    return found == 0


def by_name(value: Any) -> bool | None:
    """Read an arena's winner: ``model_a``, ``model_b``, or a tie."""
    name = text_of(value, "winner").lower().removeprefix("model_")
    if name.startswith("tie"):
        return None
    if name not in {"a", "b"}:
        raise Unusable("winner is neither model_a nor model_b nor a tie")
    return name == "a"
