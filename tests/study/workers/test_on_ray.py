"""Jobs on a real Ray cluster of several nodes on this machine, some of which are killed."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from study.cli.options import job_place
from study.compare import compare
from study.errors import ConfigError
from study.records.files import read_jsonl
from study.records.layout import search_folder

ray = pytest.importorskip("ray", reason="Ray (extra cluster) is not installed")

pytestmark = pytest.mark.slow

WORDS_OF_RAY = ("raylet", "(pid=", "gcs", "INFO worker", "WARNING")
SECRET = "hunter2-not-for-logs"
TIMELESS = ("seconds", "train_s", "evaluate_s", "reference_s", "peak_memory_bytes", "finished_at")


class Nodes:
    """A cluster whose head trains nothing, and nodes with a place for one worker each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.alive = []

    def fill(self, n=2):
        """Start nodes until there are so many."""
        while len(self.alive) < n:
            self.alive.append(self.cluster.add_node(num_cpus=1, wait=False))
        self.cluster.wait_for_nodes()
        return self.cluster.address

    def kill_one(self):
        """Kill a node at random, with all that runs on it."""
        node = self.alive.pop(random.randrange(len(self.alive)))
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # others may fill this machine
        found = Nodes()
        yield found
        ray.shutdown()
        found.cluster.shutdown()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def recipe(small_recipe):
    """Two arms, with a checkpoint and a score after every step."""
    every = ("validate_every_steps=1", "checkpoint_every_steps=1", "log_every_steps=1")
    small = small_recipe.override(
        [
            *(f"training.{one}" for one in every),
            *("search.confirm_top=1", "search.confirm_seeds=1", "search.pruning=halving"),
            "search.space.orpo.learning_rate=[1e-5, 1e-1]",
        ]
    )
    return dataclasses.replace(small, name="small")


def place(recipe, address, workers=None):
    return job_place([recipe], "cpu", workers, quiet=True, on=f"ray:{address}")


def here(recipe):
    """Return what runs jobs in this process."""
    from study.model.workbench import open_workbench

    workbench = open_workbench(recipe, device="cpu")
    return lambda jobs: [job.work(workbench, lambda *_: None) for job in jobs]


def kill_when(nodes, folder, pattern):
    """Kill a node as soon as a file is there; return the thread that does."""

    def wait():
        until = time.monotonic() + 500
        while time.monotonic() < until and not any(folder.glob(pattern)):
            time.sleep(0.02)
        nodes.kill_one()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def timeless(value):
    if isinstance(value, dict):
        return {
            name: timeless(one)
            for name, one in value.items()
            if name not in (*TIMELESS, "checksum", "files")
        }
    return [timeless(one) for one in value] if isinstance(value, list) else value


def made(runs):
    """Return all that runs left behind, times aside."""
    found = {}
    for path in sorted(runs.rglob("compare/*/seed-*/**/*")):
        name = path.relative_to(runs).as_posix()
        if path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = timeless(list(read_jsonl(path)))
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def test_a_comparison_that_lost_a_node_equals_one_made_here(nodes, recipe, tmp_path):
    options = {"seeds": 1, "seed": 0, "say": [].append}
    on_ray = place(recipe, nodes.fill())
    killer = kill_when(nodes, tmp_path / "ray", "**/whole.json")
    records = compare([recipe], runs=tmp_path / "ray", run_jobs=on_ray.run_jobs, **options)
    killer.join()
    compare([recipe], runs=tmp_path / "here", run_jobs=here(recipe), **options)

    assert on_ray.sharing == 2
    assert sorted(record["arm"] for record in records) == ["base", "orpo", "sft"]
    assert any(name.endswith("adapter_model.safetensors") for name in made(tmp_path / "ray"))
    assert made(tmp_path / "ray") == made(tmp_path / "here")


def test_a_search_that_lost_a_node_tries_and_prunes_what_one_here_does(nodes, recipe, tmp_path):
    from study.search.search import search

    options = {"trials": 7, "seed": 0, "say": [].append, "arms": ["orpo"]}
    on_ray = place(recipe, nodes.fill(), workers=1)
    killer = kill_when(nodes, tmp_path / "ray", "**/trials.jsonl")
    killer_too = kill_when(nodes, tmp_path / "ray", "**/.trial-*/trainer/*/whole.json")
    (best,) = search([recipe], runs=tmp_path / "ray", run_jobs=on_ray.run_jobs, **options)
    killer.join()
    killer_too.join()
    (same,) = search([recipe], runs=tmp_path / "here", run_jobs=here(recipe), **options)
    rows = [
        timeless(list(read_jsonl(search_folder(tmp_path / runs, "small", "orpo") / "trials.jsonl")))
        for runs in ("ray", "here")
    ]
    for row in (*rows[0], *rows[1]):
        del row["number"]  # a trial that is tried again has another

    assert rows[0] == rows[1]
    assert len(rows[0]) == best["n_trials"] == 7
    assert "pruned" in {row["state"] for row in rows[0]}
    assert best["settings"] == same["settings"]
    assert best["value"] == same["value"]
    assert not list(search_folder(tmp_path / "ray", "small", "orpo").glob(".trial-*"))
