"""What is recorded of finished runs that are used: exports, benchmark scores, verdicts, answers.

A part of the description in `study.records.schema`, whose number they carry and by
whose functions they are read.
"""

from typing import Any, Literal, NotRequired, TypedDict


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


class Verdicts(TypedDict):
    """What a judge said of single comparisons, in the order of ``items``."""

    items: list[str]
    """Example ids."""
    clusters: list[str]
    wins: list[float | None]
    """1 where the first answer wins, 0 where it loses, 0.5 for a tie or a verdict that turned with
    the order; None where there is no verdict."""
    parts: list[list[float | None]]
    """What ``wins`` rests on: the rewards of both answers, or the verdict with the answer shown
    first and with it shown second."""
    missing: dict[str, int]
    """Why there is no verdict -> how often."""
    turned: int
    """Comparisons whose winner changed with the order of the answers."""


class JudgeRecord(TypedDict):
    """A judge and its own accuracy: a recipe's ``judges/<judge>.json``."""

    schema: int
    recipe: str
    judge: str
    """Names the judge and the way it is asked; also the files in the runs' folders."""
    kind: Literal["reward", "endpoint"]
    name: str
    identity: str
    """Of a reward model: its commit, or the hash of its folder. Of an endpoint: its address."""
    settings: dict[str, Any]
    """How it is asked."""
    trained_on: NotRequired[Literal["training pairs", "other pairs"]]
    """Of a judge that `study judge --train` made: whether on this recipe's training pairs."""
    asked: str
    """Digest of the judge, the way it is asked and the pairs."""
    held_out: Verdicts
    """Chosen against rejected answers of test pairs; the chosen one should win."""
    spent: dict[str, float]
    """Calls, tokens and cost of what was asked for this record, by an endpoint."""
    written_at: str


class JudgedAnswers(TypedDict):
    """A run's answers against the chosen ones: its ``judged/<judge>.json``."""

    schema: int
    recipe: str
    arm: str
    seed: int
    digest: str
    """Of the run."""
    judge: str
    asked: str
    """Digest of the judge, the way it is asked and the answers."""
    verdicts: Verdicts
    lengths: list[int]
    """Characters of the run's answers."""
    reference_lengths: list[int]
    """Characters of the chosen answers."""
    limit: int | None
    spent: dict[str, float]
    seconds: float
    written_at: str


class AnswerRow(TypedDict):
    """One prompt answered by several arms: a line of what `study generate` writes."""

    prompt: list[dict[str, str]]
    answers: dict[str, str]
    seeds: dict[str, int]
    digests: dict[str, str]
    """Arm -> digest of its run."""
