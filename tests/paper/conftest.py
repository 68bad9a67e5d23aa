"""A realistic study of two recipes and three seeds, made up for the tests."""

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from analysis.findings import (
    ArmRow,
    CalibrationRow,
    ClaimPart,
    ClaimRow,
    ContrastRow,
    CostRow,
    DataRow,
    FigureFile,
    Findings,
    Metric,
    RougeRow,
    Sample,
    SearchRow,
    Summary,
    TuningRow,
)
from analysis.rows import BestOf, Early, EarlyRow, WeightRow
from analysis.tables.bench import bench_table

RECIPES = {
    "tiny-llama": "Embedded study: Llama-3.2's shape (grouped key-value heads) in miniature",
    "tiny-smollm2": "Embedded study: SmolLM2's shape (no grouped heads) in miniature",
}
SEEDS = {"base": (0,), "sft": (1, 2, 3), "orpo": (1, 2, 3)}
SETTINGS: dict[str, dict[str, float]] = {
    "base": {},
    "sft": {"learning_rate": 0.0031622776601683794},
    "orpo": {"learning_rate": 0.003, "beta": 0.5123},
}
LEVELS = {
    "accuracy": (0.29, 0.83, 0.89),
    "margin": (-1.0, 0.42, 1.0),
    "nll": (4.1, 0.62, 0.65),
    "lor": (1.9, 0.61, 0.32),
    "log_odds": (-1.1, 0.9, 2.1),
    "chosen_logps": (-5.05, -0.71, -0.70),
    "rejected_logps": (-4.05, -1.13, -1.70),
    "rouge1": (0.11, 0.71, 0.73),
    "rouge2": (0.03, 0.55, 0.56),
    "rougeL": (0.1, 0.7, 0.72),
    "response_tokens": (31.7, 9.4, 8.8),
    "ended": (0.01, 0.99, 1.0),
    "exact_match": (0.0, 0.52, 0.56),
}
SIGNATURE = (
    "model:toy:llama,toy:smollm2|data:toy|trials:40|seeds:1,2,3|"
    "digest:4be1c9a07d52e83f|git:0123456789abcdef0123456789abcdef01234567"
)
HOSTILE = (
    "<script>alert(1)</script></style><img src=x onerror=alert(2)> "
    "\\input{/etc/passwd} \\write18{id} 100 % a_b $x$ & # ~ {{ 7*7 }} ((( 7*7 ))) {% raw %} "
    "^^5c^^M emoji 😀👩‍👧 עברית العربية \u202eabc\u202c 漢字仮名 ﬁ Å é ſ ĸ "
    "zero\u200bwidth\ufeff bell\x07 nul\x00 esc\x1b[31m c1\x85 lone\ud800 private\ue000 "
    "--- '' ,, `` ?` [x] * \"quoted\" ||\n\n  indented\ttab\n[line]\r\nend"
)


@pytest.fixture
def findings(bench_report: dict[str, Any]) -> Findings:
    """Findings with every field filled."""
    return dataclasses.replace(make_findings(), bench=bench_table(bench_report))


@pytest.fixture
def hostile_findings(findings: Findings) -> Findings:
    """Findings whose every free text tries to break out of the report."""
    word = "pneumono" * 1250
    samples = (
        Sample(
            recipe="tiny-llama",
            example_id="0123456789abcdef",
            prompt=HOSTILE,
            reference=word,
            answers={"base": "W" * 10_000, "sft": HOSTILE * 3, "orpo": "漢" * 2000},
        ),
    )
    return dataclasses.replace(
        findings,
        answer=HOSTILE,
        samples=samples,
        failed_runs=(HOSTILE, word),
        deviations=("W" * 10_000,),
        environment={**findings.environment, HOSTILE: HOSTILE, "[long": word},
        commands=(*findings.commands, HOSTILE, "x" * 10_000),
        signature=word[:300] + HOSTILE,
        recipes=dict.fromkeys(RECIPES, HOSTILE),
        claims=tuple(
            dataclasses.replace(row, sentence=HOSTILE, source=word, remark=HOSTILE)
            for row in findings.claims
        ),
    )


@pytest.fixture
def draw() -> Callable[[Path], tuple[FigureFile, ...]]:
    """A function that draws one small figure for each section of the report."""
    return draw_figures


def draw_figures(folder: Path) -> tuple[FigureFile, ...]:
    """Draw one small figure for each section, as SVG and PDF."""
    import matplotlib.figure

    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for section in ("results", "search", "curves", "cost"):
        canvas = matplotlib.figure.Figure(figsize=(7, 3), layout="constrained")
        axes = canvas.subplots()
        axes.plot([0, 80, 160], [0.3, 0.7, 0.9], label="ORPO")
        axes.set(xlabel="step", ylabel="score", title=section)
        for suffix in ("svg", "pdf"):
            canvas.savefig(folder / f"{section}.{suffix}")
        figures.append(
            FigureFile(
                name=section,
                caption=f"The {section} of both recipes, 95 % of them & more.",
                alt=f"A line that rises from 0.3 to 0.9 over 160 steps ({section}).",
                section=section,
            )
        )
    return tuple(figures)


def make_findings() -> Findings:
    """Make findings up; the numbers hang together, but nothing was run."""
    arms = tuple(_arm(recipe, arm) for recipe in RECIPES for arm in SEEDS)
    return Findings(
        answer=(
            "On held-out pairs of tiny-llama, ORPO ranked the chosen answer first more often than "
            "SFT: accuracy +0.060 (95 % interval 0.031 to 0.089, n = 3 and 3 seeds, 256 pairs)."
        ),
        primary_metric="accuracy",
        metrics=METRICS,
        recipes=RECIPES,
        arms=arms,
        contrasts=tuple(
            _contrast(recipe, name, baseline, treatment, arms)
            for recipe in RECIPES
            for baseline, treatment in (("sft", "orpo"), ("base", "orpo"))
            for name in METRICS
        ),
        searches=tuple(_search(recipe, arm) for recipe in RECIPES for arm in ("sft", "orpo")),
        costs=tuple(_cost(recipe, arm) for recipe in RECIPES for arm in SEEDS),
        samples=tuple(_sample(recipe, number) for recipe in RECIPES for number in range(2)),
        data=tuple(
            DataRow(
                recipe=recipe,
                source="toy",
                splits={
                    split: (pairs, "5d41402abc4b2a76b9719d911017c592" * 2)
                    for split, pairs in (("train", 3200), ("validation", 192), ("test", 256))
                },
            )
            for recipe in RECIPES
        ),
        failed_runs=("tiny-llama, orpo, seed 4 diverged at step 37 and has no scores.",),
        cannot_conclude=(
            "Whether the difference holds for models of more than a million parameters.",
            "Whether people would prefer the answers: no person and no judge model read them.",
        ),
        deviations=(
            "SFT and ORPO had the same number of updates; the paper gave ORPO up to ten epochs.",
        ),
        environment={"python": "3.11.9", "torch": "2.13.0+cpu", "device": "cpu, 2 cores"},
        digests=tuple(
            {
                "recipe": row.recipe,
                "arm": row.arm,
                "seed": seed,
                "status": "ok",
                "digest": f"{hash_of(row.recipe, row.arm, seed):064x}",
                "git": "0123456789abcdef0123456789abcdef01234567",
                "finished_at": "2026-11-21T06:34:46+00:00",
            }
            for row in arms
            for seed in SEEDS[row.arm]
        ),
        configurations={
            recipe: {
                "model": {"name": "toy:llama", "trust_remote_code": False},
                "training": {"max_steps": 160, "schedule": "linear", "weight_decay": 0.0},
                "adapter": {"rank": 16, "target_modules": ["q_proj", "k_proj", "v_proj"]},
            }
            for recipe in RECIPES
        },
        signature=SIGNATURE,
        search_remarks=(
            "tiny-llama: every searched arm had the same 40 finished trials.",
            "tiny-llama: the best β of ORPO, 0.512, lies at the edge of its range.",
        ),
        claims=(
            *(_claim("3", place, "contradicted") for place in ("all models", *RECIPES)),
            *(_claim("10", place, "not testable here") for place in ("all models", *RECIPES)),
        ),
        claim_remarks=("The family of the claims has 7 tests, corrected by Holm.",),
        pooled=(_pooled("accuracy", arms), _pooled("rougeL", arms)),
        test_remarks=(
            "The primary family asks whether ORPO and SFT differ in accuracy.",
            "tiny-llama: more seeds or more pairs? More seeds would help most.",
        ),
        calibration=(
            CalibrationRow(
                regime="seeds dominate",
                test="unpaired",
                quantity="type I error",
                value=0.034,
                low=None,
                high=0.065,
                n_studies=2000,
                passed=True,
            ),
            CalibrationRow(
                regime="seeds dominate",
                test="unpaired",
                quantity="power",
                value=0.71,
                low=0.77,
                high=0.83,
                n_studies=2000,
                passed=False,
            ),
        ),
        tuning=tuple(_tuning(recipe, arm) for recipe in RECIPES for arm in ("sft", "orpo")),
        rouge=tuple(
            RougeRow(
                recipe=recipe,
                arm=arm,
                n_seeds=len(SEEDS[arm]),
                n_answers=64,
                corrected={"rouge1": 0.51, "rouge2": 0.31, "rougeL": 0.417},
                published={"rouge1": 0.21, "rouge2": 0.11, "rougeL": 0.193},
            )
            for recipe in RECIPES
            for arm in SEEDS
        ),
        rouge_remarks=("tiny-llama: the published scoring puts the arms in another order.",),
        table_notes=_notes(),
        origin="published, runs/published (no finished comparison in runs/local)",
        commands=(
            "study search --trials 40 --runs runs/local",
            "study compare --seeds 3 --runs runs/local",
            "python -m paper.build --runs runs/local",
        ),
    )


def _notes() -> dict[str, str]:
    fixed = (
        "search published weights early rouge claims claims-models cost bench "
        "calibration environment data digests configuration"
    ).split()
    by_recipe = [f"{part}:{recipe}" for recipe in RECIPES for part in ("arms", "raw")]
    compared = [
        f"{part}:{recipe}:{baseline}:orpo"
        for part in ("tests", "parts")
        for recipe in (*RECIPES, "all models")
        for baseline in ("base", "sft")
    ]
    return {name: f"Note of {name}, n: 3 & more." for name in (*fixed, *by_recipe, *compared)}


def _tuning(recipe: str, arm: str) -> TuningRow:
    return TuningRow(
        recipe=recipe,
        arm=arm,
        objective="nll+lor",
        direction="minimize",
        n_complete=27,
        sampled={"published": 2, "random": 8, "tpe": 30},
        n_hyperparameters=len(SETTINGS[arm]),
        updates=3210,
        seconds=412.5,
        expected_best=tuple(
            BestOf(n=n, expected=0.9 + 1 / n, low=None if n > 2 else 0.8, high=2.1)
            for n in range(1, 9)
        ),
        importance={"learning_rate": 0.7, "beta": 0.3} if arm == "orpo" else {},
        weights=(
            WeightRow(
                weight=0.25, trial=7, settings=SETTINGS[arm], nll=0.61, lor=0.32, chosen=True
            ),
        ),
        early=(
            EarlyRow(
                score="nll+lor",
                n_trials=27,
                steps=(Early(step=40, correlation=0.81, low=0.6, high=0.92),),
            ),
        ),
        last_step=160,
        leader_from=120,
        meaning={
            "expected": f"{recipe}, {arm}: the best of 8 random trials is expected at 1.025.",
            "importance": f"{recipe}, {arm}: the learning rate made up the most & β the rest.",
            "weights": f"{recipe}, {arm}: the same trial wins under every weight.",
            "early": f"{recipe}, {arm}: from step 40 on the ranks agree.",
        },
    )


def hash_of(*parts: object) -> int:
    """Return a stable stand-in for a digest."""
    return random.Random(repr(parts)).getrandbits(256)


def _metric(name: str, label: str, unit: str, higher: bool | None, digits: int) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit=unit,
        higher_is_better=higher,
        digits=digits,
        meaning=f"What {label} means, in one sentence.",
    )


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _metric("accuracy", "accuracy", "", True, 3),
        _metric("margin", "margin", "nats/token", True, 3),
        _metric("nll", "NLL of the chosen answer", "nats/token", False, 3),
        _metric("lor", "odds-ratio loss", "nats", False, 3),
        _metric("log_odds", "log odds ratio", "nats", True, 3),
        _metric("chosen_logps", "chosen log-probability", "nats/token", True, 3),
        _metric("rejected_logps", "rejected log-probability", "nats/token", None, 3),
        _metric("rouge1", "ROUGE-1 F", "", True, 3),
        _metric("rouge2", "ROUGE-2 F", "", True, 3),
        _metric("rougeL", "ROUGE-L F", "", True, 3),
        _metric("response_tokens", "response length", "tokens", None, 1),
        _metric("ended", "answers that ended by themselves", "share", True, 3),
        _metric("exact_match", "exact match", "share", True, 3),
    )
}


def _arm(recipe: str, arm: str) -> ArmRow:
    return ArmRow(
        recipe=recipe,
        arm=arm,
        settings=SETTINGS[arm],
        tuned=arm != "base",
        n_seeds=len(SEEDS[arm]),
        n_diverged=int(arm == "orpo" and recipe == "tiny-llama"),
        scores={name: _summary(recipe, arm, name) for name in METRICS},
    )


def _summary(recipe: str, arm: str, name: str) -> Summary:
    level = LEVELS[name][tuple(SEEDS).index(arm)]
    noise = random.Random(f"{recipe}{arm}{name}")
    values = {seed: level + noise.gauss(0, 0.01) for seed in SEEDS[arm]}
    spread = stdev(values.values()) if len(values) > 1 else None
    return Summary(mean=mean(values.values()), sd=spread, by_seed=values)


def _contrast(
    recipe: str, name: str, baseline: str, treatment: str, arms: tuple[ArmRow, ...]
) -> ContrastRow:
    scores = {row.arm: row.scores[name] for row in arms if row.recipe == recipe}
    estimate = scores[treatment].mean - scores[baseline].mean
    tested = baseline != "base"
    return ContrastRow(
        recipe=recipe,
        metric=name,
        baseline=baseline,
        treatment=treatment,
        estimate=estimate,
        low=estimate - 0.03 if tested else None,
        high=estimate + 0.03 if tested else None,
        p_value=(0.00004 if abs(estimate) > 0.03 else 0.412) if tested else None,
        df=3.87 if tested else None,
        null_hypothesis="over training seeds and prompts like these, both arms have the same mean "
        "score"
        if tested
        else "",
        test_set_low=estimate - 0.02 if tested else None,
        test_set_high=estimate + 0.02 if tested else None,
        test="seeds-by-prompts t (Welch's over seeds)"
        if tested
        else "not tested: Base has a single run",
        n_baseline=len(SEEDS[baseline]),
        n_treatment=len(SEEDS[treatment]),
        n_examples=256,
        verdict=_verdict(estimate, METRICS[name].higher_is_better) if tested else "not tested",
        shares={"seed": 0.6, "prompt": 0.3, "residual": 0.1} if tested else None,
        family=("primary" if name == "accuracy" else "secondary") if tested else "",
        p_adjusted=0.0123 if tested else None,
        detectable=0.0415 if tested else None,
        detectable_low=0.03 if tested else None,
        detectable_high=0.0888 if tested else None,
        sesoi=0.02,
    )


def _claim(claim: str, recipe: str, verdict: str) -> ClaimRow:
    part = ClaimPart(
        prediction="margin: ORPO with β 0.5 higher than with β 0.1 (learning rate 3e-3)",
        estimate=-0.2461,
        low=-0.3142,
        high=-0.1781,
        digits=3,
        unit="nats/token",
        is_difference=True,
        detectable=0.0917,
        p_value=0.0021,
        p_adjusted=0.0147,
        family_size=7,
        n="3 and 3 runs, 256 pairs",
        test="seeds-by-prompts t (Welch's over seeds)",
        null_hypothesis="both arms have the same mean score",
        verdict=verdict,
    )
    untested = dataclasses.replace(
        part, estimate=None, low=None, high=None, detectable=None, p_value=None, p_adjusted=None,
        n="", test="not tested: no search was run", null_hypothesis="",
    )  # fmt: skip
    testable = verdict == "contradicted"
    return ClaimRow(
        claim=claim,
        source="article B",
        sentence="β 0.5 separates the answers more than β 0.1.",
        made_at="Mistral-7B; UltraFeedback",
        here="0.58M parameters; a toy language",
        recipe=recipe,
        verdict=verdict,
        parts=(part, untested) if testable else (),
        remark="" if testable else "nobody judged the generated answers",
    )


def _pooled(name: str, arms: tuple[ArmRow, ...]) -> ContrastRow:
    return dataclasses.replace(
        _contrast("tiny-llama", name, "sft", "orpo", arms),
        recipe="all models",
        n_models=2,
        verdict="better by at least",
        remark="length changed",
        win_rate=0.62,
        win_low=0.55,
        win_high=0.69,
        bound_low=-0.011,
        bound_high=0.22,
        tost_p=0.4,
        relative=0.07,
    )


def _verdict(estimate: float, higher_is_better: bool | None) -> str:
    if abs(estimate) <= 0.03:
        return "inconclusive"
    if higher_is_better is None:
        return "higher" if estimate > 0 else "lower"
    return "better" if (estimate > 0) == higher_is_better else "worse"


def _search(recipe: str, arm: str) -> SearchRow:
    published = (
        {"source": "TRL's LoRA example", "settings": {"learning_rate": 8e-5, "beta": 0.1},
         "value": 2.912, "state": "pruned",
         "repeated": None, "n_repeated": 0, "behind": None},
        {"source": "axolotl example (Mistral-7B QLoRA r 32)",
         "settings": {"learning_rate": 2e-4, "beta": 0.1}, "value": None, "state": "diverged",
         "repeated": 1.234, "n_repeated": 2, "behind": 0.287},
    )  # fmt: skip
    space = {"learning_rate": (1e-4, 1e-2), "beta": (0.03, 2.0)}
    return SearchRow(
        recipe=recipe,
        arm=arm,
        objective="nll+lor",
        direction="minimize",
        n_trials=40,
        n_pruned=11,
        n_diverged=2,
        settings=SETTINGS[arm],
        trial_value=0.912,
        value=0.947,
        optimism=0.035,
        n_repeated=2,
        space={name: space[name] for name in SETTINGS[arm]},
        published=published if arm == "orpo" else (),
        at_edge=("beta",) if arm == "orpo" else (),
    )


def _cost(recipe: str, arm: str) -> CostRow:
    trained = arm != "base"
    return CostRow(
        recipe=recipe,
        arm=arm,
        train_s=83.4 if trained else 0.0,
        evaluate_s=4.2,
        train_tokens=123_456.0 if trained else 0.0,
        tokens_per_s=1480.3 if trained else None,
        peak_memory_bytes=612.5 * 2**20,
        device="cpu",
    )


def _sample(recipe: str, number: int) -> Sample:
    return Sample(
        recipe=recipe,
        example_id=f"{hash_of(recipe, number) % 16**16:016x}",
        prompt="Which of these is a fruit: stone, apple, chair?",
        reference="An apple is a fruit.",
        answers={
            "base": "stone apple stone the chair is a the fruit of stone. A chair is " * 6,
            "sft": "An apple is a fruit.",
            "orpo": "An apple is a fruit.",
        },
    )
