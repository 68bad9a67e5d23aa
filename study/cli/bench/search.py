"""A whole search here, and a loop that starts a process with TRL for each setting.

Both train ORPO on the embedded study: the same base, pairs, number of updates
and batch size, LoRA on the same layers, float32, one thread, one process at a
time. TRL runs as it comes, with checkpointing of activations; two settings are
trained without it too, its faster way. Ours also scores the validation pairs
during each trial, and so can prune; TRL evaluates at the end alone. The tiny
base is trained beforehand and belongs to neither.
"""

import functools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from study.cli.bench.trl_loop import train_with_trl
from study.cli.bench.worker import Say, ask
from study.config.recipe import Recipe, load_recipe

RECIPE, ARM, TRIALS, LOOPED, LOOPED_FAST = "tiny-llama", "orpo", 40, 8, 2


def measure_search(*, quick: bool, say: Say, seed: int = 0) -> dict[str, Any]:
    """Measure our search with and without pruning, and trials of the loop.

    Without pruning, and in the loop, eight settings are trained, the same ones,
    and the cost of forty is worked out from them; with pruning all forty are run.
    """
    from study.model.toy import ensure_base

    recipe = _recipe(quick)
    base = ensure_base(recipe.model.name.partition(":")[2])
    trials, looped = (6, 2) if quick else (TRIALS, LOOPED)
    order = {"quick": quick, "seed": seed}
    whole = _timed_ask(search_here, trials=looped, pruning="none", **order)
    say(_our_line("without pruning", whole))
    pruned = _timed_ask(search_here, trials=trials, pruning="halving", **order)
    say(_our_line("with pruning", pruned))
    loop: list[dict[str, Any]] = []
    fast: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = _write_pairs(recipe, Path(folder) / "pairs.json")
        for row in whole["trials"]:
            task = _trl_task(recipe, row["settings"], seed)
            ways = [(loop, True), (fast, False)][: 1 + (len(fast) < LOOPED_FAST)]
            for done, checkpointing in ways:
                task["checkpointing"] = checkpointing
                done.append(_timed_ask(train_with_trl, base=str(base), pairs=str(pairs), **task))
                how = "as it comes" if checkpointing else "without checkpointing"
                say(f"loop with TRL {how}, trial {len(done)}: {_parts(done[-1])}")
    return {
        "recipe": RECIPE,
        "arm": ARM,
        "steps": recipe.training.max_steps,
        "batch_pairs": recipe.training.batch_pairs,
        "threads": 1,
        "ours": whole,
        "ours_pruned": pruned,
        "loop": loop,
        "loop_fast": fast,
        **_summary(whole, pruned, loop, fast, say),
    }


def search_here(*, trials: int, pruning: str, quick: bool, seed: int) -> dict[str, Any]:
    """Run trials as `study search` does in a worker, and time what they consist of.

    Returns:
        Seconds until the workbench stood, and seconds of all trials;
        ``inside_s``, those within the training loop, validation included, and
        ``validation_s``; each trial's settings, state and seconds.
    """
    started = time.perf_counter()
    from study.model.workbench import open_workbench
    from study.records.files import read_jsonl
    from study.records.layout import TRIALS, search_folder
    from study.run import watch
    from study.run.scores import initial_validation
    from study.run.trainer import ArmTrainer
    from study.search import arm as search

    recipe = _recipe(quick, f"search.pruning={pruning}")
    workbench = open_workbench(recipe, device="cpu")
    opened = time.perf_counter()
    initial_validation(workbench)
    scored = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        _timing(ArmTrainer, "train") as inside,
        _timing(watch, "score_validation") as validation,
        mock.patch.object(search, "confirm"),
    ):
        runs = Path(folder)
        search.search_arm(workbench, lambda *_: None, arm=ARM, runs=runs, trials=trials, seed=seed)
        ended = time.perf_counter()
        rows = list(read_jsonl(search_folder(runs, recipe.name, ARM) / TRIALS))
    return {
        "open_s": opened - started,
        "base_scores_s": scored - opened,
        "trials_s": ended - scored,
        "inside_s": sum(inside),
        "validation_s": sum(validation),
        "n_pruned": sum(row["state"] == "pruned" for row in rows),
        "trials": [{name: row[name] for name in ("settings", "state", "seconds")} for row in rows],
    }


def _summary(
    whole: dict[str, Any],
    pruned: dict[str, Any],
    loop: list[dict[str, Any]],
    fast: list[dict[str, Any]],
    say: Say,
) -> dict[str, Any]:
    """Return overhead and costs of forty trials in seconds of one core.

    Ours without pruning counts the start of the process once for each eight
    trials, which is to its disadvantage.
    """
    ours_s, pruned_s = (found["cpu_s"] / len(found["trials"]) * TRIALS for found in (whole, pruned))
    loop_s, fast_s = (
        statistics.fmean(one["cpu_s"] for one in way) * TRIALS for way in (loop, fast)
    )
    found = {
        "overhead_share": 1 - whole["inside_s"] / whole["trials_s"],
        "n_trials": TRIALS,
        "loop_s_worked_out": loop_s,
        "loop_fast_s_worked_out": fast_s,
        "ours_s_worked_out": ours_s,
        "ours_pruned_s": pruned_s,
        "ratio": loop_s / ours_s,
        "ratio_pruned": loop_s / pruned_s,
    }
    say(f"overhead of a trial {found['overhead_share']:.1%}; {TRIALS} trials: loop {loop_s:.0f} s")
    say(f"ours {ours_s:.0f} s, {found['ratio']:.2f}×")
    say(f"ours with pruning {pruned_s:.0f} s, {found['ratio_pruned']:.2f}×")
    say(f"loop without checkpointing {fast_s:.0f} s, {fast_s / pruned_s:.2f}× ours with pruning")
    return found


def _recipe(quick: bool, *more: str) -> Recipe:
    short = ("training.max_steps=20", "training.warmup_steps=2", "training.validate_every_steps=5")
    return load_recipe(RECIPE).override([*(short if quick else ()), *more])


def _timed_ask(function: Any, **order: Any) -> dict[str, Any]:
    started, used = time.perf_counter(), children_cpu_s()
    answer = ask(function, **order)
    cpu_s = children_cpu_s() - used
    return {"wall_s": time.perf_counter() - started, "cpu_s": cpu_s, **answer}


def children_cpu_s() -> float:
    """Return the seconds that ended child processes computed: a busy machine adds few."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _trl_task(recipe: Recipe, settings: dict[str, float], seed: int) -> dict[str, Any]:
    training, adapter, data = recipe.training, recipe.adapter, recipe.data
    return {
        "settings": settings,
        "seed": seed,
        "steps": training.max_steps,
        "batch_pairs": training.batch_pairs,
        "warmup_steps": training.warmup_steps,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "target_modules": list(adapter.target_modules),
        "max_length": data.max_length_tokens,
    }


def _write_pairs(recipe: Recipe, path: Path) -> Path:
    """Write the training and validation pairs as messages, as a user would have them."""
    from study.data.load import load_pairs
    from study.data.splits import split_pairs

    splits = split_pairs(load_pairs(recipe.data).pairs, recipe.data)
    rows = {
        name: [
            {
                side: [{"role": m.role, "content": m.content} for m in getattr(pair, side)]
                for side in ("prompt", "chosen", "rejected")
            }
            for pair in getattr(splits, name)
        ]
        for name in ("train", "validation")
    }
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@contextmanager
def _timing(owner: Any, name: str) -> Iterator[list[float]]:
    """Collect the seconds of every call of a function while the block runs."""
    original, seconds = getattr(owner, name), []

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - started)

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        setattr(owner, name, original)


def _our_line(how: str, found: dict[str, Any]) -> str:
    n = len(found["trials"])
    return (
        f"ours {how}: {n} trials in {found['cpu_s']:.1f} s of a core, {found['wall_s']:.1f} s by "
        f"the clock ({found['n_pruned']} pruned)"
    )


def _parts(one: dict[str, Any]) -> str:
    names = ("import", "load", "tokenise", "train", "evaluate")
    return f"{one['wall_s']:.1f} s: " + ", ".join(
        f"{name} {one[f'{name}_s']:.1f}" for name in names
    )
