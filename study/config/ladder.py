"""The ladder of an article: how its comparison was published, mended one rung after another.

``ladder.toml`` holds the rungs as data. ``climb`` works out how each arm is trained
and scored on each of them, for the model and the data of any recipe.
"""

import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Final, Literal

from study.arms import BASELINE
from study.config.build import build
from study.config.recipe import Recipe
from study.errors import ConfigError, require

LADDERS: Final = {"article-a": "ladder.toml"}
"""Article that can be reproduced -> the file of its rungs."""

TREATMENT: Final = "orpo"
"""The arm that the article holds against the baseline."""

PUBLISHED: Final = "published"
"""What the set-ups are called on which nothing is mended."""

START: Final = "start"
"""Rung below which the treatment continues the baseline's model."""

OF_ANSWERS: Final = ("first-turns", "sampling", "template-of-prompts")
"""Rungs of scoring that change which answers are generated."""

SCORING: Final = ("denominator", "prompt-in-answer", *OF_ANSWERS)
"""Rungs of scoring; each is carried out by name."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One difference between the arms, or fault of the scoring, and how it is mended."""

    id: str
    point: int
    """Of the list of what the published code does."""
    touches: Literal["scoring", "training", "comparison"]
    published: str
    mended: str
    sft: tuple[str, ...] = ()
    """Assignments for SFT as published."""
    orpo: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    """Assignments for either arm once it is mended."""


@dataclass(frozen=True, kw_only=True)
class NotMended:
    """A point about the published code that no rung mends."""

    point: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How the article's answers were drawn."""

    max_new_tokens: int
    temperature: float
    top_p: float
    """Share of the probability that the likeliest tokens have, which alone are drawn."""


@dataclass(frozen=True, kw_only=True)
class RateScale:
    """What the published rates are multiplied by for models of one size."""

    models: tuple[str, ...]
    """Beginnings of the names of its models; an empty one takes all."""
    rates: float
    chosen: str


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """All rungs, in the order in which they are mended."""

    recipe: str
    """The article's own recipe."""
    shared: tuple[str, ...]
    """Assignments for both arms on every rung."""
    answers: Answers
    scales: tuple[RateScale, ...]
    rungs: tuple[Rung, ...]
    not_mended: tuple[NotMended, ...]

    def __post_init__(self) -> None:
        """Refuse rungs that nothing carries out."""
        ids = [rung.id for rung in self.rungs]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        require(not twice, f"rung {twice[:1]} stands twice; ids must differ")
        scoring = [rung.id for rung in self.rungs if rung.touches == "scoring"]
        require(
            sorted(scoring) == sorted(SCORING),
            f"rungs of scoring are {scoring}; there must be one of each of {', '.join(SCORING)}",
        )
        require(START in ids, f"there is no rung {START!r}, below which ORPO continues SFT")

    def scale_of(self, recipe: Recipe) -> RateScale:
        """Return the scale of a recipe's model: the first that its name fits.

        Raises:
            ConfigError: none does.
        """
        for scale in self.scales:
            if any(recipe.model.name.startswith(start) for start in scale.models):
                return scale
        raise ConfigError(f"no scale of the ladder names a model like {recipe.model.name!r}")


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """How one arm is trained on some rungs."""

    name: str
    """Arm and the rung that mended it last; names its folder."""
    arm: str
    recipe: Recipe
    start: str
    """Name of the set-up whose run of the same seed it continues; empty for none."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is trained and how it is scored once a rung and all below it are mended."""

    rung: str
    """The rung that was mended last, or ``published``."""
    baseline: SetUp
    treatment: SetUp
    flaws: tuple[str, ...]
    """Rungs of scoring that are not mended yet."""

    @property
    def flaws_of_answers(self) -> tuple[str, ...]:
        """Rungs yet to be mended that change which answers are generated."""
        return tuple(flaw for flaw in self.flaws if flaw in OF_ANSWERS)

    @property
    def answers(self) -> str:
        """Name of the answers that are scored: the first of these rungs, or none."""
        return next(iter(self.flaws_of_answers), "")


def load_ladder(article: str) -> Ladder:
    """Read the rungs of an article that can be reproduced.

    Raises:
        ConfigError: broken TOML, or unknown, missing or mistyped fields.
    """
    name = LADDERS[article]
    text = resources.files("study").joinpath(f"sources/{name}").read_text("utf-8")
    try:
        ladder: Ladder = build(Ladder, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{name}: {error}") from error
    return ladder


def climb(ladder: Ladder, recipe: Recipe) -> tuple[Stage, ...]:
    """List the stages of a ladder, as published first, on the model and data of a recipe.

    Raises:
        ConfigError: the recipe does not train both arms.
    """
    stages: list[Stage] = []
    for mended in range(len(ladder.rungs) + 1):
        done = [rung.id for rung in ladder.rungs[:mended]]
        before = stages[-1] if stages else None
        baseline = _set_up(ladder, recipe, BASELINE, done)
        baseline = _or_same(before.baseline if before else None, baseline)
        continued = "" if START in done else baseline.name
        treatment = _set_up(ladder, recipe, TREATMENT, done, start=continued)
        treatment = _or_same(before.treatment if before else None, treatment)
        flaws = tuple(rung.id for rung in ladder.rungs[mended:] if rung.touches == "scoring")
        stages.append(
            Stage(
                rung=done[-1] if done else PUBLISHED,
                baseline=baseline,
                treatment=treatment,
                flaws=flaws,
            )
        )
    return tuple(stages)


def set_ups(stages: tuple[Stage, ...]) -> dict[str, SetUp]:
    """Return every set-up of a ladder by its name, those that others continue first."""
    found = {one.name: one for stage in stages for one in (stage.baseline, stage.treatment)}
    return dict(sorted(found.items(), key=lambda item: bool(item[1].start)))


def _set_up(ladder: Ladder, recipe: Recipe, arm: str, done: list[str], *, start: str = "") -> SetUp:
    return SetUp(
        name=f"{arm}-{done[-1] if done else PUBLISHED}",
        arm=arm,
        recipe=_recipe_of(ladder, recipe, arm, done),
        start=start,
    )


def _or_same(before: SetUp | None, found: SetUp) -> SetUp:
    """Return the set-up before where nothing changed, which keeps its name."""
    same = before is not None and replace(found, name=before.name) == before
    return before if before is not None and same else found


def _recipe_of(ladder: Ladder, recipe: Recipe, arm: str, done: list[str]) -> Recipe:
    own = _with_two_arms(recipe)
    assignments = [*ladder.shared]
    for rung in ladder.rungs:
        assignments += rung.both if rung.id in done else getattr(rung, arm)
    found = own.override(assignments)
    settings = found.arms[arm]
    rate = float(f"{settings['learning_rate'] * ladder.scale_of(recipe).rates:.6g}")
    found = replace(found, arms={arm: {**settings, "learning_rate": rate}})
    return _as_many_examples(found, own)


def _with_two_arms(recipe: Recipe) -> Recipe:
    """Leave the arms out that the article does not have, and that a rung may not suit."""
    arms = (BASELINE, TREATMENT)
    for arm in arms:
        require(
            arm in recipe.arms,
            f"{recipe.name} has no arm {arm!r}, and the article compares {' with '.join(arms)}; "
            f"give it arms.{arm}",
        )
    space = {arm: recipe.search.space[arm] for arm in arms if arm in recipe.search.space}
    require(bool(space), f"{recipe.name} searches neither {' nor '.join(arms)}; give it a space")
    return replace(
        recipe,
        arms={arm: recipe.arms[arm] for arm in arms},
        search=replace(recipe.search, space=space),
    )


def _as_many_examples(recipe: Recipe, own: Recipe) -> Recipe:
    """Let a run read as many pairs as the recipe's own would, whatever an update holds."""
    ratio = own.training.batch_pairs / recipe.training.batch_pairs

    def steps(n: int) -> int:
        return max(1, round(n * ratio)) if n else 0

    training: Any = recipe.training
    every = ("warmup_steps", "log_every_steps", "validate_every_steps", "checkpoint_every_steps")
    scaled = {name: steps(getattr(training, name)) for name in every}
    if not training.epochs:
        scaled["max_steps"] = steps(own.training.max_steps)
    return replace(recipe, training=replace(training, **scaled))
