"""What records hold, described once for who writes them and who reads them.

``SCHEMA`` numbers the description. Records of an earlier schema are upgraded as
they are read, or refused; records of a later one are always refused.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Final,
    Literal,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from study.errors import RecordError
from study.records.files import read_json, read_jsonl

T = TypeVar("T")

SCHEMA: Final = 2
"""Version of the records' layout, part of every digest."""

UPGRADES: Final[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""Schema -> what turns its records into those of the next one."""

Settings = dict[str, float]


class Divergence(TypedDict):
    """Where a run diverged."""

    step: int
    example_ids: list[str]


class Cost(TypedDict, total=False):
    """What a run took, with its start and its reference; nothing where nothing was measured."""

    train_s: float
    evaluate_s: float
    steps: int
    train_tokens: int
    """Distinct tokens of every pass but those of evaluation."""
    reference_s: float
    reference_tokens: int
    """Of the log-probabilities under the start, for an arm that reads them."""
    peak_memory_bytes: int


class StartFacts(TypedDict):
    """What a run continues: a finished run of another arm with its seed."""

    arm: str
    digest: str
    """Names its folder."""
    settings: Settings
    cost: Cost
    """It is part of the cost of every run that continues it."""


class Record(TypedDict):
    """One finished run: ``record.json``."""

    schema: int
    status: Literal["ok", "diverged"]
    digest: str
    """Of the run's configuration."""
    recipe: str
    arm: str
    settings: Settings
    seed: int
    tuned: bool
    """The settings come from a search, not from the recipe."""
    scores: dict[str, float | None]
    """Means over the held-out pairs, of a start over the validation pairs; none where the run
    diverged."""
    divergence: Divergence | None
    data: dict[str, Any]
    """Source, rows left out, and the size and fingerprint of each split."""
    cost: Cost
    parameters: dict[str, int]
    model: dict[str, Any]
    """Commit, dtype and quantisation that were used."""
    scoring: NotRequired[dict[str, str]]
    """How answers were scored; older records do not say."""
    self_check: NotRequired[dict[str, Any] | None]
    """Which forward pass and which way of answering the model was right in."""
    budget: NotRequired[dict[str, Any]]
    """Updates of an arm whose budget is another arm's."""
    start: NotRequired[StartFacts]
    """Of an arm that continues another."""
    out_of_memory: list[dict[str, int]]
    versions: dict[str, str]
    device: str
    git: str
    finished_at: str
    files: dict[str, str]
    """Name of each file beside the record -> its SHA-256."""


class RunConfig(TypedDict):
    """A run's or a search's ``config.json``: what its digest names."""

    schema: int
    arm: str
    settings: NotRequired[Settings]
    """Of a run; a search has a space instead."""
    start: NotRequired[dict[str, Any]]
    """Arm, settings and share of updates of what is continued."""
    budget: NotRequired[dict[str, Any]]
    """Arms of which the dearest decides the number of updates."""
    made_with: NotRequired[dict[str, Any]]
    """Of a start: weights, pairs and kind of device."""
    after: NotRequired[str]
    """Of a run of a ladder: the digest of the whole run that it continues."""
    answers: NotRequired[dict[str, Any]]
    """Of a run of a ladder: in which other ways its prompts are answered."""
    seed: int
    recipe: dict[str, Any]
    digest: str


class Plan(TypedDict):
    """How a comparison will be judged: the ``config.json`` of its folder."""

    schema: int
    seeds: list[int]
    paired: bool
    primary_metric: NotRequired[str]
    """In plans of before there were two."""
    primary_metrics: NotRequired[list[str]]
    secondary_metrics: NotRequired[list[str]]
    sesoi: dict[str, float]
    arms: dict[str, Settings]
    written_at: str
    amended: list[dict[str, Any]]
    """Earlier plans, each with the number of runs that had finished by then."""
    history: NotRequired[list[dict[str, Any]]]
    """What else was done, with time and finished runs."""


class ClaimsPlan(TypedDict):
    """The registered claims: the ``config.json`` of their folder."""

    schema: int
    seeds: list[int]
    paired: bool
    scale: str
    chosen: Any
    settings: dict[str, Settings]
    early: Any
    costs: NotRequired[Any]
    """In plans of today; those of before had no smallest difference of costs."""
    claims: Any
    written_at: str
    amended: list[dict[str, Any]]


class Step(TypedDict):
    """How far a ladder is climbed: what is compared with a rung and all below it mended."""

    rung: str
    """``published`` where nothing is."""
    touches: str
    published: str
    mended: str
    flaws: list[str]
    """Rungs of scoring that are not mended yet."""
    answers: str
    """The answers that are scored; empty for the study's own."""
    baseline: str
    """A set-up."""
    treatment: str


class LadderPlan(TypedDict):
    """The ladder that a reproduction climbs: the ``config.json`` of its folder."""

    schema: int
    seeds: list[int]
    paired: bool
    article: str
    chosen: str
    """Why these rates."""
    steps: list[Step]
    set_ups: dict[str, Any]
    """Set-up -> its settings and the set-up that it continues."""
    written_at: str
    amended: list[dict[str, Any]]


class Facts(TypedDict):
    """What all runs of a folder share: ``resolved.json``."""

    model: dict[str, Any]
    data: dict[str, str]
    device: Literal["cpu", "gpu"]
    tokens: NotRequired[dict[str, Any]]


class Trial(TypedDict):
    """One finished trial of a search: a line of ``trials.jsonl``."""

    number: int
    state: Literal["complete", "pruned", "diverged"]
    settings: Settings
    value: float | None
    nll: float | None
    lor: float | None
    ranking: NotRequired[float | None]
    accuracy: float | None
    margin: float | None
    log_odds: float | None
    published: str | None
    sampled: str | None
    intermediate: list[dict[str, Any]]
    """Validation scores and their ``step``."""
    seconds: float
    seed: int


class Confirmation(TypedDict):
    """One repetition of a trial: a line of ``confirmations.jsonl``."""

    trial: int
    settings: Settings
    seed: int
    status: Literal["ok", "diverged"]
    value: float | None


class Best(TypedDict):
    """What a search froze: ``best.json``."""

    recipe: str
    arm: str
    digest: str
    objective: str
    direction: Literal["minimize", "maximize"]
    settings: Settings
    trial: int
    trial_value: float
    value: float
    optimism: float
    n_trials: int
    n_pruned: int
    n_diverged: int
    n_candidates: int
    search_seed: int
    confirmation_seeds: list[int]
    starts: NotRequired[list[dict[str, Any]]]
    """Seed, digest and cost of each start that the trainings continued."""
    rows: NotRequired[dict[str, list[Any]]]
    """File -> number of rows and their digest when this was chosen from them."""
    journal: NotRequired[list[Any]]
    """Size of the storage's file and its SHA-256 then; it is only ever appended to."""


Bench = dict[str, dict[str, Any]]
"""Part -> what `study bench` measured: ``bench.json``."""


def read_as(path: Path, kind: type[T]) -> T | None:
    """Read a JSON file by its description; None where there is no file."""
    value = read_json(path)
    return None if value is None else checked(value, kind, path)


def rows_as(path: Path, kind: type[T], *, growing: bool = False) -> list[T]:
    """Read a JSON-lines file by the description of its lines."""
    return [checked(row, kind, path) for row in read_jsonl(path, growing=growing)]


def checked(value: Mapping[str, Any], kind: type[T], path: Path) -> T:
    """Return a record in the present schema.

    Args:
        value: what a file holds; keys beyond the description are let through.
        kind: one of this module's descriptions.
        path: where it was read, for messages.

    Raises:
        RecordError: another version wrote it, or it does not fit its description.
    """
    found: Any = upgraded(value, path)
    if faults := _misfits(found, kind, ""):
        raise RecordError(
            f"{path} is damaged ({faults[0]}); restore it, or set the old records aside with "
            "--fresh"
        )
    return cast(T, found)


def upgraded(value: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Bring a record to the present schema.

    Raises:
        RecordError: it is of a later schema, or of one that is no longer read.
    """
    number = value.get("schema", SCHEMA)
    if isinstance(number, int) and number > SCHEMA:
        raise RecordError(
            f"{path} was made by a newer version of this package (schema {number}; this one reads "
            f"up to {SCHEMA}); update the package, or name another folder with --runs"
        )
    while number != SCHEMA:
        if number not in UPGRADES:
            raise RecordError(
                f"{path} has schema {number}, which is no longer read (this version writes "
                f"{SCHEMA}); use the version that made it, or set it aside with --fresh"
            )
        value = UPGRADES[number]({**value})
        number = value["schema"]
    return {**value}


def _misfits(value: Any, kind: Any, name: str) -> list[str]:
    """Say what of a value does not fit a type."""
    origin, parts = get_origin(kind), get_args(kind)
    found: list[str] = []
    if origin in (Union, UnionType):
        tried = [_misfits(value, part, name) for part in parts]
        found = [] if [] in tried else tried[0]
    elif origin is Literal:
        found = [] if value in parts else [f"{name} is {value!r}, not one of {parts}"]
    elif kind is not Any and not _is_a(value, origin or kind):
        wanted = "an object" if is_typeddict(kind) else getattr(kind, "__name__", str(kind))
        found = [f"{name or 'it'} is {str(value)[:40]!r}, not {wanted}"]
    elif is_typeddict(kind):
        lost = sorted(kind.__required_keys__ - value.keys())
        found = [f"{_join(name, key)} is missing" for key in lost]
    for key, part in _inner(value, kind, found):
        found += _misfits(value[key], part, _join(name, str(key)))
    return found


def _is_a(value: Any, kind: Any) -> bool:
    if is_typeddict(kind):
        return isinstance(value, Mapping)
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _inner(value: Any, kind: Any, found: list[str]) -> list[tuple[Any, Any]]:
    """List the (key, type) of what a sound container holds."""
    if found or get_origin(kind) in (None, Union, UnionType, Literal):
        hints = _hints_of(kind) if is_typeddict(kind) and not found else {}
        return [(key, hints[key]) for key in sorted(hints.keys() & set(value))] if hints else []
    part = get_args(kind)[-1]
    return [(key, part) for key in (value if isinstance(value, Mapping) else range(len(value)))]


@functools.cache
def _hints_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
