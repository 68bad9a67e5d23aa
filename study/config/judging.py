"""How a comparison is judged: the part of a recipe that its plan keeps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from study.errors import require

RANKING = ("accuracy", "margin", "log_odds", "nll")
"""Metrics of how given answers are ranked or expected."""


ANSWERS = ("exact_match", "rougeL")
"""Metrics of generated answers."""


MOST_TESTED = 4


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """How a comparison is judged: its plan, written down before its first run.

    No part of a run's digest, because it changes no run.
    """

    primary_metrics: tuple[str, ...]
    """One or two metrics that the verdict rests on: one of ``RANKING``, then one of
    ``ANSWERS``."""
    secondary_metrics: tuple[str, ...]
    """Further metrics that are tested; at most four in all are."""
    sesoi: Mapping[str, float]
    """Metric -> smallest effect size of interest, in the metric's unit; every
    metric that is tested has one."""

    def __post_init__(self) -> None:
        """Refuse metrics that no verdict can rest on and effects that are not positive."""
        allowed = (RANKING, ANSWERS)
        named = self.primary_metrics
        require(
            1 <= len(named) <= 2
            and all(name in among for name, among in zip(named, allowed, strict=False)),
            f"analysis.primary_metrics is {list(named)}; it must be one of {', '.join(RANKING)} "
            f"and after it, where answers are generated, one of {', '.join(ANSWERS)}",
        )
        tested = (*named, *self.secondary_metrics)
        require(
            len(set(tested)) == len(tested) <= MOST_TESTED,
            f"analysis tests {', '.join(tested)}; at most {MOST_TESTED} metrics, each once, can "
            "be tested: drop some of analysis.secondary_metrics",
        )
        for metric in tested:
            require(
                metric in self.sesoi,
                f"analysis.sesoi.{metric} is missing; name the smallest effect of interest of "
                "every metric that is tested",
            )
        for metric, value in self.sesoi.items():
            require(
                math.isfinite(value) and value > 0,
                f"analysis.sesoi.{metric} is {value}; it must be positive and finite",
            )
