"""Jobs on a real Ray cluster of several nodes on this machine, some of which are killed."""

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
from click.testing import CliRunner

from study.cli import main
from study.cli.options import job_place
from study.cli.status import status
from study.compare import compare
from study.config.recipe import load_recipe
from study.errors import ConfigError, ModelError
from study.model.jobs import Job
from study.records.files import read_json, read_jsonl
from study.records.layout import search_folder
from study.search.search import search

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

    def logs(self):
        """Return the folder of what Ray logs."""
        return Path(self.cluster.head_node.get_logs_dir_path())

    def busy(self):
        """Return the nodes where workers of this process's driver live: a killed one's may, too."""
        if not ray.is_initialized():
            return []
        ours = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        actors = ray._private.state.actors(job_id=ours, actor_state_name="ALIVE").values()
        at = {one["Address"]["NodeID"] for one in actors}
        return [node for node in self.alive if node.node_id in at]

    def kill_one(self):
        """Kill one of the nodes that train, at random, with all that runs on it."""
        node = random.choice(wait_until(self.busy, "no node trains"))
        self.alive.remove(node)
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
def overrides(small_overrides):
    """The smallest recipe, with a checkpoint and a score after every step."""
    every = ("validate_every_steps=1", "checkpoint_every_steps=1", "log_every_steps=1")
    return [
        *small_overrides,
        *(f"training.{one}" for one in every),
        *("search.confirm_top=1", "search.confirm_seeds=1", "search.pruning=halving"),
        "search.space.orpo.learning_rate=[1e-5, 1e-1]",
    ]


@pytest.fixture(scope="module")
def recipe(overrides):
    return load_recipe("tiny-llama").override(overrides)


def place(recipe, address, workers=None):
    return job_place([recipe], "cpu", workers, quiet=True, on=f"ray:{address}")


def here(recipe):
    """Return what runs jobs in this process."""
    from study.model.workbench import open_workbench

    workbench = open_workbench(recipe, device="cpu")
    return lambda jobs: [job.work(workbench, lambda *_: None) for job in jobs]


def wait_until(ask, else_say):
    """Return the first true answer."""
    until = time.monotonic() + 600
    while not (answer := ask()):
        assert time.monotonic() < until, else_say
        time.sleep(0.02)
    return answer


def wait_for(folder, pattern):
    wait_until(lambda: any(folder.glob(pattern)), f"{folder} never held {pattern}")


def kill_when(nodes, folder, pattern, before=lambda: None):
    """Kill a node as soon as a file is there; return the thread that does."""

    def wait():
        wait_for(folder, pattern)
        before()
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
    options = {"seeds": 1, "seed": 0, "say": [].append, "arms": ["sft", "orpo"]}
    on_ray = place(recipe, nodes.fill())
    states = set()
    killer = kill_when(
        nodes,
        tmp_path / "ray",
        "**/whole.json",
        lambda: states.update(row["state"] for row in status(tmp_path / "ray")),
    )
    records = compare([recipe], runs=tmp_path / "ray", run_jobs=on_ray.run_jobs, **options)
    killer.join()
    compare([recipe], runs=tmp_path / "here", run_jobs=here(recipe), **options)

    assert on_ray.sharing == 2
    assert "running" in states
    assert sorted(record["arm"] for record in records) == ["base", "orpo", "sft"]
    assert any(name.endswith("adapter_model.safetensors") for name in made(tmp_path / "ray"))
    assert made(tmp_path / "ray") == made(tmp_path / "here")


def test_a_search_whose_driver_and_node_were_killed_finds_what_one_here_does(
    nodes, recipe, overrides, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    asked = [
        *("search", "--recipe", "tiny-llama", "--arm", "orpo", "--trials", "7", "--workers", "1"),
        *("--device", "cpu", "--runs", str(tmp_path / "ray"), "--on", f"ray:{nodes.fill()}"),
        *(word for one in overrides for word in ("--set", one)),
    ]
    first = subprocess.Popen(
        [sys.executable, "-m", "study.cli", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_for(tmp_path / "ray", "**/.trial-*/trainer/*/whole.json")
    first.kill()
    said, _ = first.communicate()
    killer = kill_when(nodes, tmp_path / "ray", "**/trials.jsonl")
    second = CliRunner().invoke(main, asked)
    killer.join()
    options = {"trials": 7, "seed": 0, "say": [].append, "arms": ["orpo"]}
    (same,) = search([recipe], runs=tmp_path / "here", run_jobs=here(recipe), **options)
    found = {name: search_folder(tmp_path / name, recipe.name, "orpo") for name in ("ray", "here")}
    rows = {name: list(read_jsonl(folder / "trials.jsonl")) for name, folder in found.items()}
    best = read_json(found["ray"] / "best.json")

    assert second.exit_code == 0, second.output
    assert "tiny-llama/orpo: begins" in said
    assert "a fresh worker tries once more" in second.stderr
    assert not [word for word in WORDS_OF_RAY if word in said + second.output]
    assert [tried(row) for row in rows["ray"]] == [tried(row) for row in rows["here"]]
    assert len(rows["ray"]) == best["n_trials"] == 7
    assert "pruned" in {row["state"] for row in rows["ray"]}
    assert (best["settings"], best["value"]) == (same["settings"], same["value"])
    assert not list(found["ray"].glob(".trial-*"))
    logs = [path.read_text(errors="replace") for path in nodes.logs().rglob("*") if path.is_file()]
    assert logs
    assert not [words for words in (SECRET, "--trials") for log in logs if words in log]


def tried(row):
    """Return what a trial was, but for its number: one that is tried again has another."""
    return {name: value for name, value in timeless(row).items() if name != "number"}


def test_sigterm_ends_as_ctrl_c_does_and_frees_the_nodes(nodes, recipe, capfd):
    on_ray = place(recipe, nodes.fill())
    job = Job(name="job", recipe=recipe, kind="time:sleep", given={})
    timer = threading.Timer(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        on_ray.run_jobs([job])
    began = time.monotonic()
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < began + 60:
        time.sleep(0.1)

    assert ray.available_resources()["CPU"] == 2
    assert capfd.readouterr().err == ""


def test_errors_of_a_node_arrive_as_themselves(nodes, recipe, tmp_path):
    broken = recipe.override([f"model.name={tmp_path}"])
    on_ray = place(broken, nodes.fill())
    with pytest.raises(ModelError, match=str(tmp_path)):
        on_ray.run_jobs([Job(name="job", recipe=broken, kind="time:sleep", given={})])


def test_a_place_that_is_not_there_is_one_message(nodes, recipe, monkeypatch):
    with pytest.raises(ConfigError, match=r"needs 3 CPUs and 0 GPUs; set training\.threads"):
        place(recipe.override(["training.threads=3"]), nodes.fill())
    with pytest.raises(ConfigError, match=r"--device cuda:1 is one of this machine"):
        job_place([recipe], "cuda:1", None, quiet=True, on="ray")
    with pytest.raises(ConfigError, match=r"of Ray's client, which is not supported"):
        place(recipe, "ray://10.0.0.1:10001")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"cannot join .* 127\.0\.0\.1:9 .*refused.*ray start"):
        place(recipe, "127.0.0.1:9")
