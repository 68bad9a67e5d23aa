"""Records of a study as the analysis holds them: read, checked and frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.records.metrics import example_scores
from study.arms import ARMS, BASELINE, UNTRAINED, arms_in_order
from study.config.claims import load_claims
from study.records.released import BenchmarkScores, JudgedAnswers, JudgeRecord
from study.records.schema import (
    Best,
    ClaimsPlan,
    Confirmation,
    LadderPlan,
    Plan,
    Record,
    RunConfig,
    Trial,
)

LOCAL: Final = Path("runs/local")
"""Where ``study`` writes records unless it is told otherwise."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run of a comparison."""

    recipe: str
    arm: str
    seed: int
    record: Record
    config: RunConfig
    steps: tuple[Mapping[str, Any], ...]
    examples: pd.DataFrame | None
    """Rows of ``examples.parquet`` sorted by example; None when diverged."""
    generations: tuple[Mapping[str, Any], ...]
    answers: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    """Of a run of a ladder: rung -> answers that were generated with it not mended."""

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Every score of each held-out pair; see ``example_scores``. Empty when diverged."""
        return pd.DataFrame() if self.examples is None else example_scores(self.examples)

    @property
    def ok(self) -> bool:
        """Whether the run ended with scores."""
        return bool(self.record["status"] == "ok")


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """One arm's search: its trials, their repetitions and the frozen best."""

    recipe: str
    arm: str
    config: Mapping[str, Any]
    trials: tuple[Trial, ...]
    confirmations: tuple[Confirmation, ...]
    best: Best | None
    """None while the search has not frozen its best settings."""

    @property
    def space(self) -> Mapping[str, tuple[float, float]]:
        """Bounds of every hyperparameter searched."""
        space = self.config["recipe"]["search"]["space"]
        return {
            name: (float(low), float(high))
            for name, (low, high) in in_order(self.arm, space).items()
        }


@dataclass(frozen=True, kw_only=True)
class StudyRecords:
    """Everything below one folder of runs."""

    recipes: tuple[str, ...]
    """Recipes with at least one finished run, in alphabetical order."""
    runs: tuple[RunRecord, ...]
    searches: tuple[SearchRecord, ...]
    unfinished: tuple[tuple[str, str, int], ...]
    """(recipe, arm, seed) of runs that were begun and not finished."""
    plans: Mapping[str, Plan]
    """Recipe -> how its comparison was planned to be judged."""
    bench: Mapping[str, Any] | None = None
    """Part -> what `study bench` measured; None where it lies not beside the records."""
    folder: Path = LOCAL
    """Where the records were read from."""
    history: tuple[Mapping[str, str], ...] = ()
    """``at`` and ``what`` of what an author did before these records, after a look at others."""
    claims: Mapping[str, ClaimsPlan] = field(default_factory=dict)
    """Recipe -> the claims registered with its records, where there are any."""
    asked: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    """(recipe, part) -> the recipe's own file and what was set over it, where known."""
    claim_runs: tuple[RunRecord, ...] = ()
    """Runs that decide claims; their ``arm`` is the name of their setting."""
    ladders: Mapping[str, LadderPlan] = field(default_factory=dict)
    """Recipe -> the ladder that was climbed on it, where one was."""
    ladder_runs: tuple[RunRecord, ...] = ()
    """Runs of ladders; their ``arm`` is the name of their set-up."""
    benchmarks: tuple[BenchmarkScores, ...] = ()
    """Item scores of finished runs on benchmarks, where any were made."""
    judges: tuple[JudgeRecord, ...] = ()
    """Judges of generated answers, with their own accuracy."""
    judged: tuple[JudgedAnswers, ...] = ()
    """What they said of finished runs."""
    matrices: dict[tuple[str, str, str], "Scores | None"] = field(
        init=False, default_factory=dict, compare=False, repr=False
    )
    """(recipe, arm, metric) -> the matrix once it was asked for; see ``score_matrix``."""

    @property
    def sesoi(self) -> Mapping[str, float]:
        """Metric -> smallest effect size of interest, the same for all recipes."""
        found: Mapping[str, float] = self.plans[self.recipes[0]]["sesoi"]
        return found

    @property
    def registered_claims(self) -> tuple[Mapping[str, Any], ...]:
        """Every claim, as a study that trains its arms registered it where there is one."""
        versions = zip(*(plan["claims"] for plan in self.claims.values()), strict=True)
        return tuple(next((one for one in same if one["parts"]), same[0]) for same in versions)

    @property
    def smallest_cost_share(self) -> float:
        """From which share on costs differ; today's where the registered claims have none."""
        registered = [plan["costs"] for plan in self.claims.values() if "costs" in plan]
        costs = (
            registered[0]["smallest_share"] if registered else load_claims().costs.smallest_share
        )
        return float(costs)

    def of(self, recipe: str, arm: str | None = None) -> tuple[RunRecord, ...]:
        """Return the finished runs of a recipe, or of one of its arms."""
        return tuple(run for run in self.runs if run.recipe == recipe and arm in (None, run.arm))

    def side(self, recipe: str, name: str) -> tuple[RunRecord, ...]:
        """Return the finished runs of an arm, or of a setting that decides claims."""
        if name in ARMS:
            return self.of(recipe, name)
        return tuple(run for run in self.claim_runs if (run.recipe, run.arm) == (recipe, name))

    def ok(self, recipe: str, arm: str) -> tuple[RunRecord, ...]:
        """Return an arm's runs that did not diverge."""
        return tuple(run for run in self.of(recipe, arm) if run.ok)

    def arms(self, recipe: str) -> tuple[str, ...]:
        """List the arms of a recipe that have a finished run, in the order of ``ARMS``."""
        return tuple(arms_in_order({run.arm for run in self.of(recipe)}))

    @property
    def treatments(self) -> tuple[str, ...]:
        """List the arms that are judged against the baseline, planned or run."""
        planned = (arm for recipe in self.recipes for arm in self.plans[recipe]["arms"])
        found = {*planned, *(run.arm for run in self.runs)} - {UNTRAINED, BASELINE}
        return tuple(arms_in_order(found))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One metric of one arm: an ``(S, N)`` matrix, seeds by examples."""

    seeds: tuple[int, ...]
    clusters: tuple[str, ...]
    matrix: npt.NDArray[np.float64]


def in_order(arm: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put an arm's settings in the order in which the arm names them."""
    return {name: settings[name] for name in ARMS[arm].hyperparameters}
