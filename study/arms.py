"""What an arm is."""

import math
import types
from collections.abc import Mapping
from typing import Any

from study.errors import nearest, require

ARM_SETTINGS: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {"base": (), "sft": ("learning_rate",), "orpo": ("learning_rate", "beta")}
)
"""Every arm with the hyperparameters that its loss takes; ``base`` never trains."""


Settings = Mapping[str, float]


def check_settings(where: str, arm: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that are not exactly those of an arm, or not positive.

    Raises:
        ConfigError: with what the arm takes.
    """
    require(
        arm in ARM_SETTINGS,
        f"{where}: there is no arm {arm!r}{nearest(arm, ARM_SETTINGS)}; "
        f"arms are {', '.join(ARM_SETTINGS)}",
    )
    require(
        set(settings) == set(ARM_SETTINGS[arm]),
        f"{where} has {sorted(settings)}; {arm} takes {sorted(ARM_SETTINGS[arm])}",
    )
    for name, value in settings.items():
        require(
            not isinstance(value, float | int) or (math.isfinite(value) and value > 0),
            f"{where}.{name} is {value}; it must be positive and finite",
        )
