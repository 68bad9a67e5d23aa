"""A run that is planned, and what its record says once it is made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.arms import ARMS, Settings
from study.config.canonical import digest
from study.config.environment import environment
from study.config.recipe import Recipe
from study.records.digests import run_config
from study.records.runs import RunFolder
from study.records.schema import SCHEMA, Record
from study.records.searches import arm_settings

if TYPE_CHECKING:
    from study.model.workbench import Workbench
    from study.run.watch import Outcome


@dataclass(frozen=True, kw_only=True)
class PlannedStart:
    """What runs of one arm continue, each the start of its own seed."""

    arm: str
    settings: Settings
    tuned: bool
    """The settings come from a search, not from the recipe."""
    runs: Path
    """Folder of all records."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A finished start: the adapter that a run continues, and what it cost."""

    folder: RunFolder
    record: Record
    scale: float | None = None
    """Of a whole run of another set-up: what its adapter's products are multiplied by there
    over what they are here."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a run's record says of what it continues."""
        return {name: dict(self.record)[name] for name in ("arm", "digest", "settings", "cost")}


@dataclass(frozen=True, kw_only=True)
class AsPublished:
    """What a run of a ladder has beside its set-up, see ``study.run.ladder``."""

    study: Recipe
    """The recipe whose model and data it takes, as other commands name it."""
    after: "PlannedRun | None"
    """The whole run of another arm that it continues."""
    answers: Mapping[str, Mapping[str, Any]]
    """Name -> how prompts are answered once more, see ``study.run.published``."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training of one arm with one seed, and where its record goes."""

    recipe: Recipe
    arm: str
    settings: Settings
    seed: int
    tuned: bool
    """The settings come from a search, not from the recipe."""
    folder: RunFolder
    start: PlannedStart | None = None
    """What the run continues, if its arm continues another."""
    facts: Mapping[str, Any] | None = None
    """Of a start alone: what it is made with, which is part of its name."""
    published: AsPublished | None = None
    """Of a run of a ladder alone."""

    @property
    def config(self) -> dict[str, Any]:
        """The run's complete description; its digest names the run."""
        config = run_config(
            self.recipe,
            arm=self.arm,
            settings=self.settings,
            seed=self.seed,
            start=None if self.start is None else self.start.settings,
        )
        if self.facts is not None:
            config["made_with"] = dict(self.facts)
        if self.published is not None and self.published.after is not None:
            config["after"] = digest(self.published.after.config)
        if self.published is not None and self.published.answers:
            config["answers"] = {k: dict(how) for k, how in self.published.answers.items()}
        return config

    @property
    def alike(self) -> Path:
        """The folder whose runs share model, pairs and tokens; of a ladder one set-up's."""
        seeds = self.folder.path.parent
        return seeds.parent if self.published is None else seeds

    @property
    def study(self) -> Recipe:
        """The recipe that a command was given."""
        return self.recipe if self.published is None else self.published.study

    @property
    def part(self) -> str:
        """The arm, or the name of its setting where a claim rests on the run."""
        return self.folder.path.parent.name

    @property
    def name(self) -> str:
        """Recipe, part and seed, for messages."""
        return f"{self.recipe.name}/{self.part}/seed-{self.seed}"


def planned_start(recipe: Recipe, arm: str, *, runs: Path) -> PlannedStart | None:
    """Plan what runs of an arm continue: at its frozen settings, or else the recipe's.

    Raises:
        RecordError: the settings were tuned under another configuration.
    """
    name = ARMS[arm].starts_from
    if name is None:
        return None
    settings, tuned = arm_settings(recipe, name, runs=runs)
    return PlannedStart(arm=name, settings=settings, tuned=tuned, runs=runs)


def record_of(
    workbench: "Workbench",
    run: PlannedRun,
    outcome: "Outcome",
    scores: Mapping[str, float],
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what ``record.json`` says of a run, the checksums of its files aside."""
    from study.run.prompts import SCORING

    config = run.config
    return {
        "schema": SCHEMA,
        "status": outcome.status,
        "digest": digest(config),
        "recipe": run.recipe.name,
        "arm": run.arm,
        "settings": config["settings"],
        "seed": run.seed,
        "tuned": run.tuned,
        "scores": dict(scores),
        "divergence": outcome.divergence,
        "data": workbench.data_summary,
        **({} if outcome.budget is None else {"budget": outcome.budget}),
        **({} if outcome.start is None else {"start": outcome.start}),
        "cost": dict(cost),
        "parameters": outcome.parameters,
        "model": workbench.base.resolved,
        "scoring": dict(SCORING),
        "self_check": None if workbench.base.checked is None else asdict(workbench.base.checked),
        "out_of_memory": outcome.out_of_memory,
        **environment(str(workbench.device)),
    }
