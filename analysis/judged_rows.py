"""The frozen rows of what was judged: decisions over metrics, and claims of the sources."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CoPrimaryRow:
    """What one co-primary metric adds to a decision."""

    metric: str
    estimate: float
    """Treatment minus baseline, in the metric's unit."""
    low: float | None
    high: float | None
    """Bounds of the 95 % interval; None where no test could run."""
    sesoi: float
    p_adjusted: float | None
    better: bool
    worse: bool
    """Whether a difference is shown, at half the level and after all corrections."""
    not_inferior: bool
    """Whether the treatment is shown to lose less than ``sesoi``."""
    equivalent: bool
    heterogeneity_p: float | None = None
    """p of: the difference is the same in all models; None with one model."""
    signs_conflict: bool = False
    late: bool = False
    """Whether it, or its margin, was chosen after results had been seen."""


@dataclass(frozen=True, kw_only=True)
class DecisionRow:
    """One treatment against the baseline over the co-primary metrics."""

    recipe: str
    baseline: str
    treatment: str
    outcome: str
    """One of ``analysis.statistics.decision.Outcome``, or ``not tested``."""
    metrics: tuple[CoPrimaryRow, ...]
    """How pairs are ranked first, then how prompts are answered, where that is scored."""
    costs: Mapping[str, float]
    """``train_s``, ``train_tokens``, ``peak_memory_bytes`` -> treatment over baseline."""
    n_models: int
    n_seeds: tuple[int, int]
    """Runs with scores of the baseline and of the treatment, of each model."""
    n_examples: int
    n_diverged: tuple[int, int]
    n_begun: tuple[int, int]
    """Finished runs of both arms, diverged ones among them, over all models."""
    divergence_p: float | None = None
    """Boschloo's p of: both arms diverge at the same rate; None where none did."""
    reason: str = ""
    """Why nothing could be tested, or what the corrections took back."""


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Two arms in the family of all pairs."""

    baseline: str
    treatment: str
    estimate: float
    low: float
    high: float
    p_adjusted: float
    """Holm's p-value over all pairs."""


@dataclass(frozen=True, kw_only=True)
class BestSetRow:
    """The arms that none is shown to beat in one metric, on average of the models."""

    metric: str
    kept: tuple[str, ...]
    pairs: tuple[PairRow, ...]
    n_models: int


@dataclass(frozen=True, kw_only=True)
class DisplacementRow:
    """How an arm changed the likelihood of chosen answers and its margin since its start."""

    recipe: str
    arm: str
    start: str
    """Arm that both effects are taken from."""
    chosen: tuple[float, float | None, float | None]
    """Change of the chosen answers' log-probability per token, and its 95 % interval."""
    margin: tuple[float, float | None, float | None]
    flagged: bool
    rewards: tuple[float, ...] = ()
    """Last logged implicit reward of chosen and of rejected training answers, and the share of
    pairs ranked right by it; empty for arms that read no reference."""


@dataclass(frozen=True, kw_only=True)
class ClaimPart:
    """One prediction of a claim, measured on one model or over all."""

    prediction: str
    """What must hold, in words."""
    estimate: float | None
    low: float | None
    high: float | None
    """Bounds of the 95 % interval; None where no test could run."""
    digits: int
    unit: str
    is_difference: bool
    """Whether the estimate is a difference, whose sign is always shown."""
    detectable: float | None
    """True difference that 80 % of such studies would find, in the same unit."""
    p_value: float | None
    p_adjusted: float | None
    """Holm's p-value within the family."""
    family_size: int
    n: str
    """What was counted: runs, pairs, trials."""
    test: str
    null_hypothesis: str
    verdict: str
    """One of ``analysis.statistics.verdicts.ClaimVerdict``."""
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """One claim of a source, judged on one model or over all."""

    claim: str
    source: str
    sentence: str
    made_at: str
    """Model and data that the source made it on."""
    here: str
    """Size of the model and data here."""
    recipe: str
    verdict: str
    """One of ``analysis.statistics.verdicts.ClaimVerdict``."""
    parts: tuple[ClaimPart, ...]
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class LadderRow:
    """The gap between an article's arms with a rung and all below it mended, in one metric."""

    recipe: str
    rung: str
    """``published`` where nothing is mended."""
    touches: str
    """``scoring``, ``training`` or ``comparison``; empty as published."""
    published: str
    """What the article does; empty as published."""
    mended: str
    metric: str
    baseline: float
    """Mean over runs and pairs."""
    treatment: float
    estimate: float
    """Treatment minus baseline."""
    low: float | None
    high: float | None
    """Bounds of the 95 % interval; None where there are too few seeds."""
    by_seed: tuple[float, ...]
    """The same of every seed alone; over several models of each model's."""
    n_examples: int


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One arm on one task of a benchmark, or on all of a group's."""

    recipe: str
    form: str
    """``adapter`` on its base, or ``merged``."""
    group: str
    task: str
    """Empty for the average over the group's tasks."""
    arm: str
    n_seeds: int
    n_items: int
    accuracy: float
    above_chance: float
    """(accuracy - chance) / (1 - chance); 0 is guessing, 1 is all right."""
    low: float | None
    high: float | None
    """Bounds of its 95 % interval over seeds and items; None where none can be had."""
    difference: float | None
    """Above chance minus the baseline's; None for the baseline."""
    difference_low: float | None
    difference_high: float | None
    p_adjusted: float | None
    """Holm's p over the group's treatments, and of tasks over those of one treatment."""


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """A difference with its interval, of which nothing is tested or corrected."""

    recipe: str
    baseline: str
    treatment: str
    metric: str
    estimate: float
    """Treatment minus baseline, in the metric's unit."""
    low: float | None = None
    high: float | None = None
    """Bounds of the 95 % interval; None where there are too few seeds."""
    n_examples: int = 0
    """Pairs, added up over models."""
    grouping: str = ""
    """What the pairs are grouped by; empty for all pairs."""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class JudgeRow:
    """A judge of answers, and how far it can be trusted here."""

    recipe: str
    judge: str
    """Names the judge and the way it was asked."""
    kind: str
    """``reward`` or ``endpoint``."""
    name: str
    identity: str
    trained_on: str
    """``training pairs`` or ``other pairs`` of a judge that the study trained; else empty."""
    n_pairs: int
    """Held-out pairs with a verdict."""
    accuracy: float | None
    """Share whose chosen answer it prefers, ties half."""
    low: float | None
    high: float | None
    n_missing: int
    """Held-out pairs without a verdict."""
    turned: float | None
    """Share of all verdicts whose winner changed with the order of the answers; None for a reward
    model, which sees one answer at a time."""
    caught: float | None
    """Share of answers that are wrong by exact match which it lets lose; None where no right
    answer is known."""
    n_wrong: int
    kept: float | None
    """Share of answers that are right by exact match which it does not let lose."""
    n_right: int
    correlation: float | None
    """Rank correlation of win rate and exact match over the runs."""
    n_runs: int


@dataclass(frozen=True, kw_only=True)
class WinRow:
    """One arm's win rate against the chosen answers by one judge, raw or at equal length."""

    recipe: str
    judge: str
    arm: str
    controlled: bool
    """Whether at equal length."""
    n_seeds: int
    n_items: int
    """Prompts on which every run has a verdict."""
    n_missing: int
    """Prompts left out because some run has none."""
    rate: float
    low: float | None
    high: float | None
    """Bounds of its 95 % interval over seeds and prompts; None where none can be had."""
    difference: float | None
    """Minus the baseline's; None for the baseline."""
    difference_low: float | None
    difference_high: float | None
    p_adjusted: float | None
    """Holm's p over the treatments, raw win rates alone."""
    longer: float
    """Mean characters of its answers minus the chosen ones'."""
    exact_match: float | None
    """On the same prompts; None where no right answer is known."""
