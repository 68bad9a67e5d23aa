"""What an arm is: one way to train, as data. Adding one is an entry in ``ARMS``.

A new arm takes its entry here, a loss in ``study/losses.py``, settings and a
space in a recipe, and a test against an oracle; what the report says of it in one
line stands in ``paper/wording.py``.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from study import losses
from study.errors import nearest, require

if TYPE_CHECKING:
    from torch import Tensor

Settings = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train the adapter; arms of a comparison differ in nothing else."""

    name: str
    """Key in recipes, options, folders and records."""
    label: str
    """Name in print."""
    colour: str
    """Of its marks in every figure, as ``#rrggbb``."""
    hyperparameters: tuple[str, ...] = ()
    """What its loss takes, the learning rate first; all are positive."""
    loss: "Callable[..., Tensor] | None" = None
    """See ``study.losses``; None trains nothing."""
    reads: Literal["chosen", "pair"] = "chosen"
    """Whether the loss reads the rejected answers as well."""
    prompt_nll: bool = True
    """Whether its NLL covers the prompt too where ``training.nll_over`` says so; False
    for losses without an NLL, and for CPO's, which is of the answer alone."""
    starts_from: str | None = None
    """Arm whose run of the same seed it continues; None starts from a fresh adapter."""
    reference: bool = False
    """Whether the loss reads log-probabilities under the start, see ``PairLogps``."""
    mismatched: bool = False
    """Whether the loss takes ``z`` of the whole update, see ``study.losses.kto``."""
    tuned_as: str | None = None
    """Arm whose search freezes its settings too; None has a search of its own."""
    budget: Literal["updates", "tokens"] = "updates"
    """``updates`` trains the recipe's updates; ``tokens`` as many updates as it takes
    to compute the distinct tokens of the dearest arm, see ``costly_arms``."""


UNTRAINED: Final = "base"
"""The arm that is scored as it is, once: the fixed reference."""

BASELINE: Final = "sft"
"""The arm that every other trained arm is judged against."""

# Colours are apart for colour-blind readers, in lightness too (after Okabe and Ito 2008).
ARMS: Final[dict[str, Arm]] = {
    arm.name: arm
    for arm in (
        Arm(name=UNTRAINED, label="Base", colour="#6b6b6b"),
        Arm(
            name=BASELINE,
            label="SFT",
            colour="#D55E00",
            hyperparameters=("learning_rate",),
            loss=losses.sft,
        ),
        Arm(
            name="sft-matched",
            label="token-matched SFT",
            colour="#E69F00",
            hyperparameters=("learning_rate",),
            loss=losses.sft,
            tuned_as=BASELINE,
            budget="tokens",
        ),
        Arm(
            name="orpo",
            label="ORPO",
            colour="#0072B2",
            hyperparameters=("learning_rate", "beta"),
            loss=losses.orpo,
            reads="pair",
        ),
        Arm(
            name="orpo-from-sft",
            label="SFT then ORPO",
            colour="#88CCEE",
            hyperparameters=("learning_rate", "beta"),
            loss=losses.orpo,
            reads="pair",
            starts_from=BASELINE,
        ),
        Arm(
            name="dpo",
            label="DPO",
            colour="#00b894",
            hyperparameters=("learning_rate", "beta"),
            loss=losses.dpo,
            reads="pair",
            prompt_nll=False,
            starts_from=BASELINE,
            reference=True,
        ),
        Arm(
            name="ipo",
            label="IPO",
            colour="#000000",
            hyperparameters=("learning_rate", "beta"),
            loss=losses.ipo,
            reads="pair",
            prompt_nll=False,
            starts_from=BASELINE,
            reference=True,
        ),
        Arm(
            name="kto",
            label="KTO",
            colour="#7b1e3a",
            hyperparameters=("learning_rate", "beta"),
            loss=losses.kto,
            reads="pair",
            prompt_nll=False,
            starts_from=BASELINE,
            reference=True,
            mismatched=True,
        ),
        Arm(
            name="simpo",
            label="SimPO",
            colour="#9b8cff",
            hyperparameters=("learning_rate", "beta", "gamma_beta_ratio"),
            loss=losses.simpo,
            reads="pair",
            prompt_nll=False,
            starts_from=BASELINE,
        ),
        Arm(
            name="cpo",
            label="CPO",
            colour="#332288",
            hyperparameters=("learning_rate", "beta"),
            loss=losses.cpo,
            reads="pair",
            prompt_nll=False,
            starts_from=BASELINE,
        ),
    )
}
"""Every arm by name, as tables and figures list them: SFT, what needs no start, the rest."""


def check_settings(where: str, arm: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that are not exactly those of an arm, or not positive.

    Raises:
        ConfigError: with what the arm takes.
    """
    require(
        arm in ARMS,
        f"{where}: there is no arm {arm!r}{nearest(arm, ARMS)}; arms are {', '.join(ARMS)}",
    )
    taken = ARMS[arm].hyperparameters
    require(
        set(settings) == set(taken),
        f"{where} has {sorted(settings)}; {arm} takes {sorted(taken)}",
    )
    for name, value in settings.items():
        require(
            not isinstance(value, float | int) or (math.isfinite(value) and value > 0),
            f"{where}.{name} is {value}; it must be positive and finite",
        )


def arms_of(known: Iterable[str], wanted: Collection[str], where: str) -> list[str]:
    """Return the known arms that are wanted, all of them where none is named.

    Raises:
        ConfigError: one that is wanted is not known; ``where`` says of what.
    """
    names = list(known)
    for name in wanted:
        require(
            name in names,
            f"{where} has no arm {name!r}{nearest(name, names)}; its arms are {', '.join(names)}",
        )
    return [name for name in names if not wanted or name in wanted]


def costly_arms(names: Iterable[str]) -> list[str]:
    """Return the arms of which one computes most tokens, of those trained by updates.

    Of arms with the same start, one computes most whatever the pairs are. Whether one
    that continues another computes more than one that does not depends on them.
    """
    dearest: dict[str | None, Arm] = {}
    for arm in map(ARMS.__getitem__, arms_in_order(names)):
        if arm.loss is not None and arm.budget == "updates":
            beside = dearest.setdefault(arm.starts_from, arm)
            dearest[arm.starts_from] = max(beside, arm, key=_passes)
    require(
        bool(dearest),
        "an arm that is matched in tokens needs another beside it, trained for a number of updates",
    )
    return [arm.name for arm in dearest.values()]


def _passes(arm: Arm) -> tuple[bool, bool, bool]:
    """Return what an arm computes beyond the chosen answers; each has all before it."""
    return arm.reads == "pair", arm.reference, arm.mismatched


def arms_in_order(names: Iterable[str]) -> list[str]:
    """Put names of arms in the order of ``ARMS``, unknown ones last."""
    known = list(ARMS)
    return sorted(names, key=lambda name: (known.index(name) if name in ARMS else len(known), name))
