"""A synthetic study: records that the product writes, numbers from a generator.

Nothing is trained. What a record holds, its schema and its checksums come from
the functions that write a real one; only what training would have measured is
made up here.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from study.arms import ARMS
from study.config.canonical import digest
from study.config.claims import load_claims
from study.config.ladder import climb, load_ladder
from study.config.recipe import load_recipe
from study.records.digests import search_config
from study.records.files import write_jsonl, write_sealed
from study.records.folders import claim_folder
from study.records.layout import (
    BEST,
    CONFIRMATIONS,
    EXAMPLES,
    GENERATIONS,
    STEPS,
    TRIALS,
    answers_name,
    plan_path,
    search_folder,
)
from study.records.plan import register, write_plan
from study.records.runs import run_folder, setting_folder
from study.run.ladder import _write_ladder, plan_ladder
from study.run.planned import PlannedRun, PlannedStart, record_of
from study.run.ranking import calibrated_ranking_loss
from study.search.confirm import best_trials, choose
from study.search.objectives import validation_value
from study.search.trials import _trial_row

RECIPES = ("tiny-llama", "tiny-smollm2")
N_EXAMPLES, N_GENERATED = 80, 40
SETTINGS = {
    "base": {},
    "sft": {"learning_rate": 2.5e-3},
    "orpo": {"learning_rate": 3.2e-3, "beta": 0.42},
}
METHODS = ("tiny-llama-methods", "tiny-smollm2-methods")
METHOD_SETTINGS = SETTINGS | {
    "sft-matched": SETTINGS["sft"],
    **{name: {"learning_rate": 1e-3, "beta": 0.1} for name in ("orpo-from-sft", "dpo", "ipo")},
    **{name: {"learning_rate": 5e-4, "beta": 0.2} for name in ("kto", "cpo")},
    "simpo": {"learning_rate": 5e-4, "beta": 2.0, "gamma_beta_ratio": 0.5},
}
"""Settings of every arm there is."""
MACHINE = {
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "device": "cpu",
    "git": "0123456789abcdef",
    "finished_at": "2026-01-02T03:04:05+00:00",
}
"""The same on every machine that runs the tests."""
# Final chosen and rejected log-probability per token of every arm.
FINAL = {
    "base": (-4.9, -4.1),
    "sft": (-0.72, -1.15),
    "orpo": (-0.75, -2.2),
    "sft-matched": (-0.68, -1.2),
    "orpo-from-sft": (-0.74, -2.1),
    "dpo": (-5.4, -8.0),
    "ipo": (-1.2, -2.6),
    "kto": (-1.0, -2.0),
    "simpo": (-5.2, -7.0),
    "cpo": (-0.78, -2.0),
    "coming": (-0.72, -1.15),
    "default": (-4.7, -4.2),
    "beta-0.1": (-0.75, -1.7),
    "beta-0.5": (-0.78, -2.3),
    "beta-1.0": (-1.1, -3.2),
    "higher-rate": (-0.75, -1.7),
}


def whole_config(**changes):
    """Return a run's configuration that fits its description and means nothing."""
    settings = {"learning_rate": 1e-3}
    config = {"schema": 2, "arm": "sft", "seed": 1, "settings": settings, "recipe": {}}
    return config | changes


def whole_record(**changes):
    """Return a run's record that fits its description and means nothing."""
    config = whole_config(**{key: changes[key] for key in ("arm", "seed") if key in changes})
    empty = ("settings", "scores", "data", "cost", "parameters", "model", "versions")
    names = {"recipe": "tiny", "arm": "sft", "device": "CPU", "git": "", "finished_at": ""}
    names["digest"] = digest(config)
    facts = {"schema": 2, "status": "ok", "seed": 1, "tuned": False, "divergence": None}
    return {**{name: {} for name in empty}, **names, **facts, "out_of_memory": []} | changes


def whole_best(**changes):
    """Return what a search froze that fits its description and means nothing."""
    numbers = ("trial", "trial_value", "value", "optimism", "n_trials", "n_pruned", "n_diverged")
    names = {"recipe": "tiny", "arm": "sft", "objective": "nll", "direction": "minimize"}
    seeds = {"n_candidates": 0, "search_seed": 0, "confirmation_seeds": []}
    return {**dict.fromkeys(numbers, 0), **names, **seeds, "digest": "", "settings": {}} | changes


def whole_trial(**changes):
    """Return a finished trial that fits its description and means nothing."""
    scores = dict.fromkeys(("value", "nll", "lor", "accuracy", "margin", "log_odds"), 1.0)
    kind = {"published": None, "sampled": "random", "intermediate": [], "state": "complete"}
    return {"number": 0, "settings": {}, "seconds": 0.1, "seed": 1, **scores, **kind} | changes


def _curve(final, start, share):
    return start + (final - start) * (1 - math.exp(-4 * share))


def _validation_row(rng, arm, step, share):
    chosen, rejected = (
        _curve(final, start, share) for final, start in zip(FINAL[arm], FINAL["base"], strict=True)
    )
    chosen, rejected = chosen + rng.normal(0, 0.03), rejected + rng.normal(0, 0.05)
    margin = chosen - rejected
    return {
        "split": "validation",
        "step": step,
        "nll": -chosen,
        "ranking": min(math.log(2), math.log1p(math.exp(-2 * margin))),
        "lor": math.log1p(math.exp(-margin)),
        "log_odds": 1.2 * margin,
        "margin": margin,
        "accuracy": 1 / (1 + math.exp(-1.6 * margin)),
        "chosen_logps": chosen,
        "rejected_logps": rejected,
    }


def _train_row(rng, arm, step, share):
    row = _validation_row(rng, arm, step, share)
    both = arm == "orpo"
    return row | {
        "split": "train",
        "loss": row["nll"] + (0.4 * row["lor"] if both else 0.0),
        "or_loss": row["lor"] if both else None,
        "log_odds": row["log_odds"] if both else None,
        "margin": row["margin"] if both else None,
        "accuracy": row["accuracy"] if both else None,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "tokens": 640,
        "seconds": 0.1,
        "peak_memory_bytes": 200_000_000,
    }


def _steps(rng, arm, recipe, last=None):
    training = recipe.training
    end = last or training.max_steps
    if arm == "base":
        return [_validation_row(rng, arm, 0, 0.0)]
    rows = [_validation_row(rng, arm, 0, 0.0)]
    for step in range(1, end + 1):
        share = step / training.max_steps
        if step % training.log_every_steps == 0:
            rows.append(_train_row(rng, arm, step, share))
        if step % training.validate_every_steps == 0:
            rows.append(_validation_row(rng, arm, step, share))
    return rows


def make_examples(rng, arm):
    prompts = np.random.default_rng(1)  # difficulty of a pair is the same in every run
    n = N_EXAMPLES
    chosen_tokens = prompts.integers(6, 18, n)
    rejected_tokens = prompts.integers(6, 24, n)
    hard = prompts.normal(0, 0.25, n)
    prompt_tokens = 20 + np.arange(n) // 2 % 8
    chosen, rejected = FINAL[arm]
    shift = 0.0 if arm == "base" else rng.normal(0, 0.03)
    chosen = np.minimum(chosen + shift + hard + rng.normal(0, 0.08, n), -0.01)
    rejected = np.minimum(rejected - shift + rng.normal(0, 0.5, n), -0.01)
    quality = {"base": 0.2, "sft": 0.55, "orpo": 0.6}.get(arm, 0.6)
    length = {"base": 30, "sft": 12, "orpo": 10}.get(arm, 10)
    generated = np.arange(n) < N_GENERATED

    def only_generated(values):
        return [value if made else None for value, made in zip(values, generated, strict=True)]

    rouge = np.clip(quality + hard + rng.normal(0, 0.1, n), 0, 1)
    tokens = np.minimum(np.maximum(1, length + rng.normal(0, 4, n)).astype(int), 32)
    return pd.DataFrame(
        {
            "example_id": [f"{i:016x}" for i in range(n)],
            "cluster_id": [f"{i // 2:016x}" for i in range(n)],
            "source": ["toy"] * n,
            "prompt_tokens": prompt_tokens,
            "chosen_logp_sum": chosen * chosen_tokens,
            "chosen_tokens": chosen_tokens,
            "rejected_logp_sum": rejected * rejected_tokens,
            "rejected_tokens": rejected_tokens,
            "response_tokens": pd.array(only_generated(tokens.tolist()), dtype="Int64"),
            "ended": pd.array(only_generated((tokens < 32).tolist()), dtype="boolean"),
            "rouge1": only_generated(rouge.tolist()),
            "rouge2": only_generated((rouge * 0.6).tolist()),
            "rougeL": only_generated((rouge * 0.9).tolist()),
            "exact_match": only_generated((rng.random(n) < quality).astype(float).tolist()),
            "distinct_2": only_generated((1 - rouge / 10).tolist()),
        }
    )


def scores_of(frame):
    """Slow twin of the scores: a loop over rows."""
    rows = frame.to_dict("records")
    chosen = [row["chosen_logp_sum"] / row["chosen_tokens"] for row in rows]
    rejected = [row["rejected_logp_sum"] / row["rejected_tokens"] for row in rows]
    odds = [
        (c - r) - (math.log(1 - math.exp(c)) - math.log(1 - math.exp(r)))
        for c, r in zip(chosen, rejected, strict=True)
    ]
    scores = {
        "nll": -sum(row["chosen_logp_sum"] for row in rows)
        / sum(row["chosen_tokens"] for row in rows),
        "ranking": calibrated_ranking_loss(np.subtract(chosen, rejected)),
        "lor": np.mean([math.log1p(math.exp(-x)) for x in odds]),
        "accuracy": np.mean([float(c > r) for c, r in zip(chosen, rejected, strict=True)]),
        "margin": np.mean(chosen) - np.mean(rejected),
        "log_odds": np.mean(odds),
        "chosen_logps": np.mean(chosen),
        "rejected_logps": np.mean(rejected),
    }
    for name in (
        "rouge1",
        "rouge2",
        "rougeL",
        "response_tokens",
        "ended",
        "exact_match",
        "distinct_2",
    ):
        values = [float(row[name]) for row in rows if not pd.isna(row[name])]
        scores[name] = np.mean(values)
    return {name: float(value) for name, value in scores.items()}


def narrowed(recipe, *arms):
    """Return a recipe that trains and searches some of its arms alone."""
    space = {arm: recipe.search.space[arm] for arm in arms if arm in recipe.search.space}
    return replace(
        recipe,
        arms={arm: recipe.arms[arm] for arm in arms},
        search=replace(recipe.search, space=space),
    )


def make_run(runs, recipe, arm, seed, *, diverged=False, tuned=True, examples=None, setting=None):
    """Write one finished run, of claims if a setting is named, and a plan where there is none."""
    if not plan_path(runs, recipe.name).exists():
        make_plan(runs, recipe)
    name = setting or arm
    rng = np.random.default_rng([seed, *name.encode(), *recipe.name.encode()])
    folder, settings = run_folder(runs, recipe.name, arm, seed), METHOD_SETTINGS[arm]
    if setting:
        folder = setting_folder(runs, recipe.name, setting, seed)
        settings = load_claims().scale_of(recipe)[1].settings[setting]
    start = ARMS[arm].starts_from
    run = PlannedRun(
        recipe=recipe,
        arm=arm,
        settings=settings,
        seed=seed,
        tuned=tuned and arm != "base",
        folder=folder,
        start=start
        and PlannedStart(arm=start, settings=METHOD_SETTINGS[start], tuned=tuned, runs=runs),
    )
    steps = _steps(rng, name, recipe, last=40 if diverged else None)
    frame = make_examples(rng, name) if examples is None else examples
    return _finish(run, steps, None if diverged else frame)


def make_ladder(runs, recipe, *, seeds=2, diverged=()):
    """Climb a ladder: its plan, its claim and its runs; set-ups named as (name, seed) diverge."""
    ladder = load_ladder("article-a")
    stages = climb(ladder, recipe)
    plan = plan_ladder(ladder, recipe, stages, runs=runs, n=seeds, seed=0)
    own = list(dict.fromkeys(run.seed for run in plan))
    register(runs, recipe)
    _write_ladder(ladder, recipe, stages, runs=runs, seeds=own)
    for run in plan:
        rng = np.random.default_rng([run.seed, *run.part.encode()])
        steps = _steps(rng, run.arm, recipe)
        is_diverged = (run.part, run.seed) in diverged
        _finish(run, steps, None if is_diverged else make_examples(rng, run.arm))
    return own


def _finish(run, steps, frame):
    """Write a planned run's files and its record; it diverged where it has no examples."""
    folder = run.folder
    folder.claim(run.config)
    write_jsonl(folder.path / STEPS, steps)
    if frame is not None:
        frame.to_parquet(folder.path / EXAMPLES)
        answers = [
            {
                "example_id": name,
                "prompt": f"user: What is {name[-2:]}?",
                "reference": f"It is {name[-2:]}.",
                "text": f"{run.arm} says {name[-2:]}",
            }
            for name in frame["example_id"][:N_GENERATED]
        ]
        write_jsonl(folder.path / GENERATIONS, answers)
        for rung in run.config.get("answers", {}):
            rng = np.random.default_rng([run.seed, *run.part.encode()])
            rows = [
                answer | {"text": f"{rung} {'it is ' * rng.integers(1, 9)}{answer['text']}"}
                for answer in answers
            ]
            write_jsonl(folder.path / answers_name(rung), rows)
    record = record_of(
        _workbench(),
        run,
        _outcome(run.arm, diverged=frame is None),
        {} if frame is None else scores_of(frame),
        _cost(run.recipe, run.arm, run.seed),
    )
    folder.finish(record | MACHINE)
    return folder


def _workbench():
    split = {"pairs": N_EXAMPLES, "fingerprint": digest("split")}
    return SimpleNamespace(
        data_summary={"train": split, "validation": split, "test": split, "source": "toy"},
        base=SimpleNamespace(resolved={}, checked=None),
        device="cpu",
    )


def _outcome(arm, *, diverged):
    return SimpleNamespace(
        status="diverged" if diverged else "ok",
        divergence={"step": 41, "example_ids": ["00ab", "00cd"]} if diverged else None,
        parameters={"total": 900_000, "trainable": 0 if arm == "base" else 100_000},
        budget=None,
        start=None,
        out_of_memory=[],
    )


def _cost(recipe, arm, seed):
    trained = arm != "base"
    return {
        "train_s": 20.0 + seed if trained else 0.0,
        "evaluate_s": 3.0,
        "steps": recipe.training.max_steps if trained else 0,
        "train_tokens": 100_000 if trained else 0,
        "peak_memory_bytes": 200_000_000,
    }


def _intermediate(rng, last, end):
    """Validations that come closer to the last one, ever less noisily."""
    return [
        {"step": step}
        | {
            name: value + (1 - step / end) * (1 + rng.normal(0, 0.5)) if step < end else value
            for name, value in last.items()
        }
        for step in range(20, end + 1, 20)
    ]


def make_search(runs, recipe, arm, *, trials=20):
    """Write one finished search: published settings first, then chance, then TPE."""
    rng = np.random.default_rng([*arm.encode(), *recipe.name.encode()])
    folder = search_folder(runs, recipe.name, arm)
    start = METHOD_SETTINGS.get(ARMS[arm].starts_from)
    config = search_config(recipe, arm=arm, seed=0, start=start)
    claim_folder(folder, config)
    space = recipe.search.space[arm]
    objective, rows = recipe.search.objective, []
    for number in range(trials):
        state = {5: "pruned", 8: "pruned", 9: "diverged"}.get(number, "complete")
        settings = {
            name: float(np.exp(rng.uniform(np.log(low), np.log(high))))
            for name, (low, high) in space.items()
        }
        published = None
        if number < 2 and arm == "orpo":
            settings = {"learning_rate": [2e-4, 8e-4][number], "beta": 0.1}
            published = ["axolotl example (Mistral-7B QLoRA r 32)", "another source"][number]
        off = abs(math.log(settings["learning_rate"] / 3e-3)) / 2
        nll = 0.75 + 0.6 * off + float(rng.normal(0, 0.03))
        lor = 0.45 + 0.2 * off + float(rng.normal(0, 0.02))
        if arm == "orpo":
            lor -= 0.1 * min(1.5, settings["beta"])
            nll += 0.05 * settings["beta"]
        accuracy = min(0.98, 0.95 - 0.35 * lor - 0.1 * off)
        ranking = 0.7 * lor + float(rng.normal(0, 0.01))
        last = {
            "nll": nll,
            "ranking": ranking,
            "lor": lor,
            "accuracy": accuracy,
            "margin": 1.0,
            "log_odds": 1.2,
        }
        attributes = {
            "status": state,
            "published": published,
            "sampled": "published" if published else "random" if number < 10 else "tpe",
            "intermediate": _intermediate(rng, last, 40 if state == "pruned" else 160),
            "seconds": 3.0,
            "seed": 100_000,
        }
        trial = SimpleNamespace(
            number=number,
            params=settings,
            value=validation_value(objective, last),
            user_attrs=attributes,
        )
        rows.append(_trial_row(trial))
    write_jsonl(folder / TRIALS, rows)
    candidates = best_trials(rows, objective=objective, n=3)
    best, seeds = candidates[0], (200_001, 200_002)
    confirmations = [
        {"trial": best["number"], "settings": best["settings"], "seed": seed, "status": "ok"}
        | {name: best[name] for name in ("nll", "ranking", "lor", "accuracy", "margin")}
        | {"value": best["value"] + 0.02}
        for seed in seeds
    ]
    write_jsonl(folder / CONFIRMATIONS, confirmations)
    write_sealed(
        folder / BEST,
        {
            "recipe": recipe.name,
            "arm": arm,
            "digest": digest(config),
            "search_seed": 100_000,
            "confirmation_seeds": list(seeds),
            **choose(rows, candidates, confirmations, objective=objective),
            "rows": {
                TRIALS: [trials, digest(rows)],
                CONFIRMATIONS: [len(confirmations), digest(confirmations)],
            },
        },
    )


def make_plan(runs, recipe, *, seeds=(1, 2, 3)):
    """Write the plan of a comparison."""
    write_plan(runs, recipe, seeds=seeds, arms=SETTINGS)


def make_study(runs, *, recipes=RECIPES, seeds=(1, 2, 3), diverged=()):
    """Write a whole study, in which the runs named as (recipe, arm, seed) diverge."""
    for name in recipes:
        recipe = load_recipe(name)
        make_plan(runs, recipe, seeds=seeds)
        for arm in ("sft", "orpo"):
            make_search(runs, recipe, arm)
            for seed in seeds:
                make_run(runs, recipe, arm, seed, diverged=(name, arm, seed) in diverged)
        make_run(runs, recipe, "base", 0)
    return runs


def make_methods_study(runs, *, seeds=(1, 2)):
    """Write a finished study of two recipes with every arm there is, and its claims."""
    for number, name in enumerate(METHODS):
        recipe = load_recipe(name)
        own = [100 * number + seed for seed in seeds]
        write_plan(runs, recipe, seeds=own, arms=METHOD_SETTINGS)
        for arm in METHOD_SETTINGS:
            if arm in recipe.search.space:
                make_search(runs, recipe, arm)
            for seed in own if arm != "base" else (0,):
                make_run(runs, recipe, arm, seed)
        make_claims(runs, recipe, seeds=own)
    return runs


def make_whole_study(runs, *, diverged=()):
    """Write a finished study of two recipes with the runs of claims."""
    make_study(runs, diverged=diverged)
    for name in RECIPES:
        make_claims(runs, load_recipe(name))
    return runs


def make_claims(runs, recipe, *, seeds=(1, 2, 3)):
    """Register the claims of one recipe and write all runs that decide them."""
    register(runs, recipe, seeds=seeds)
    for setting in load_claims().scale_of(recipe)[1].settings:
        for seed in seeds:
            make_run(runs, recipe, "orpo", seed, setting=setting, tuned=False)
