"""Print numbers, settings and names, alike in every sentence, figure and table."""

import math
from collections.abc import Mapping

from analysis.rows import ContrastRow, Metric

MISSING = "–"


def number(value: float | None, digits: int) -> str:
    """Print a number with fixed digits and a real minus sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    rounded = round(value, digits) + 0.0
    return f"{rounded:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """Print an effect: a number whose sign is always shown, zero excepted."""
    text = number(value, digits)
    return f"+{text}" if value is not None and round(value, digits) > 0 else text


def percent(value: float | None) -> str:
    """Print a share as ``64 %``."""
    return MISSING if value is None else f"{number(100 * value, 0)}\N{NO-BREAK SPACE}%"


def setting(value: float | None) -> str:
    """Print a hyperparameter: ``3e-3`` below 0.01, else decimals, 3 figures."""
    if value is None:
        return MISSING
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def settings(values: Mapping[str, float]) -> str:
    """Print settings as ``learning rate 3e-3, β 0.1``."""
    return ", ".join(f"{setting_name(name)} {setting(value)}" for name, value in values.items())


def setting_name(name: str) -> str:
    """Print the name of a hyperparameter in words."""
    return {"beta": "β"}.get(name, name.replace("_", " "))


def arm_name(arm: str) -> str:
    """Print the name of an arm, ``Base``, ``SFT``, ``ORPO``, or of a setting as it is."""
    return {"base": "Base", "sft": "SFT", "orpo": "ORPO"}.get(arm, arm)


def in_unit(text: str, metric: Metric) -> str:
    """Print a number with the metric's unit behind it, if it has one."""
    return f"{text} {metric.unit}" if metric.unit else text


def verdict_words(row: ContrastRow) -> str:
    """Print a verdict, with the smallest effect of interest where it names one."""
    if row.verdict.endswith("by at least"):
        return f"{row.verdict} {row.sesoi:g}"
    return str(row.verdict)
