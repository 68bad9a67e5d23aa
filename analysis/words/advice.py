"""Sentences on what the design can find: families, more seeds or prompts, failures."""

from collections.abc import Iterator, Sequence

from scipy import stats as scipy_stats

from analysis import statistics as stats
from analysis.judge.comparisons import POOLED, Comparison
from analysis.judge.judged import Judged
from analysis.printing import (
    arm_name,
    in_unit,
    number,
    percent,
    plain,
)
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords
from analysis.rows import ContrastRow
from analysis.statistics import Contrast, power
from analysis.words.several import MANY
from study.arms import BASELINE


def test_remarks(
    found: Sequence[Comparison], rows: Sequence[ContrastRow], judged: Judged
) -> tuple[str, ...]:
    """Say how tests are corrected, what they could find and what would help.

    Args:
        found: comparisons over all models first, then on each.
        rows: the same, corrected in their families.
        judged: the registered metrics.
    """
    asked = [one for one in found if one.question and one.metric in judged.primary]
    deciding = [one for one in asked if one.recipe == POOLED] or asked
    tested = [(one, one.contrast) for one in deciding if one.contrast is not None]
    if len({one.treatment for one, _ in tested}) >= MANY:
        helped = _least_precise(tested)
    else:
        helped = [f"{one.recipe}: {' '.join(_help(contrast, one))}" for one, contrast in tested]
    return (*_families(rows, judged), *_shared_seeds(deciding), *helped)


def failure_rates(records: StudyRecords) -> tuple[str, ...]:
    """Bound the rate of diverged runs of every arm where any run diverged.

    Clopper-Pearson intervals; between the arms Boschloo's exact test, null
    hypothesis, two-sided: both arms diverge at the same rate (METHODS.md, 7).
    """
    return tuple(
        _failure_rate(records, recipe)
        for recipe in records.recipes
        if any(not run.ok for run in records.of(recipe))
        if all(records.of(recipe, arm) for arm in (BASELINE, *records.treatments))
        if records.treatments
    )


def _least_precise(tested: Sequence[tuple[Comparison, Contrast]]) -> list[str]:
    """Say what would help the arm of which least could be found, for each metric and scope."""
    worst: dict[tuple[str, str], tuple[Comparison, Contrast]] = {}
    for one, contrast in tested:
        key = (one.recipe, one.metric)
        if key not in worst or contrast.minimum_detectable() > worst[key][1].minimum_detectable():
            worst[key] = (one, contrast)
    return [
        f"{one.recipe}, {arm_name(one.treatment)}, of which least could be found: "
        f"{' '.join(_help(contrast, one))}"
        for one, contrast in worst.values()
    ]


def _families(rows: Sequence[ContrastRow], judged: Judged) -> Iterator[str]:
    """Say which tests belong together and how they are corrected."""
    sizes = {row.family: row.family_size for row in rows if row.family_size}
    labels = " and ".join(METRICS[name].label for name in judged.primary)
    arms = list(dict.fromkeys(arm_name(row.treatment) for row in rows if row.family))
    who, baseline = " or ".join(arms), arm_name(BASELINE)
    if not arms:
        return
    half = ", each at 2.5 %" if len(judged.primary) > 1 else " at 5 %"
    several = any(row.recipe == POOLED for row in rows)
    over = "on average over exactly these models" if several else "here"
    yield (f"The verdict rests on whether {who} and {baseline} differ in {labels}{half}, {over}.")
    if len(arms) > 1:
        yield (
            f"The {len(arms)} arms are compared with {baseline} one by one, corrected by Holm; "
            "runs are paired by seed from ten seeds on."
        )
    if several:
        yield (
            "A single model is tested only if the pooled test rejects, by closed testing: two "
            "models each at the full level, more by Bonferroni within every intersection."
        )
    if "secondary" in sizes:
        listed = ", ".join(METRICS[name].label for name in judged.secondary)
        yield (
            f"The other registered metrics ({listed}) are a secondary family of "
            f"{sizes['secondary']} tests, corrected by Holm; all remaining scores have intervals "
            "and no test. Equivalence is tested only for registered metrics, corrected by Holm."
        )


def _shared_seeds(deciding: Sequence[Comparison]) -> Iterator[str]:
    """Say where models share their seeds, so that their runs are not independent."""
    seeds = [
        seed
        for one in deciding[:1]
        for single in one.singles
        if single.scores is not None
        for seed in single.scores[1].seeds
    ]
    if len(seeds) > len(set(seeds)):
        yield (
            "The models share their seeds, and with them the order of the pairs: runs of one seed "
            "are averaged over the models before their variance is taken."
        )


def _help(contrast: Contrast, one: Comparison) -> Iterator[str]:
    """Say what could be found and what would help."""
    metric, sesoi = METRICS[one.metric], one.sesoi

    def size(effect: float) -> str:
        return in_unit(f"{effect:.{metric.digits}f}", metric)

    low, high = contrast.minimum_detectable_range()
    n = max(contrast.n_seeds)
    yield (
        f"With {n} seeds and {contrast.n_examples} held-out pairs, 80 % of such studies "
        f"would find a true difference of {size(contrast.minimum_detectable())} in {metric.label} "
        f"({size(low)} to {size(high)}, as far as these seeds can tell)."
    )
    seeds = contrast.rescaled(seeds=2).minimum_detectable()
    prompts = contrast.rescaled(prompts=2).minimum_detectable()
    best = "more seeds" if seeds < prompts else "more pairs"
    advice = f"{best} would help most"
    if max(seeds, prompts) < 1.1 * min(seeds, prompts):
        advice = "both would help about equally"
    yield (
        "More seeds or more pairs? Doubling the seeds would bring the smallest detectable "
        f"difference to {size(seeds)}, doubling the pairs to {size(prompts)}: {advice}."
    )
    if sesoi is not None:
        needed = contrast.seeds_needed(sesoi)
        interest = f"{in_unit(plain(sesoi), metric)}, the smallest effect of interest,"
        if needed is None:
            pairs = power.examples_needed(
                sesoi, v_prompt=contrast.v_prompt, n_clusters=contrast.n_examples
            )
            yield (
                f"No number of seeds is enough to find {interest} in 80 % of studies; that takes "
                f"at least {pairs} held-out pairs."
            )
        else:
            yield (f"Finding {interest} in 80 % of studies takes about {needed} seeds per arm.")


def _failure_rate(records: StudyRecords, recipe: str) -> str:
    parts, table = [], []
    for arm in (BASELINE, *records.treatments):
        runs = records.of(recipe, arm)
        failed = sum(not run.ok for run in runs)
        low, high = stats.clopper_pearson(failed, len(runs))
        parts.append(
            f"{failed} of {len(runs)} runs of {arm_name(arm)} (95 % interval of the rate "
            f"{percent(low)} to {percent(high)})"
        )
        table.append([failed, len(runs) - failed])
    tests = [
        f"p = {number(float(scipy_stats.boschloo_exact([table[0], counts]).pvalue), 2)}"
        for counts in table[1:]
    ]
    return (
        f"{recipe}: {' and '.join(parts)} diverged; both arms diverging at the same rate has "
        f"{', '.join(tests)} (Boschloo's exact test)."
    )
