"""Statistics of studies with few seeds: the functions that the rest of the project calls.

Each docstring names its null hypothesis, its sides and its smallest n.
"""

from analysis.statistics.closed import holm
from analysis.statistics.components import mean_square_residual
from analysis.statistics.contrast import (
    Contrast,
    NotTestableError,
    Scope,
    compare_arms,
    compare_pooled,
    compare_with_fixed,
    pool_models,
)
from analysis.statistics.power import planned_detectable_effect, seeds_needed
from analysis.statistics.verdicts import Verdict, clopper_pearson, verdict
from analysis.statistics.wins import win_rate

__all__ = [
    "Contrast",
    "NotTestableError",
    "Scope",
    "Verdict",
    "clopper_pearson",
    "compare_arms",
    "compare_pooled",
    "compare_with_fixed",
    "holm",
    "mean_square_residual",
    "planned_detectable_effect",
    "pool_models",
    "seeds_needed",
    "verdict",
    "win_rate",
]
