"""What the records say on one prediction of a claim: a contrast, or why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats as scipy_stats

from analysis import statistics as stats
from analysis.judge import contrasts, ladder
from analysis.judge.predictions import PlannedPart
from analysis.printing import arm_name
from analysis.records.load import scores_of
from analysis.records.published_rouge import as_published
from analysis.records.study import RunRecord, Scores, StudyRecords
from analysis.statistics import Contrast
from analysis.statistics import trials as tuning
from analysis.statistics.components import SeedPart
from study.arms import ARMS, UNTRAINED
from study.records.texts import has_texts

FEWEST_TRIALS = 10
"""With fewer trials a rank correlation has no useful interval."""


NULL_CURVE = "over training seeds, the first updates bring as much of the change as an even course"


NULL_RANK = "the rank correlation of early and final values is the registered bound"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One prediction measured on one model, or over several."""

    form: Literal["difference", "share", "correlation", "ratio"]
    """How the contrast reads: a difference; a share or a correlation less its
    bound, the latter in Fisher's z; or the log of a ratio."""
    n: str = ""
    test: str = ""
    null_hypothesis: str = ""
    contrast: Contrast | None = None
    estimate: float | None = None
    """Where no test could run; else that of the contrast counts."""
    bound: float = 0.0
    """What the contrast is measured from, on its own scale."""
    n_diverged: int = 0
    reason: str = ""
    """Why no test could run."""
    is_exact: bool = False
    """A ratio of costs that are the same in every run needs no test."""

    def shown(self, value: float) -> float:
        """Turn a value of the contrast into what is printed."""
        if self.form == "ratio":
            return float(np.exp(value))
        shifted = value + self.bound
        return float(np.tanh(shifted)) if self.form == "correlation" else shifted


def gather(records: StudyRecords, recipe: str, part: PlannedPart) -> Evidence:
    """Measure one prediction on one recipe's records."""
    plan = records.claims[recipe]
    if part["kind"] == "curve":
        return _curve(records, recipe, part, plan["early"])
    if part["kind"] == "rank":
        return _rank(records, recipe, part, plan["early"])
    if part["kind"] == "cost":
        return _cost(records, recipe, part)
    if part["kind"] in ("ladder", "ladder_share"):
        return _ladder(records, recipe, part)
    return _scores(records, recipe, part)


def pool(found: Mapping[str, Evidence]) -> Evidence:
    """Average the evidence of several models; without a contrast where one has none.

    Args:
        found: recipe -> its evidence.
    """
    tested = [(one, one.contrast) for one in found.values() if one.contrast is not None]
    first = next(iter(found.values()))
    if len(tested) < len(found):
        reasons = {recipe: one.reason for recipe, one in found.items() if one.contrast is None}
        alike = len(reasons) == len(found) and len(set(reasons.values())) == 1
        listed = "; ".join(f"{recipe}: {reason}" for recipe, reason in reasons.items())
        bare = Evidence(form=first.form, reason=first.reason if alike else listed)
        if not all(one.is_exact for one in found.values()):
            return bare
        ratios = [one.estimate for one in found.values() if one.estimate is not None]
        return replace(bare, estimate=float(np.mean(ratios)), is_exact=True)
    sizes = dict.fromkeys(one.n for one, _ in tested)
    each = f"{len(tested)} models, each {next(iter(sizes))}"
    return replace(
        first,
        contrast=stats.pool_models([contrast for _, contrast in tested]),
        n=each if len(sizes) == 1 else "; ".join(sizes),
        test=f"{first.test}, pooled over {len(tested)} models",
        null_hypothesis=f"{first.null_hypothesis}, averaged over exactly these models",
        n_diverged=sum(one.n_diverged for one, _ in tested),
    )


def share_of_change(run: RunRecord, metric: str, share: float) -> float:
    """Return which share of a validation score's change the first updates bring.

    Linear between validations; not finite where the score did not change.
    """
    rows = [row for row in run.steps if row["split"] == "validation"]
    steps = np.array([row["step"] for row in rows], dtype=float)
    values = np.array([row[metric] for row in rows], dtype=float)
    if not rows or values[-1] == values[0]:
        return float("nan")
    early = float(np.interp(share * steps[-1], steps, values))
    return float((early - values[0]) / (values[-1] - values[0]))


def _scores(records: StudyRecords, recipe: str, part: PlannedPart) -> Evidence:
    names = (part["baseline"], part["treatment"])
    n_diverged = sum(not run.ok for name in names for run in records.side(recipe, name))
    bare = Evidence(form="difference", n_diverged=n_diverged)
    sides = _sides(records, recipe, part)
    if isinstance(sides, str):
        return replace(bare, reason=sides)
    paired = part["baseline"] != UNTRAINED and _is_paired(records, recipe, part)
    return _compared(bare, *sides, fixed=part["baseline"] == UNTRAINED, paired=paired)


def _ladder(records: StudyRecords, recipe: str, part: PlannedPart) -> Evidence:
    """Compare as an article published it, or the loss alone with half of its training's gap."""
    bare = Evidence(form="difference")
    if recipe not in records.ladders:
        return replace(bare, reason="`study reproduce article-a` was not run")
    steps = ladder.steps_of(records, recipe)
    if part["kind"] == "ladder":
        sides = ladder.sides_of(records, recipe, steps[0], part["metric"])
        paired = records.ladders[recipe]["paired"]
        if isinstance(sides, str):
            return replace(bare, reason=sides)
        return _compared(bare, *sides, fixed=False, paired=paired)
    scored = next(step for step in steps if not step["flaws"])
    wanted = [(step, side) for step in (scored, steps[-1]) for side in ("baseline", "treatment")]
    found = ladder.scores_on(records, recipe, wanted, part["metric"])
    if isinstance(found, str):
        return replace(bare, reason=found)
    trained, alone = (
        replace(b, matrix=b.matrix - a.matrix) for a, b in (found[:2], found[2:])
    )  # seed by seed; both sides of a step have the same
    half = replace(trained, matrix=trained.matrix / 2)
    return _compared(bare, half, alone, fixed=False, paired=False)


def _compared(bare: Evidence, a: Scores, b: Scores, *, fixed: bool, paired: bool) -> Evidence:
    """Test the difference of two sides over seeds and prompts."""
    n_runs = f"{len(b.seeds)} runs" if fixed else f"{len(b.seeds)} and {len(a.seeds)} runs"
    bare = replace(
        bare,
        n=f"{n_runs}, {b.matrix.shape[1]} pairs",
        estimate=float(b.matrix.mean() - a.matrix.mean()),
        null_hypothesis=contrasts.NULL_AGAINST_FIXED if fixed else contrasts.NULL_HYPOTHESIS,
    )
    try:
        if fixed:
            contrast = stats.compare_with_fixed(
                a.matrix[0], b.matrix, scope="population", clusters=b.clusters
            )
            return replace(bare, contrast=contrast, test="one-sample seeds-by-prompts t")
        contrast = stats.compare_arms(
            a.matrix, b.matrix, paired=paired, scope="population", clusters=b.clusters
        )
    except stats.NotTestableError as reason:
        return replace(bare, reason=str(reason))
    kind = "paired by seed" if paired else "Welch's over seeds"
    return replace(bare, contrast=contrast, test=f"seeds-by-prompts t ({kind})")


def _sides(records: StudyRecords, recipe: str, part: PlannedPart) -> tuple[Scores, Scores] | str:
    """Return baseline's and treatment's scores, or why there are none."""
    names = (part["baseline"], part["treatment"])
    ok = [tuple(run for run in records.side(recipe, name) if run.ok) for name in names]
    lacking = _missing(names, ok) or _unfinished(records, recipe, names)
    if lacking:
        return lacking
    if part["kind"] == "as_published":
        if not all(has_texts(run.generations) for side in ok for run in side):
            return "prompts and references are not published; `study report --data` reads them"
        a, b = (_as_published(side) for side in ok)
    else:
        a, b = (scores_of(side, part["metric"]) for side in ok)
    return "no answers were generated" if a is None or b is None else (a, b)


def _is_paired(records: StudyRecords, recipe: str, part: PlannedPart) -> bool:
    """Tell whether runs are compared seed by seed: as planned, where all have a partner."""
    a, b = (records.side(recipe, part[side]) for side in ("baseline", "treatment"))
    settings_of = records.claims[recipe]["settings"]
    plans = [
        records.claims[recipe] if part[side] in settings_of else records.plans[recipe]
        for side in ("baseline", "treatment")
    ]
    same = [run.seed for run in a if run.ok] == [run.seed for run in b if run.ok]
    return all(plan["paired"] for plan in plans) and same


def _as_published(runs: Sequence[RunRecord]) -> Scores | None:
    """Score the generated answers of runs as article A's code does, ``(S, N)``.

    Answers stay in the order of the file, the same in all runs: that code stops
    half-way through it.
    """
    if not all(run.generations for run in runs):
        return None
    examples = runs[0].examples
    assert examples is not None
    cluster = dict(zip(examples["example_id"], examples["cluster_id"], strict=True))
    return Scores(
        seeds=tuple(run.seed for run in runs),
        clusters=tuple(str(cluster[row["example_id"]]) for row in runs[0].generations),
        matrix=np.stack([as_published(run.generations) for run in runs]),
    )


def _curve(
    records: StudyRecords, recipe: str, part: PlannedPart, early: Mapping[str, Any]
) -> Evidence:
    runs = records.side(recipe, part["treatment"])
    ok = [run for run in runs if run.ok]
    share = early["share_of_updates"]
    bare = Evidence(
        form="share",
        bound=share,
        n=f"{len(ok)} runs",
        null_hypothesis=NULL_CURVE,
        n_diverged=len(runs) - len(ok),
    )
    if not ok:
        return replace(bare, reason=_missing((part["treatment"],), [ok]))
    shares = np.array([share_of_change(run, part["metric"], share) for run in ok])
    if not np.isfinite(shares).all():
        return replace(bare, reason="a run's score did not change at all")
    bare = replace(bare, estimate=float(shares.mean()))
    try:
        contrast = stats.compare_with_fixed(np.array([share]), shares[:, None], scope="test_set")
    except stats.NotTestableError as reason:
        return replace(bare, reason=str(reason))
    return replace(bare, contrast=contrast, test="one-sample t over seeds, on these pairs alone")


def _rank(
    records: StudyRecords, recipe: str, part: PlannedPart, early: Mapping[str, Any]
) -> Evidence:
    bare = Evidence(form="correlation", null_hypothesis=NULL_RANK)
    search = next(
        (one for one in records.searches if (one.recipe, one.arm) == (recipe, part["treatment"])),
        None,
    )
    if search is None:
        return replace(bare, reason="no search was run")
    last = search.config["recipe"]["training"]["max_steps"]
    pairs = [
        (_at(trial["intermediate"], part["metric"], early["share_of_updates"] * last), final)
        for trial in search.trials
        if trial["state"] == "complete" and (final := dict(trial)[part["metric"]]) is not None
        if trial["intermediate"]
    ]
    bare = replace(bare, n=f"{len(pairs)} trials")
    if len(pairs) < FEWEST_TRIALS:
        return replace(bare, reason=f"fewer than {FEWEST_TRIALS} trials ran to their end")
    first, final = zip(*pairs, strict=True)
    if len(set(first)) == 1 or len(set(final)) == 1:
        return replace(bare, reason="all trials have the same value")
    rho = float(scipy_stats.spearmanr(first, final).statistic)
    bound = float(np.arctanh(early["rank_correlation"]))
    n = len(pairs)
    z, se = tuning.rank_z(rho, n)
    part_of_trials = SeedPart(variance=se**2, df=1e6, residual=0.0)
    contrast = Contrast(
        estimate=z - bound,
        seed_parts=(part_of_trials,),
        v_prompt=0.0,
        df_prompt=1,
        n_seeds=(n, n),
        n_examples=1,
        n_clusters=1,
        paired=True,
        scope="test_set",
        differences={"all": 0.0},
    )
    name = "Fisher's z of Spearman's correlation over trials that ran to their end"
    return replace(bare, contrast=contrast, bound=bound, test=name)


def _at(rows: Sequence[Mapping[str, Any]], metric: str, step: float) -> float:
    return float(np.interp(step, [row["step"] for row in rows], [row[metric] for row in rows]))


def _cost(records: StudyRecords, recipe: str, part: PlannedPart) -> Evidence:
    bare = Evidence(form="ratio")
    names = (part["baseline"], part["treatment"])
    ok = [[run for run in records.side(recipe, name) if run.ok] for name in names]
    if not all(ok):
        return replace(bare, reason=_missing(names, ok))
    costs = [np.array([dict(run.record["cost"])[part["metric"]] for run in side]) for side in ok]
    if any((values <= 0).any() for values in costs):
        return replace(bare, reason="it was not measured")
    a, b = (np.log(values)[:, None] for values in costs)
    bare = replace(
        bare,
        n=f"{len(b)} and {len(a)} runs",
        estimate=float(b.mean() - a.mean()),
        null_hypothesis="over training seeds, both arms cost the same",
    )
    try:
        contrast = stats.compare_arms(a, b, paired=False, scope="test_set")
    except stats.NotTestableError:
        if any(len(values) < 2 for values in costs):
            return replace(bare, reason="one seed tells nothing about seeds")
        return replace(bare, reason="every run has the same cost", is_exact=True)
    return replace(bare, contrast=contrast, test="Welch's t over seeds, of the logarithm")


def _unfinished(records: StudyRecords, recipe: str, names: Sequence[str]) -> str:
    """Say which planned runs of settings are missing: no claim is judged halfway."""
    plan = records.claims[recipe]
    lacking = [
        f"{name} with seed {seed}"
        for name in names
        if name in plan["settings"]
        for seed in plan["seeds"]
        if seed not in {run.seed for run in records.side(recipe, name)}
    ]
    return f"planned runs are missing: {', '.join(lacking)}" if lacking else ""


def _missing(names: Sequence[str], runs: Sequence[Sequence[RunRecord]]) -> str:
    lacking = [name for name, side in zip(names, runs, strict=True) if not side]
    if not lacking:
        return ""
    hint = "" if set(lacking) <= set(ARMS) else "; `study claims` makes them"
    return f"no finished run of {' and '.join(map(arm_name, lacking))}{hint}"
