"""The frozen rows that tell about the trials of a search: plain values, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BestOf:
    """The best of n random trials."""

    n: int
    expected: float
    low: float | None
    high: float | None
    """Band of the median best of n; None where n trials do not bound it."""


@dataclass(frozen=True, kw_only=True)
class Early:
    """Rank correlation of a score at one step with its final value."""

    step: int
    correlation: float
    low: float
    high: float
    """95 % interval."""


@dataclass(frozen=True, kw_only=True)
class WeightRow:
    """Which trial would have won, had the loss beside NLL another weight."""

    weight: float
    trial: int
    settings: Mapping[str, float]
    nll: float
    second: float
    """The loss beside NLL, ``TuningRow.second``."""
    chosen: bool
    """Whether these are the settings that the search chose."""


@dataclass(frozen=True, kw_only=True)
class FrontRow:
    """A trial that no other beats in both NLL and ranking loss."""

    trial: int
    settings: Mapping[str, float]
    nll: float
    ranking: float
    chosen: bool
    """Whether these are the settings that the search chose."""


@dataclass(frozen=True, kw_only=True)
class EarlyRow:
    """How well the validations of one score foretell its final value."""

    score: str
    n_trials: int
    steps: tuple[Early, ...]


@dataclass(frozen=True, kw_only=True)
class TuningRow:
    """What one finished search spent and what its trials tell beyond the winner."""

    recipe: str
    arm: str
    objective: str
    direction: str
    n_complete: int
    sampled: Mapping[str, int] | None
    """``published``, ``random``, ``tpe`` -> trials; None where it is not on record."""
    n_hyperparameters: int
    updates: int
    seconds: float
    expected_best: tuple[BestOf, ...]
    importance: Mapping[str, float]
    second: str
    """The loss whose weight beside NLL is varied: the objective's own, where it has one."""
    weights: tuple[WeightRow, ...]
    front: tuple[FrontRow, ...]
    """Pareto front of NLL and ranking loss; empty where that loss is not on record."""
    early: tuple[EarlyRow, ...]
    last_step: int
    leader_from: int | None
    """Step from which on the trial that ends best leads."""
    meaning: Mapping[str, str]
    """``expected``, ``importance``, ``weights``, ``front``, ``early`` -> one sentence."""
