"""Print numbers, settings and names, alike in every sentence, figure and table."""

import json
import math
from collections.abc import Mapping

from analysis.rows import ContrastRow, Metric
from study import errors
from study.arms import ARMS, UNTRAINED

MISSING = "–"

listed = errors.listed
"""Joins names as ``a, b and c``."""


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


def plain(value: float | None) -> str:
    """Print a chosen number as short as it is, ``0.02`` or ``1``."""
    return MISSING if value is None else f"{value:g}"


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
    return {"beta": "β", "gamma_beta_ratio": "γ/β"}.get(name, name.replace("_", " "))


def is_trained(arm: str) -> bool:
    """Tell whether an arm is trained, or only the base as it is."""
    return arm != UNTRAINED


def is_matched(arm: str) -> bool:
    """Tell whether an arm repeats the baseline's loss on another budget, as a control."""
    return arm in ARMS and ARMS[arm].budget == "tokens"


def arm_name(arm: str) -> str:
    """Print the name of an arm, ``Base``, ``SFT``, ``ORPO``, or of a setting as it is."""
    return ARMS[arm].label if arm in ARMS else arm


def start_of(arm: str) -> str | None:
    """Name the arm that another continues; None where it starts from the untrained model."""
    return ARMS[arm].starts_from if arm in ARMS else None


def arm_colour(arm: str) -> str:
    """Return the colour of an arm's marks on paper, ``#rrggbb``; empty for a setting."""
    return ARMS[arm].colour.lower() if arm in ARMS else ""


def capital(text: str) -> str:
    """Begin a sentence; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def in_unit(text: str, metric: Metric) -> str:
    """Print a number with the metric's unit behind it, if it has one."""
    return f"{text} {metric.unit}" if metric.unit else text


def verdict_words(row: ContrastRow) -> str:
    """Print a verdict, with the smallest effect of interest where it names one."""
    if row.verdict.endswith("by at least"):
        return f"{row.verdict} {row.sesoi:g}"
    return str(row.verdict)


def arrow(metric: Metric) -> str:
    """Say by an arrow which direction of a metric is better."""
    sign = {True: "↑", False: "↓", None: ""}[metric.higher_is_better]
    return f"\N{NO-BREAK SPACE}{sign}" if sign else ""


def with_unit(label: str, unit: str) -> str:
    """Print a label with its unit in brackets, if it has one."""
    return f"{label} ({unit})" if unit else label


def interval(low: float | None, high: float | None, digits: int) -> str:
    """Print the bounds of an interval, or a dash where there is none."""
    if low is None or high is None:
        return MISSING
    return f"[{number(low, digits)}, {number(high, digits)}]"


def mean_sd(mean: float, sd: float | None, digits: int) -> str:
    """Print ``mean ± sd``, or the mean alone where one run has no spread."""
    return number(mean, digits) if sd is None else f"{number(mean, digits)} ± {number(sd, digits)}"


def p_value(value: float | None) -> str:
    """Print a p-value as ``p = 0.012``, ``p < 0.001`` or ``p > 0.999``, unbroken."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = "< 0.001" if value < 0.001 else "> 0.999" if value > 0.999 else f"= {value:.3f}"
    return f"p {text}".replace(" ", "\N{NO-BREAK SPACE}")


def percent_1(value: float) -> str:
    """Print a rate in per cent with one decimal."""
    return f"{number(100 * value, 1)}\N{NO-BREAK SPACE}%"


def band(low: float | None, high: float | None) -> str:
    """Print the rates between which one must lie, or a dash where nothing is asked."""
    if low is not None and high is not None:
        return f"{percent_1(low)} to {percent_1(high)}"
    if low is not None:
        return f"at least {percent_1(low)}"
    return MISSING if high is None else f"at most {percent_1(high)}"


def count(value: float | None) -> str:
    """Print a count with thousands separated."""
    return MISSING if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Print seconds as ``8.2 s``, ``4 min 10 s`` or ``2 h 5 min``."""
    if seconds is None:
        return MISSING
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def memory(size: float | None) -> str:
    """Print bytes in MiB or GiB."""
    if size is None:
        return MISSING
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def quantity(value: float, unit: str) -> str:
    """Print seconds, bytes, or a rate with its unit, in three figures."""
    if unit == "s":
        return duration(value)
    if unit == "bytes":
        return memory(value)
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}\N{NO-BREAK SPACE}{unit}"


def parameters(n: int) -> str:
    """Print the size of a model, ``1.2B``, ``135M`` or ``0.58M``."""
    if n >= 999.5e6:
        return f"{n / 1e9:.1f}B"
    return f"{n / 1e6:.0f}M" if n >= 1e7 else f"{n / 1e6:.2g}M"


def times(ratio: float) -> str:
    """Print a ratio as ``3.2×``."""
    return f"{number(ratio, 1 if ratio >= 10 else 2)}×"


def raw(value: float) -> str:
    """Print a raw value with six significant figures."""
    text = f"{value:.6g}"
    return text if "e" in text else text.replace("-", "−")


def raw_values(by_seed: Mapping[int, float]) -> str:
    """Print every seed with its value: ``1: 0.8125 · 2: 0.8203``."""
    return " · ".join(f"{seed}: {raw(value)}" for seed, value in sorted(by_seed.items()))


def short(digest: object) -> str:
    """Print the first sixteen characters of a digest."""
    return str(digest)[:16]


def flat(section: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """List a configuration as (dotted name, value as TOML writes it)."""
    rows: list[tuple[str, str]] = []
    for name, value in section.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False, default=str)))
    return rows
