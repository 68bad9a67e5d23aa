"""What cannot be concluded, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.printing import (
    arm_name,
    in_unit,
    listed,
    number,
    setting,
    setting_name,
)
from analysis.records.metrics import METRICS
from analysis.records.study import RunRecord, StudyRecords
from analysis.rows import ArmRow, ContrastRow, SearchRow
from analysis.statistics import trials as tuning
from study.arms import UNTRAINED
from study.config.canonical import differences


def failed_runs(records: StudyRecords) -> tuple[str, ...]:
    """Say which runs diverged, are unfinished or are missing beside another arm."""
    sentences = [_divergence(run) for run in records.runs if not run.ok]
    sentences += [
        f"{recipe}: {arm_name(arm)} with seed {seed} was begun and is not finished."
        for recipe, arm, seed in records.unfinished
    ]
    for recipe in records.recipes:
        trained = [arm for arm in records.arms(recipe) if arm != UNTRAINED]
        seeds = {arm: {run.seed for run in records.of(recipe, arm)} for arm in trained}
        begun = {(arm, seed) for name, arm, seed in records.unfinished if name == recipe}
        sentences += [
            f"{recipe}: {arm_name(arm)} has no run with seed {seed}, which another arm has."
            for arm in trained
            for seed in sorted(set[int]().union(*seeds.values()) - seeds[arm])
            if (arm, seed) not in begun
        ]
    return tuple(sentences)


def cannot_conclude(
    records: StudyRecords, arms: Sequence[ArmRow], contrasts: Sequence[ContrastRow]
) -> tuple[str, ...]:
    """List what these runs do not show."""
    first = [records.of(recipe)[0] for recipe in records.recipes]
    sources = list(dict.fromkeys(str(run.record["data"]["source"]) for run in first))
    models = list(dict.fromkeys(str(run.config["recipe"]["model"]["name"]) for run in first))
    sentences = [
        (
            f"Other data or models: every run was trained and scored on {listed(sources)}, from "
            f"{listed(models)}."
        ),
    ]
    for run in first:
        dropped = run.record["data"].get("dropped", {})
        if dropped_rows := ", ".join(f"{reason} {n}" for reason, n in dropped.items() if n):
            sentences.append(f"{run.recipe}: rows that were left out of the data ({dropped_rows}).")
    if any(model.startswith("toy:") for model in models):
        sentences.append(
            "Large models and natural language: the embedded study is a toy language on models "
            "of under a million parameters; it shows that the method works, not by how much."
        )
    sentences += [
        (
            "Other settings or budgets: each arm had one setting and one number of updates; how "
            "much another search would change is not covered."
        ),
        (
            "Equality: inconclusive means that neither a difference, after correction, nor "
            "equivalence is shown; only rows called equivalent differ by less than the smallest "
            "effect of interest."
        ),
        *_small_effects(arms, contrasts),
        (
            "Differences from the base model, as claims: their intervals are not corrected for "
            "multiple comparisons."
        ),
        (
            "What people prefer: scores compare with the chosen answers of the data; "
            + (
                "judges of the generated answers are models."
                if records.judged
                else "nobody judged the generated answers."
            )
        ),
    ]
    sentences += _untuned(arms)
    sentences += [
        f"What diverged runs would have scored: {arm.n_diverged} of {arm.n_diverged + arm.n_seeds} "
        f"{arm_name(arm.arm)} runs on {arm.recipe} diverged and have no score, so a comparison "
        "concludes only what would hold had they scored as badly as possible."
        for arm in arms
        if arm.n_diverged
    ]
    sentences += _settings_from_elsewhere(records)
    return tuple(sentences)


def search_remarks(records: StudyRecords, rows: Sequence[SearchRow]) -> tuple[str, ...]:
    """Say what a reader must know about the searches: budgets, edges, luck."""
    sentences = []
    for recipe in records.recipes:
        trials = {
            search.arm: search.trials for search in records.searches if search.recipe == recipe
        }
        difference = tuning.budget_difference(trials)
        if difference:
            sentences.append(
                f"{recipe}: the arms had unequal numbers of finished trials ({difference}), which "
                "favours the arm with more."
            )
        elif trials:
            n = len(next(iter(trials.values())))
            sentences.append(
                f"{recipe}: every searched arm had the same number of finished trials, {n}, "
                "including pruned ones."
            )
    sentences += [
        f"{row.recipe}: the best {setting_name(name)} of {arm_name(row.arm)}, "
        f"{setting(row.settings[name])}, is at the edge of its range, so a better one may lie "
        "outside it."
        for row in rows
        for name in row.at_edge
    ]
    sentences += [
        f"{row.recipe}: the best trial of {arm_name(row.arm)} looked "
        f"{number(abs(row.optimism), 3)} {'better' if row.optimism >= 0 else 'worse'} than the "
        "mean of its repetitions with fresh seeds."
        for row in rows
    ]
    return tuple(sentences)


def _divergence(run: RunRecord) -> str:
    where: Mapping[str, Any] = run.record["divergence"] or {}
    examples = ", ".join(str(name) for name in where.get("example_ids", [])[:4])
    return (
        f"{run.recipe}: {arm_name(run.arm)} with seed {run.seed} diverged at step "
        f"{where.get('step', 'unknown')}{f' (examples {examples})' if examples else ''}."
    )


def _untuned(arms: Sequence[ArmRow]) -> list[str]:
    """Say which arms were not tuned, in one sentence for each model."""
    names: dict[str, list[str]] = {}
    for arm in arms:
        if arm.arm != UNTRAINED and not arm.tuned:
            names.setdefault(arm.recipe, []).append(arm_name(arm.arm))
    alike: dict[tuple[str, ...], list[str]] = {}
    for recipe, found in names.items():
        alike.setdefault(tuple(found), []).append(recipe)
    return [
        f"What {listed(found)} could reach on {listed(recipes)}: "
        f"{'it is' if len(found) == 1 else 'they are'} untuned, trained at the recipe's own "
        "settings."
        for found, recipes in alike.items()
    ]


def _small_effects(arms: Sequence[ArmRow], contrasts: Sequence[ContrastRow]) -> list[str]:
    n = min((arm.n_seeds for arm in arms if arm.arm != UNTRAINED), default=0)
    if n < 2:
        return [
            (
                "Any difference at all where an arm has one run: it cannot be distinguished from "
                "seed noise."
            )
        ]
    found: dict[str, dict[str, list[float]]] = {}
    for row in contrasts:
        if row.family == "primary" and row.detectable is not None:
            of_recipe = found.setdefault(row.recipe, {})
            of_recipe.setdefault(row.metric, []).append(row.detectable)
    return [
        f"Small effects on {recipe}: more than a fifth of such studies would miss a true "
        f"difference below {' or '.join(_sizes(metric, sizes) for metric, sizes in known.items())}."
        for recipe, known in found.items()
    ]


def _sizes(name: str, sizes: Sequence[float]) -> str:
    """Print one size in a metric, or the range of those of several arms."""
    metric = METRICS[name]
    ends = dict.fromkeys(f"{size:.{metric.digits}f}" for size in (min(sizes), max(sizes)))
    by_arm = ", by arm," if len(ends) > 1 else ""
    return f"{in_unit(' to '.join(ends), metric)}{by_arm} in {metric.label}"


def _settings_from_elsewhere(records: StudyRecords) -> list[str]:
    """Say where a search described another configuration than the comparison."""
    sentences = []
    for search in records.searches:
        runs = records.of(search.recipe, search.arm)
        if not runs or not all(run.record["tuned"] for run in runs):
            continue
        searched = {key: part for key, part in search.config["recipe"].items() if key != "search"}
        fields = differences(searched, runs[0].config["recipe"])
        if fields:
            names = ", ".join(field.partition(":")[0] for field in fields)
            sentences.append(
                f"That {arm_name(search.arm)} is tuned for {search.recipe} as compared: its search "
                f"ran under another configuration ({names})."
            )
    return sentences
