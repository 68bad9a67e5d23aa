"""What this study itself costs as trials, runs and pairs become many; nothing is trained.

Seconds are of a processor where the machine may be busy with others, and by the
clock beside them. Every measurement has a process of its own.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from study.cli.bench.scale_pairs import STAGES, write_pairs
from study.cli.bench.scale_runs import DESIGNS, make_runs
from study.cli.bench.search import children_cpu_s
from study.cli.bench.worker import Say, ask

TRIALS, WORKERS = (40, 400, 2_000), (1, 4, 16)
N_PAIRS = 200_000
RECIPE, ARM = "tiny-llama", "orpo"


def measure_scale(*, quick: bool, say: Say) -> dict[str, Any]:
    """Measure searches, folders of records and a file of pairs, each at growing sizes."""
    trials, workers = ((20, 40), (1, 2)) if quick else (TRIALS, WORKERS)
    designs = DESIGNS[:1] if quick else DESIGNS
    return {
        "trials": [_search(n, among, say) for among in workers for n in trials],
        "runs": [_records(n_arms, n_seeds, say) for n_arms, n_seeds in designs],
        "pairs": _pairs(500 if quick else N_PAIRS, say),
    }


def _search(n_trials: int, n_workers: int, say: Say) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as runs, ThreadPoolExecutor(n_workers) as pool:
        order = {"runs": runs, "trials": n_trials}
        parts = list(pool.map(lambda _: ask(search_share, **order), range(n_workers)))
    wall_s = max(part["ended"] for part in parts) - min(part["began"] for part in parts)
    cpu_s = sum(part["cpu_s"] for part in parts)
    say(f"{n_trials} trials, {n_workers} workers: {1e3 * cpu_s / n_trials:.1f} ms of a core each")
    return {
        "n_trials": n_trials,
        "workers": n_workers,
        "cpu_s_per_trial": cpu_s / n_trials,
        "wall_s_per_trial": wall_s / n_trials,
    }


def search_share(*, runs: str, trials: int) -> dict[str, Any]:
    """Take a worker's part in a search whose trainings end at once."""
    from types import SimpleNamespace
    from unittest import mock

    from study.config.recipe import load_recipe
    from study.search.arm import search_arm

    workbench: Any = SimpleNamespace(
        recipe=load_recipe(RECIPE),
        device="cpu",
        data_summary={},
        base=SimpleNamespace(resolved={}, checked=None),
    )
    with mock.patch("study.run.train.train_run", _train):
        began, used = time.time(), time.process_time()
        search_arm(workbench, lambda *_: None, arm=ARM, runs=Path(runs), trials=trials, seed=0)
    return {"began": began, "ended": time.time(), "cpu_s": time.process_time() - used}


def _train(workbench: Any, *, settings: Any, on_validation: Any, **_: Any) -> Any:
    """Stand in for a training: four validations of what follows from the settings."""
    import math

    from study.run.watch import Outcome

    off = math.log(settings["learning_rate"] / 3e-3) ** 2 / 10 + 0.05 * settings["beta"]
    scores: dict[str, float] = {}
    last = workbench.recipe.training.max_steps
    for step in (last // 4, last // 2, 3 * last // 4, last):
        names = ("lor", "log_odds", "margin", "accuracy", "chosen_logps", "rejected_logps")
        scores = {**dict.fromkeys(names, off), "nll": 1 + off + 1 / step, "ranking": 0.4 + off}
        if on_validation(step, scores):
            return Outcome(status="stopped", validation=scores)
    return Outcome(validation=scores)


def _records(n_arms: int, n_seeds: int, say: Say) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        n_runs = make_runs(runs, n_arms=n_arms, n_seeds=n_seeds)
        commands = {
            "status": ("study.cli", "status", "--runs", str(runs)),
            "report": ("paper.build", "--runs", str(runs), "--out", f"{folder}/report"),
        }
        found: dict[str, Any] = {"n_runs": n_runs}
        for name, command in commands.items():
            found |= {f"{name}_{kind}": value for kind, value in _command(*command).items()}
    say(
        f"{n_runs} runs: status {found['status_cpu_s']:.2f} s, "
        f"report {found['report_cpu_s']:.1f} s of a core"
    )
    return found


def _command(*command: str) -> dict[str, float]:
    """Run a command; return its seconds by the clock and of processors, TeX included."""
    import subprocess

    began, used = time.perf_counter(), children_cpu_s()
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return {"wall_s": time.perf_counter() - began, "cpu_s": children_cpu_s() - used}


def _pairs(n_pairs: int, say: Say) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        write_pairs(file, n_pairs)
        found: dict[str, Any] = {"n_pairs": n_pairs, "file_bytes": file.stat().st_size}
        for stage in STAGES:
            measured = ask(stage, file=str(file))
            found[stage.__name__] = measured
            parts = ", ".join(f"{key} {value:.1f}" for key, value in measured["cpu_s"].items())
            share = measured["peak_bytes"] / found["file_bytes"]
            say(f"{n_pairs} pairs, {stage.__name__}: {parts} s; memory {share:.1f} of the file")
    return found
