"""Sentences of the findings: words chosen by verdicts and records alone."""

from collections.abc import Mapping, Sequence

from analysis import tuning
from analysis.metrics import METRICS
from analysis.records import RunRecord, StudyRecords
from analysis.rows import ArmRow, ContrastRow, SearchRow
from study.config import differences

SMALLEST_EFFECT = {2: 10.4, 3: 3.5, 4: 2.5, 5: 2.1, 6: 1.8, 8: 1.5, 10: 1.3}
"""Seeds per arm -> effect found in 80 % of studies, in sd between seeds.

Unpaired seeds-by-prompts t where seeds dominate; simulated, STATISTICS 3.6.
"""


def answer(contrasts: Sequence[ContrastRow], arms: Sequence[ArmRow], metric: str) -> str:
    """Answer the study's question, ORPO or SFT, in one sentence over all recipes."""
    rows = {(arm.recipe, arm.arm): arm for arm in arms}
    parts = []
    for recipe in dict.fromkeys(arm.recipe for arm in arms):
        sft, orpo = rows.get((recipe, "sft")), rows.get((recipe, "orpo"))
        contrast = next(
            (
                row
                for row in contrasts
                if (row.recipe, row.metric, row.baseline, row.treatment)
                == (recipe, metric, "sft", "orpo")
            ),
            None,
        )
        if sft is None or orpo is None or contrast is None:
            parts.append(f"on {recipe} ORPO and SFT cannot be compared: finished runs are missing")
        else:
            parts.append(_answer_part(contrast, sft, orpo))
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def failed_runs(records: StudyRecords) -> tuple[str, ...]:
    """Say which runs diverged, are unfinished or are missing beside another arm."""
    sentences = [_divergence(run) for run in records.runs if not run.ok]
    sentences += [
        f"{recipe}: {arm_name(arm)} with seed {seed} was begun and is not finished."
        for recipe, arm, seed in records.unfinished
    ]
    for recipe in records.recipes:
        trained = [arm for arm in records.arms(recipe) if arm != "base"]
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
        f"Other data: every run was trained and scored on {_list(sources)}.",
        f"Other models: every run started from {_list(models)}.",
    ]
    if any(model.startswith("toy:") for model in models):
        sentences.append(
            "Large models and natural language: the embedded study is a toy language on models "
            "of about a million parameters; it shows that the method works, not how much."
        )
    sentences += [
        (
            "Other settings or budgets: each arm was trained at one setting for a fixed number of "
            "updates; how much the verdict varies with another search is not covered."
        ),
        (
            "Equality: inconclusive means that the interval contains zero; no smallest effect of "
            "interest was declared, so no row shows that two arms are equal."
        ),
        _small_effects(arms),
        (
            f"Any single one of the secondary scores: {len(contrasts)} comparisons are shown "
            "without a correction for their number, and only the primary score was chosen before "
            "the runs."
        ),
        (
            "What people prefer: scores compare with the chosen answers of the data; nobody judged "
            "the generated answers."
        ),
    ]
    sentences += [
        f"What {arm_name(arm.arm)} could reach on {arm.recipe}: it is untuned, trained at the "
        "recipe's own settings."
        for arm in arms
        if arm.arm != "base" and not arm.tuned
    ]
    sentences += [
        f"What diverged runs would have scored: {arm.n_diverged} of {arm.n_diverged + arm.n_seeds} "
        f"{arm_name(arm.arm)} runs on {arm.recipe} diverged and have no score, so comparisons with "
        "them stay inconclusive."
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
            sentences.append(f"{recipe}: every searched arm had the same {n} finished trials.")
    sentences += [
        f"{row.recipe}: the best {_setting_name(name)} of {arm_name(row.arm)}, "
        f"{number(row.settings[name])}, lies at the edge of its range, so a better one may lie "
        "outside."
        for row in rows
        for name in row.at_edge
    ]
    sentences += [
        f"{row.recipe}: the best trial of {arm_name(row.arm)} looked "
        f"{abs(row.optimism):.3f} {'better' if row.optimism >= 0 else 'worse'} than the mean of "
        f"its repetitions with fresh seeds."
        for row in rows
    ]
    return tuple(sentences)


def settings_words(settings: Mapping[str, float]) -> str:
    """Print settings as ``learning rate 3e-3, β 0.1``."""
    return ", ".join(f"{_setting_name(name)} {number(value)}" for name, value in settings.items())


def arm_name(arm: str) -> str:
    """Print an arm's name: ``Base``, ``SFT``, ``ORPO``."""
    return "Base" if arm == "base" else arm.upper()


def number(value: float) -> str:
    """Print a hyperparameter with three figures, as ``3e-3`` below 0.01."""
    if value >= 0.01:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def signed(value: float, digits: int) -> str:
    """Print a number with its sign and a real minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _answer_part(contrast: ContrastRow, sft: ArmRow, orpo: ArmRow) -> str:
    metric = METRICS[contrast.metric]
    effect = signed(contrast.estimate, metric.digits)
    if metric.unit:
        effect += f" {metric.unit}"
    size = f"{_seeds(contrast)}, {contrast.n_examples} held-out pairs"
    if contrast.low is not None and contrast.high is not None:
        low, high = signed(contrast.low, metric.digits), signed(contrast.high, metric.digits)
        size = f"95 % interval {low} to {high}; {size}"
    treatment, baseline = _arm(orpo), _arm(sft)
    match contrast.verdict:
        case "better" | "worse":
            verb = "beats" if contrast.verdict == "better" else "falls behind"
            return (
                f"{treatment} {verb} {baseline} on {contrast.recipe} by {effect} in "
                f"{metric.label} ({size})"
            )
        case "inconclusive":
            return (
                f"no difference between {treatment} and {baseline} is shown on {contrast.recipe}: "
                f"{effect} in {metric.label} is inconclusive ({size}{_diverged(sft, orpo)})"
            )
        case _:
            reason = contrast.test.removeprefix("not tested: ")
            return (
                f"the difference between {treatment} and {baseline} on {contrast.recipe}, "
                f"{effect} in {metric.label}, is not tested, because {reason} ({size})"
            )


def _arm(row: ArmRow) -> str:
    untuned = "" if row.tuned else ", untuned"
    return f"{arm_name(row.arm)} ({settings_words(row.settings)}{untuned})"


def _seeds(contrast: ContrastRow) -> str:
    a, b = contrast.n_baseline, contrast.n_treatment
    if a != b:
        return f"{b} and {a} seeds"
    return "1 seed" if a == 1 else f"{a} seeds"


def _diverged(*rows: ArmRow) -> str:
    words = [f"{row.n_diverged} {arm_name(row.arm)} diverged" for row in rows if row.n_diverged]
    return f"; {', '.join(words)}" if words else ""


def _divergence(run: RunRecord) -> str:
    where = run.record["divergence"] or {}
    examples = ", ".join(str(name) for name in where.get("example_ids", [])[:4])
    return (
        f"{run.recipe}: {arm_name(run.arm)} with seed {run.seed} diverged at step "
        f"{where.get('step', 'unknown')}{f' (examples {examples})' if examples else ''}."
    )


def _small_effects(arms: Sequence[ArmRow]) -> str:
    n = min((arm.n_seeds for arm in arms if arm.arm != "base"), default=0)
    if n < 2:
        return "Any difference at all where an arm has one run: nothing tells it from luck."
    known = max(seeds for seeds in SMALLEST_EFFECT if seeds <= n)
    return (
        f"Small effects: with {n} seeds per arm a difference below about "
        f"{SMALLEST_EFFECT[known]} standard deviations between seeds would mostly be missed."
    )


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


def _setting_name(name: str) -> str:
    return "β" if name == "beta" else name.replace("_", " ")


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
