"""What a judge is asked and what it says: two answers to one prompt, and a verdict."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from study.config.recipe import Recipe
from study.data.load import load_pairs
from study.data.pairs import Message, Pair
from study.data.splits import Splits, split_pairs
from study.errors import DataError, RecordError
from study.records.files import read_jsonl
from study.records.layout import GENERATIONS
from study.records.released import Verdicts
from study.release.chosen import ChosenRun
from study.run.prompts import text_of

Turns = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Two answers to one prompt; the judge says whether the first wins."""

    example_id: str
    cluster: str
    prompt: Turns
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a judge says of a question."""

    won: float | None
    """1 where the first answer wins, 0 where it loses, 0.5 for neither; None for no verdict."""
    parts: tuple[float | None, float | None] = (None, None)
    """See ``Verdicts.parts``."""
    missing: str = ""
    """Why there is no verdict."""
    turned: bool = False


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What asking will take at most, told before anything is sent."""

    calls: int
    kept: int
    """Verdicts that are on disk already."""
    prompt_tokens: int
    """By four characters a token."""
    answer_tokens: int
    cost: float | None
    """None without prices."""


class Judge(Protocol):
    """Anything that compares answers."""

    slug: str
    kind: Literal["reward", "endpoint"]
    name: str
    identity: str
    settings: dict[str, Any]
    trained_on: str | None
    """Fingerprint of its training pairs, where the study trained it."""
    spent: dict[str, float]
    """So far, by this process."""

    def compare(self, questions: Sequence[Question]) -> list[Opinion]:
        """Return an opinion for every question, in order."""
        ...

    def ahead(self, questions: Sequence[Question]) -> Ahead | None:
        """Return what asking would take; None where it costs nothing but time."""
        ...


def splits_of(recipe: Recipe) -> Splits:
    """Return the pairs of a recipe; no judge of its runs may have seen the test pairs.

    Raises:
        DataError: the pairs cannot be read any more.
    """
    return split_pairs(load_pairs(recipe.data).pairs, recipe.data)


def answers_of(run: ChosenRun, pairs: Sequence[Pair], limit: int | None) -> list[Question]:
    """Ask of a run's answers against the chosen ones.

    Raises:
        RecordError: the run answered no prompt.
        DataError: it answered others than the recipe's test prompts.
    """
    known = {pair.example_id: pair for pair in pairs}
    rows = list(read_jsonl(run.folder.path / GENERATIONS))[:limit]
    if not rows:
        raise RecordError(
            f"{run.name} answered no prompt; set evaluation.generated_answers and compare again"
        )
    strange = [row["example_id"] for row in rows if row["example_id"] not in known]
    if strange:
        raise DataError(
            f"{run.name} answered prompts that are not among the test pairs of "
            f"{run.recipe.data.name} now, {strange[0]} among them; restore the data it was made "
            "with"
        )
    return [
        _question(known[row["example_id"]], str(row["text"]), text_of(pair.chosen))
        for row in rows
        for pair in [known[row["example_id"]]]
    ]


def held_out(pairs: Sequence[Pair], limit: int) -> list[Question]:
    """Ask of chosen against rejected answers: the first should win."""
    return [_question(p, text_of(p.chosen), text_of(p.rejected)) for p in pairs[:limit]]


def verdicts_of(questions: Sequence[Question], opinions: Sequence[Opinion]) -> Verdicts:
    """Lay opinions out as a record keeps them."""
    return {
        "items": [one.example_id for one in questions],
        "clusters": [one.cluster for one in questions],
        "wins": [one.won for one in opinions],
        "parts": [list(one.parts) for one in opinions],
        "missing": dict(sorted(Counter(one.missing for one in opinions if one.missing).items())),
        "turned": sum(one.turned for one in opinions),
    }


def plain_prompt(prompt: Iterable[Message]) -> str:
    """Return a prompt as text: a single question bare, a dialogue with its speakers."""
    turns = list(prompt)
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def _question(pair: Pair, first: str, second: str) -> Question:
    return Question(
        example_id=pair.example_id,
        cluster=pair.cluster_id,
        prompt=pair.prompt,
        first=first,
        second=second,
    )
