"""Sentences on what the design can find: families, more seeds or prompts, failures."""

from collections.abc import Iterator, Sequence

from scipy import stats as scipy_stats

from analysis import statistics as stats
from analysis.judge.comparisons import POOLED, Comparison
from analysis.printing import arm_name, in_unit, percent
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords
from analysis.rows import ContrastRow
from analysis.statistics import Contrast, power
from study.arms import BASELINE


def test_remarks(
    found: Sequence[Comparison],
    pooled: Sequence[Comparison],
    rows: Sequence[ContrastRow],
    *,
    primary: str,
) -> tuple[str, ...]:
    """Say how tests are corrected, what they could find and what would help."""
    asked = [one for one in (*pooled, *found) if one.question and one.metric == primary]
    tested = [(one, one.contrast) for one in asked if one.contrast is not None]
    return (
        *_families(rows, primary),
        *(
            f"{one.recipe}: {' '.join(_help(contrast, primary, one.sesoi))}"
            for one, contrast in tested
        ),
    )


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


def _families(rows: Sequence[ContrastRow], primary: str) -> Iterator[str]:
    """Say which tests belong together and how they are corrected."""
    sizes = {row.family: row.family_size for row in rows if row.family_size}
    label = METRICS[primary].label
    treatments = dict.fromkeys(arm_name(row.treatment) for row in rows if row.family)
    who, baseline = " or ".join(treatments), arm_name(BASELINE)
    if any(row.recipe == POOLED for row in rows):
        yield (
            f"The primary family asks whether {who} and {baseline} differ in {label}: first over "
            f"all models at 5 %, and only if that rejects, for each model, corrected by Holm for "
            f"{sizes.get('primary', 0)} tests."
        )
    elif "primary" in sizes:
        yield f"The primary family is one test, of {who} against {baseline} in {label}, at 5 %."
    if "secondary" in sizes:
        yield (
            f"The other scores of {who} against {baseline} are a secondary family of "
            f"{sizes['secondary']} tests, corrected by Holm; no claim rests on them alone."
        )


def _help(contrast: Contrast, primary: str, sesoi: float | None) -> Iterator[str]:
    """Say what could be found, what the uncertainty is made of, and what would help."""
    metric = METRICS[primary]

    def size(effect: float) -> str:
        return in_unit(f"{effect:.{metric.digits}f}", metric)

    low, high = contrast.minimum_detectable_range()
    n = max(contrast.n_seeds)
    yield (
        f"With {n} seeds and {contrast.n_examples} held-out pairs, 80 % of such studies "
        f"would find a true difference of {size(contrast.minimum_detectable())} in {metric.label} "
        f"({size(low)} to {size(high)}, as far as these seeds tell)."
    )
    share = {name: percent(value) for name, value in contrast.shares.items()}
    seeds = contrast.rescaled(seeds=2).minimum_detectable()
    prompts = contrast.rescaled(prompts=2).minimum_detectable()
    best = "more seeds" if seeds < prompts else "more pairs"
    advice = f"{best} would help most"
    if max(seeds, prompts) < 1.1 * min(seeds, prompts):
        advice = "both would help about alike"
    yield (
        f"More seeds or more pairs? {share['seed']} of the variance comes from "
        f"seeds, {share['prompt']} from the choice of pairs and {share['residual']} from "
        f"single answers. Twice the seeds would bring the smallest detectable difference to "
        f"{size(seeds)}, twice the pairs to {size(prompts)}: {advice}."
    )
    if sesoi is not None:
        needed = contrast.seeds_needed(sesoi)
        interest = f"{in_unit(f'{sesoi:g}', metric)}, the smallest effect of interest,"
        if needed is None:
            pairs = power.examples_needed(
                sesoi, v_prompt=contrast.v_prompt, n_clusters=contrast.n_examples
            )
            yield (
                f"No number of seeds suffices to find {interest} in 80 % of studies; it takes "
                f"at least {pairs} held-out pairs."
            )
        else:
            yield (f"To find {interest} in 80 % of studies takes about {needed} seeds per arm.")


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
        f"p = {float(scipy_stats.boschloo_exact([table[0], counts]).pvalue):.2f}"
        for counts in table[1:]
    ]
    return (
        f"{recipe}: {' and '.join(parts)} diverged; both arms diverging at the same rate has "
        f"{', '.join(tests)} (Boschloo's exact test)."
    )
