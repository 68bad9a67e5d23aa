"""Records of many runs that nobody trained, by the functions that write real ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from study.arms import ARMS, UNTRAINED
from study.config.canonical import digest
from study.config.recipe import Recipe, load_recipe
from study.records.files import write_jsonl
from study.records.layout import EXAMPLES, STEPS
from study.records.plan import write_plan
from study.records.runs import run_folder
from study.run.planned import PlannedRun, PlannedStart, record_of

RECIPES = ("tiny-llama-methods", "tiny-smollm2-methods")
DESIGNS = ((2, 2), (7, 7), (9, 55))
"""Arms and seeds: 10, 100 and about 1,000 runs, with an untuned base of each recipe."""
N_EXAMPLES = 192


def make_runs(runs: Path, *, n_arms: int, n_seeds: int) -> int:
    """Write finished runs of two recipes and return how many."""
    n_runs = 0
    for number, name in enumerate(RECIPES):
        recipe = load_recipe(name)
        seeds = [1_000 * number + seed for seed in range(1, n_seeds + 1)]
        arms = [arm for arm in recipe.arms if arm != UNTRAINED][:n_arms]
        write_plan(runs, recipe, seeds=seeds, arms={arm: recipe.arms[arm] for arm in arms})
        for arm in (UNTRAINED, *arms):
            for seed in seeds if arm != UNTRAINED else (0,):
                _make_run(runs, recipe, arm, seed)
                n_runs += 1
    return n_runs


def _make_run(runs: Path, recipe: Recipe, arm: str, seed: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from study.run.scores import preference_scores

    rng, start = np.random.default_rng([seed, *arm.encode()]), ARMS[arm].starts_from
    run = PlannedRun(
        recipe=recipe,
        arm=arm,
        settings=recipe.arms.get(arm, {}),
        seed=seed,
        tuned=False,
        folder=run_folder(runs, recipe.name, arm, seed),
        start=None
        if start is None
        else PlannedStart(arm=start, settings=recipe.arms[start], tuned=False, runs=runs),
    )
    run.folder.claim(run.config)
    columns = _examples(rng, arm)
    pq.write_table(pa.table(columns), run.folder.path / EXAMPLES)
    scores = preference_scores(columns)
    write_jsonl(run.folder.path / STEPS, _steps(recipe, scores))
    record = record_of(_workbench(), run, _outcome(), scores, _cost(recipe, arm))
    run.folder.finish(record)


def _examples(rng: np.random.Generator, arm: str) -> dict[str, list[Any]]:
    pairs = np.random.default_rng(1)  # the pairs are the same in every run
    tokens = {side: pairs.integers(6, 24, N_EXAMPLES) for side in ("chosen", "rejected")}
    hard, shift = pairs.normal(0, 0.25, N_EXAMPLES), len(arm) / 20 + rng.normal(0, 0.03)
    means = {"chosen": -1.5 + hard, "rejected": -2.0 - shift - hard}
    columns: dict[str, list[Any]] = {
        "example_id": [f"{i:016x}" for i in range(N_EXAMPLES)],
        "cluster_id": [f"{i // 2:016x}" for i in range(N_EXAMPLES)],
        "source": ["toy"] * N_EXAMPLES,
    }
    for side, n_tokens in tokens.items():
        mean = np.minimum(means[side] + rng.normal(0, 0.2, N_EXAMPLES), -0.01)
        columns[f"{side}_logp_sum"] = (mean * n_tokens).tolist()
        columns[f"{side}_tokens"] = n_tokens.tolist()
    return columns


def _steps(recipe: Recipe, scores: dict[str, float]) -> list[dict[str, Any]]:
    steps = range(0, recipe.training.max_steps + 1, recipe.training.validate_every_steps)
    return [{"split": "validation", "step": step, **scores} for step in steps]


def _workbench() -> Any:
    split = {"pairs": N_EXAMPLES, "fingerprint": digest("split")}
    return SimpleNamespace(
        data_summary={"train": split, "validation": split, "test": split, "source": "toy"},
        base=SimpleNamespace(resolved={}, checked=None),
        device="cpu",
    )


def _outcome() -> Any:
    return SimpleNamespace(
        status="ok",
        divergence=None,
        parameters={"total": 900_000, "trainable": 100_000},
        budget=None,
        start=None,
        out_of_memory=[],
    )


def _cost(recipe: Recipe, arm: str) -> dict[str, Any]:
    trained = arm != UNTRAINED
    return {
        "train_s": 20.0 * trained,
        "evaluate_s": 3.0,
        "steps": recipe.training.max_steps * trained,
        "train_tokens": 100_000 * trained,
        "peak_memory_bytes": 200_000_000,
    }
