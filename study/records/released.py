"""What is recorded of finished runs that are used: exports, benchmark scores, answers.

A part of the description in `study.records.schema`, whose number they carry and by
whose functions they are read.
"""

from typing import Literal, TypedDict


class Difference(TypedDict):
    """One score of a model before and after it was released."""

    trained: float
    released: float
    difference: float
    margin: float | None
    """Smallest effect of interest, where the study has one."""
    error: float | None
    """Standard error over prompts, of scores of generated answers."""


class Check(TypedDict):
    """One property of a released folder."""

    name: str
    passed: bool
    detail: str


class Release(TypedDict):
    """What `study export` wrote: ``release/<arm>/seed-<n>/<form>.json``."""

    schema: int
    recipe: str
    arm: str
    seed: int
    digest: str
    """Of the run."""
    form: Literal["adapter", "merged"]
    folder: str
    dtype: str
    base: str
    """What the update was added to: the base's weights, or what NF4 made of them."""
    n_pairs: int
    n_answers: int
    scores: dict[str, Difference]
    checks: list[Check]
    forced: list[str]
    """What --force let through."""
    pushed: str | None
    gguf: str | None
    seconds: float
    peak_memory_bytes: int
    written_at: str
    files: dict[str, str]


class BenchmarkScores(TypedDict):
    """One task of a benchmark, item by item: a run's ``benchmarks/<form>/<task>.json``."""

    schema: int
    recipe: str
    arm: str
    seed: int
    digest: str
    """Of the run."""
    form: Literal["adapter", "merged"]
    groups: list[str]
    """That the task was asked for in."""
    task: str
    metric: str
    asked: str
    """Digest of the task, how it was put, and the weights that answered."""
    chance: float
    """What guessing scores."""
    items: list[str]
    """Hash of every item, in the task's order."""
    scores: list[float]
    passages: list[str] | None
    """Items with the same one belong together."""
    chat: bool
    shots: int | None
    limit: int | None
    harness: str
    seconds: float
    written_at: str


class AnswerRow(TypedDict):
    """One prompt answered by several arms: a line of what `study generate` writes."""

    prompt: list[dict[str, str]]
    answers: dict[str, str]
    seeds: dict[str, int]
    digests: dict[str, str]
    """Arm -> digest of its run."""
