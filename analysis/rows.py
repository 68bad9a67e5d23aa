"""The frozen rows that findings consist of: plain values, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.judged_rows import (
    BenchmarkRow,
    BestSetRow,
    ClaimRow,
    DecisionRow,
    DisplacementRow,
    IntervalRow,
    JudgeRow,
    LadderRow,
    WinRow,
)
from analysis.search_rows import TuningRow


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One score of a run and how it is printed."""

    name: str
    label: str
    unit: str
    higher_is_better: bool | None
    """None where neither direction is better (response length)."""
    digits: int
    meaning: str
    """One plain sentence."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric over the seeds of one arm."""

    mean: float
    sd: float | None
    """Sample standard deviation; None with fewer than two seeds."""
    by_seed: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm of one recipe: settings, where they came from, scores."""

    recipe: str
    arm: str
    settings: Mapping[str, float]
    tuned: bool
    n_seeds: int
    n_diverged: int
    scores: Mapping[str, Summary]


@dataclass(frozen=True, kw_only=True)
class ContrastRow:
    """One comparison of two arms of one recipe in one metric."""

    recipe: str
    metric: str
    baseline: str
    treatment: str
    estimate: float
    """Treatment minus baseline, in the metric's unit."""
    low: float | None
    high: float | None
    """Bounds of the 95 % interval; None where no test could run."""
    p_value: float | None
    df: float | None
    """Degrees of freedom of the seeds' part of the test."""
    test: str
    """Name of the test, or the reason why none could run."""
    n_baseline: int
    n_treatment: int
    n_examples: int
    verdict: str
    """One of ``analysis.statistics.verdicts.Verdict``."""
    null_hypothesis: str = ""
    """What the test assumes until the data speak against it, in words."""
    test_set_low: float | None = None
    test_set_high: float | None = None
    test_set_p_value: float | None = None
    """The same test about these held-out pairs alone: over seeds only."""
    shares: Mapping[str, float] | None = None
    """Shares of the estimate's variance: ``seed``, ``prompt``, ``residual``."""
    family: str = ""
    """``primary``, ``secondary``, or empty: an interval without a p-value."""
    family_size: int = 0
    p_adjusted: float | None = None
    """The p-value corrected as its family is; see ``analysis.judge.contrasts``."""
    sesoi: float | None = None
    tost_p: float | None = None
    """p of: the arms differ by at least ``sesoi``; of registered metrics alone."""
    tost_adjusted: float | None = None
    """The same, corrected by Holm over all registered rows."""
    detectable: float | None = None
    """True difference that 80 % of such studies would find."""
    detectable_low: float | None = None
    detectable_high: float | None = None
    """Its range over the 80 % interval of the variance between seeds."""
    relative: float | None = None
    """Estimate over the baseline's absolute mean."""
    win_rate: float | None = None
    """Share of prompts on which the treatment does better, ties counted half."""
    win_low: float | None = None
    win_high: float | None = None
    bound_low: float | None = None
    """Bounds with diverged runs at the worst scores; None where none diverged."""
    bound_high: float | None = None
    n_clusters: int = 0
    n_models: int = 1
    n_diverged: int = 0
    remark: str = ""
    """What must be known beside the verdict."""


@dataclass(frozen=True, kw_only=True)
class SearchRow:
    """What the search of one arm of one recipe showed."""

    recipe: str
    arm: str
    objective: str
    direction: str
    n_trials: int
    n_pruned: int
    n_diverged: int
    settings: Mapping[str, float]
    trial_value: float
    value: float
    optimism: float
    space: Mapping[str, tuple[float, float]]
    published: tuple[Mapping[str, object], ...]
    """What became of published settings: see ``analysis.statistics.trials.published_tried``, and
    ``behind``: how much worse than the chosen settings repeated; None if it did not finish."""
    n_repeated: int
    """Repetitions of the chosen settings with fresh seeds, of which ``value`` is the mean."""
    at_edge: tuple[str, ...]
    """Hyperparameters whose best value lies at the edge of the space."""


@dataclass(frozen=True, kw_only=True)
class RougeRow:
    """ROUGE of one arm as the study scores it and as article A published it."""

    recipe: str
    arm: str
    n_seeds: int
    n_answers: int
    corrected: Mapping[str, float]
    """``rouge1``, ``rouge2``, ``rougeL`` -> mean over answers and seeds."""
    published: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """What one arm of one recipe cost per run, as means over seeds."""

    recipe: str
    arm: str
    train_s: float
    evaluate_s: float
    train_tokens: float
    tokens_per_s: float | None
    peak_memory_bytes: float
    device: str
    start_s: float = 0.0
    """Part of ``train_s`` that went into the run that this one continues."""
    reference_s: float = 0.0
    """Part of ``train_s`` that went into log-probabilities under the start."""
    search_s: float | None = None
    """What all trials of the arm's own search took; None without a search."""


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One cost beside what it is compared with, measured in turn on the same data."""

    subject: str
    reference: str
    ours: float
    theirs: float
    unit: str
    """``pairs/s`` or ``prompts/s``, where more is better; ``s`` or ``bytes``."""
    ratio: float
    """Above one where this study is cheaper."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the benchmark measured."""

    rows: tuple[BenchRow, ...]
    remarks: tuple[str, ...]
    """One sentence per thing to know about the rows."""
    signature: str
    """Provenance: ``processor:…|torch:…|transformers:…|trl:…|git:…|measured:…``."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One test prompt with every arm's answer, side by side."""

    recipe: str
    example_id: str
    prompt: str
    reference: str
    answers: Mapping[str, str]
    """Arm -> generated text of its first seed."""


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """The data of one recipe: source, sizes and fingerprints of its splits."""

    recipe: str
    source: str
    splits: Mapping[str, tuple[int, str]]
    """Split -> (pairs, fingerprint)."""


@dataclass(frozen=True, kw_only=True)
class FigureFile:
    """One drawn figure: its name, caption and what it shows in words."""

    name: str
    """File stem; the build draws ``<name>.svg``, ``<name>.pdf`` and ``<name>.png``."""
    caption: str
    section: str
    """``search``, ``curves``, ``results``, ``claims``, ``ladder`` or ``cost``."""
    alt: str = ""
    """What it shows in words, with its numbers; written when it is drawn."""
    tips: tuple[tuple[float, float, str], ...] = ()
    """(x, y, words): what stands at a place, in points from the upper left corner."""


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """What a test does in simulated studies, beside what it promises."""

    regime: str
    test: str
    quantity: str
    """``type I error``, ``coverage`` or ``power``."""
    value: float
    low: float | None
    """Bounds within which it must lie; None where nothing is demanded."""
    high: float | None
    n_studies: int
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that the write-up prints; templates add words only."""

    headline: str
    """The answer in at most 40 words: verdict, effects, what to do."""
    answer: str
    """The answer in full, with effects, intervals, cost and n."""
    primary_metrics: tuple[str, ...]
    """The co-primary ones: how pairs are ranked and, where scored, how prompts are answered."""
    decisions: tuple[DecisionRow, ...]
    """Per treatment the verdict over all models, where there are several, then on each."""
    history: tuple[str, ...]
    """One sentence per thing that was done after results had been seen, in order."""
    metrics: Mapping[str, Metric]
    recipes: Mapping[str, str]
    """Recipe -> description."""
    arms: tuple[ArmRow, ...]
    contrasts: tuple[ContrastRow, ...]
    searches: tuple[SearchRow, ...]
    costs: tuple[CostRow, ...]
    samples: tuple[Sample, ...]
    data: tuple[DataRow, ...]
    failed_runs: tuple[str, ...]
    """One sentence per diverged or missing run."""
    cannot_conclude: tuple[str, ...]
    """One sentence per thing that these runs do not show."""
    deviations: tuple[str, ...]
    """One sentence per departure from a source."""
    environment: Mapping[str, str]
    digests: tuple[Mapping[str, object], ...]
    """Per run: recipe, arm, seed, status, digest, git, finished_at."""
    configurations: Mapping[str, Mapping[str, object]]
    """Recipe -> its resolved training, adapter and model sections."""
    signature: str
    """Provenance: ``model:…|data:…|trials:…|seeds:…|digest:…|git:…``."""
    origin: str
    """``local`` or ``published``, and in words why."""
    commands: tuple[str, ...]
    """Commands that make these records and this report again."""
    n_earlier: int = 0
    """First sentences of ``history`` that tell of choices made before these records."""
    search_remarks: tuple[str, ...] = ()
    """One sentence per thing to know about the searches: budgets, edges, luck."""
    best_sets: tuple[BestSetRow, ...] = ()
    """Per co-primary metric the arms that none is shown to beat; from three arms on."""
    pooled: tuple[ContrastRow, ...] = ()
    """Contrasts of the trained arms averaged over models; empty with one recipe."""
    test_remarks: tuple[str, ...] = ()
    """One sentence per thing to know about the tests: families, seeds or prompts."""
    calibration: tuple[CalibrationRow, ...] = ()
    bench: Bench | None = None
    """None where no benchmark lies beside the records."""
    tuning: tuple[TuningRow, ...] = ()
    rouge: tuple[RougeRow, ...] = ()
    rouge_remarks: tuple[str, ...] = ()
    """One sentence per recipe: what the published scoring does to the order of the arms."""
    displacement: tuple[str, ...] = ()
    """Sentences on trained arms that made chosen answers less likely as their margin grew."""
    displaced: tuple[DisplacementRow, ...] = ()
    """Per recipe and trained arm what these sentences rest on."""
    table_notes: Mapping[str, str] = field(default_factory=dict)
    """Table -> what is tested in it, or that nothing is, and its numbers of cases."""
    claims: tuple[ClaimRow, ...] = ()
    """Claims of the sources; each over all models first, where there are several."""
    subgroups: tuple[IntervalRow, ...] = ()
    """Differences in the co-primary metrics within registered subgroups."""
    matched: tuple[IntervalRow, ...] = ()
    """Differences from the baseline that was given as many tokens; empty without that arm."""
    ladder: tuple[LadderRow, ...] = ()
    """Gaps between an article's arms on every rung; over all models first, where several."""
    ladder_remarks: tuple[str, ...] = ()
    """Sentences on how the published gap moves."""
    claim_remarks: tuple[str, ...] = ()
    """One sentence per thing to know about how the claims were judged."""
    benchmarks: tuple[BenchmarkRow, ...] = ()
    """Scores on benchmarks: every group's average first, then its tasks."""
    judges: tuple[JudgeRow, ...] = ()
    """Judges of generated answers."""
    judge_remarks: tuple[str, ...] = ()
    """How far each judge's win rates can be trusted."""
    wins: tuple[WinRow, ...] = ()
    """Win rates by each judge: raw first, then at equal length."""
