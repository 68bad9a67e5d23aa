"""Statistics of studies with few seeds: the functions that the rest of the project calls.

Every docstring names its null hypothesis, its sides and its smallest n; here they
stand side by side. n counts runs (seeds) per arm, of each model; two are
exploratory everywhere.

====================  ===========================================  ==========  =============
function              null hypothesis                              sides       smallest n
====================  ===========================================  ==========  =============
compare_arms          equal means over seeds and prompts           two         2 runs
compare_clustered     the same, prompts in clusters of any size    two         2, 2 clusters
compare_with_fixed    the arm's mean is the fixed model's          two         2 runs
average_models, pool  the difference, averaged over exactly        two         2 models of 2
                      these models, is zero
heterogeneity         the difference is the same in all models     F           2 models of 2
against_baseline      each arm's mean is the baseline's;           two         2; ask for 5
                      Holm over K - 1
all_pairs             two arms have equal means; Holm over all     two         2; ask for 5
best_set              arm j is no better than arm i,               one         2; ask for 5
                      at level / (K - 1)
holm, behind_gate     those of the tests that they are given       theirs      1 hypothesis
decide                each metric: no difference, at half the      two         2 runs
                      level; the other: it loses its SESOI         one
equivalence           the arms differ by the margin or more;       two one-    2 runs
                      Holm over registered metrics                 sided
convergence           both arms diverge at the same rate           two         3 to reach 5 %
win_rate              the treatment wins half of the prompts       two         2 runs
====================  ===========================================  ==========  =============

``macro.compare_macro`` is for benchmarks, ``length.length_controlled_wins`` and
``wins.share_interval`` for judges of answers.
"""

from analysis.statistics.arms import against_baseline, all_pairs, best_set, pairs_by_seed
from analysis.statistics.closed import behind_gate, holm
from analysis.statistics.clusters import compare_clustered
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
from analysis.statistics.decision import CoPrimary, Outcome, convergence, decide, equivalence
from analysis.statistics.decision import findings as metric_findings
from analysis.statistics.models import average_models, heterogeneity, pool
from analysis.statistics.power import planned_detectable_effect, seeds_needed
from analysis.statistics.verdicts import Verdict, clopper_pearson, verdict
from analysis.statistics.wins import win_rate

__all__ = [
    "CoPrimary",
    "Contrast",
    "NotTestableError",
    "Outcome",
    "Scope",
    "Verdict",
    "against_baseline",
    "all_pairs",
    "average_models",
    "behind_gate",
    "best_set",
    "clopper_pearson",
    "compare_arms",
    "compare_clustered",
    "compare_pooled",
    "compare_with_fixed",
    "convergence",
    "decide",
    "equivalence",
    "heterogeneity",
    "holm",
    "mean_square_residual",
    "metric_findings",
    "pairs_by_seed",
    "planned_detectable_effect",
    "pool",
    "pool_models",
    "seeds_needed",
    "verdict",
    "win_rate",
]
