"""Claims of the sources, registered as data, and the runs that decide them.

``claims.toml`` holds the sentences, what each predicts and the settings that
its runs are trained at. ``register`` writes them beside the records before the
first run; ``study.run.claims`` trains the settings that no comparison has.
"""

import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from typing import Final, Literal

from study.arms import ARMS, UNTRAINED, Settings, arms_in_order
from study.config.build import build
from study.config.recipe import Recipe
from study.errors import ConfigError, require

SETTINGS_OF: Final = "orpo"
"""The arm that the sources make claims about, which named settings train."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One prediction: how a treatment differs from a baseline in one metric."""

    kind: Literal["contrast", "as_published", "curve", "rank", "cost", "ladder", "ladder_share"]
    """``contrast`` compares scores of held-out pairs; ``as_published`` scores
    them as article A's code does; ``curve`` asks for the share of a score's way
    that the first updates go; ``rank`` for the rank correlation of early with
    final values of trials; ``cost`` compares what runs cost; ``ladder`` compares as an
    article published it, ``ladder_share`` where the loss alone differs, with half of
    the gap under the published training (``study.config.ladder``)."""
    metric: Literal[
        "accuracy",
        "margin",
        "chosen_logps",
        "rejected_logps",
        "rougeL",
        "exact_match",
        "response_tokens",
        "train_s",
        "train_tokens",
        "peak_memory_bytes",
    ]
    baseline: str
    """An arm or a setting; empty for ``curve`` and ``rank``."""
    treatment: str
    direction: Literal["higher", "lower"]
    """Where the claim sees the treatment; for ``curve`` and ``rank``, the score
    against the bound in ``Early``."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a source, in our words."""

    id: str
    source: str
    sentence: str
    model: str
    """Model that it was made on."""
    data: str
    """Data that it was made on."""
    not_testable: str
    """Why no record can decide it; empty where they can."""
    parts: tuple[Part, ...]
    """All must hold; parts of a claim that is not testable are only measured."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Settings of ORPO for models of one size, fixed before any run."""

    models: tuple[str, ...]
    """Beginnings of the names of its models; an empty one takes all."""
    chosen: str
    """How the learning rate was chosen."""
    settings: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Early:
    """What counts as early, and as a ranking that misleads."""

    share_of_updates: float
    rank_correlation: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """From when on a difference of costs matters."""

    smallest_share: float
    """Of the lower cost: two that differ by less are the same."""


@dataclass(frozen=True, kw_only=True)
class Registry:
    """All claims and the settings that decide them."""

    early: Early
    costs: Costs
    scales: dict[str, Scale]
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        """Refuse names that nothing answers to."""
        ids = [claim.id for claim in self.claims]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        require(not twice, f"claim {twice[:1]} is registered twice; ids must differ")
        for field in ("share_of_updates", "rank_correlation"):
            value = getattr(self.early, field)
            require(0 < value < 1, f"early.{field} is {value}; it must be between 0 and 1")
        share = self.costs.smallest_share
        require(0 < share < 1, f"costs.smallest_share is {share}; it must be between 0 and 1")
        require(bool(self.scales), "scales is empty; it must name at least one")
        first, *others = (set(scale.settings) for scale in self.scales.values())
        require(
            all(names == first for names in others),
            "all scales must have settings of the same names, so that every claim has its runs",
        )
        for name, scale in self.scales.items():
            for setting, values in scale.settings.items():
                _check_setting(f"scales.{name}.settings.{setting}", setting, values)
        for claim in self.claims:
            _check_claim(claim, {*ARMS, *first})

    def within(self, recipe: Recipe) -> "Registry":
        """Return the registry for a recipe: a claim on arms that it does not train waits."""
        _, scale = self.scale_of(recipe)
        here = {UNTRAINED, *recipe.arms, *scale.settings}
        return replace(self, claims=tuple(_within(claim, here) for claim in self.claims))

    def scale_of(self, recipe: Recipe) -> tuple[str, Scale]:
        """Return the scale of a recipe's model: the first that its name fits.

        Raises:
            ConfigError: none does.
        """
        for name, scale in self.scales.items():
            if any(recipe.model.name.startswith(start) for start in scale.models):
                return name, scale
        raise ConfigError(
            f"no scale of claims.toml names a model like {recipe.model.name!r}; "
            f"add one with its settings, or add the model to one of {', '.join(self.scales)}"
        )


def load_claims() -> Registry:
    """Read the registered claims.

    Raises:
        ConfigError: broken TOML, or unknown, missing or mistyped fields.
    """
    return parse_claims(resources.files("study").joinpath("sources/claims.toml").read_text("utf-8"))


def parse_claims(text: str) -> Registry:
    """Read claims from TOML; see ``load_claims``."""
    try:
        registry: Registry = build(Registry, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"claims.toml: {error}") from error
    return registry


def _within(claim: Claim, here: set[str]) -> Claim:
    named = {name for part in claim.parts for name in (part.baseline, part.treatment) if name}
    missing = arms_in_order(named - here)
    if not missing:
        return claim
    labels = " or ".join(ARMS[arm].label for arm in missing)
    reason = claim.not_testable or f"this study does not train {labels}"
    return replace(claim, parts=(), not_testable=reason)


def _check_claim(claim: Claim, names: set[str]) -> None:
    require(
        bool(claim.parts) or bool(claim.not_testable),
        f"claim {claim.id} has no parts; say in not_testable why nothing can decide it",
    )
    for part in claim.parts:
        alone = part.kind in ("curve", "rank")
        require(
            (part.baseline == "") == alone,
            f"claim {claim.id}: a part of kind {part.kind!r} "
            f"{'takes no baseline' if alone else 'needs a baseline'}",
        )
        for name in filter(None, (part.baseline, part.treatment)):
            require(
                name in names,
                f"claim {claim.id} names {name!r}; it must be one of {', '.join(sorted(names))}",
            )


def _check_setting(where: str, name: str, values: Settings) -> None:
    taken = ARMS[SETTINGS_OF].hyperparameters
    require(name not in ARMS, f"{where}: {name!r} is an arm; name the setting otherwise")
    require(
        set(values) == set(taken) and all(value > 0 for value in values.values()),
        f"{where} is {values}; it must give {' and '.join(taken)}, above zero",
    )
