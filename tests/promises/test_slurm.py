"""A real Slurm on this machine: tasks share a comparison, are put back in time, lose nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import run_slurm

from study.cli.status import status
from study.records.runs import compare_folders

pytestmark = pytest.mark.slow
RECIPE = "tiny-llama"
SMALL = (
    "data.train_pairs=64",
    "data.validation_pairs=12",
    "data.test_pairs=12",
    "training.batch_pairs=8",
    "training.warmup_steps=2",
    "training.log_every_steps=5",
    "training.checkpoint_every_steps=1000",
    "evaluation.generated_answers=4",
    "evaluation.max_new_tokens=4",
    "training.max_steps=40",
    "training.validate_every_steps=40",
)
SLOWLY = """
import time
from study.records import notice

known = notice.is_noticed

def is_noticed():
    time.sleep(0.2)
    return known()

notice.is_noticed = is_noticed
"""
"""Makes steps so long that a notice comes between two of them."""
TIMED = ("seconds", "peak_memory_bytes")
PATIENCE_S = 600


@pytest.fixture(scope="module")
def slurm():
    with run_slurm() as environment:
        yield environment


def study(*words, before=()):
    path = os.pathsep.join([*map(str, before), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "study.cli", *words],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def compare(runs):
    changes = [word for change in SMALL for word in ("--set", change)]
    where = ("--runs", str(runs), "--device", "cpu", "--workers", "1")
    return ("compare", "--recipe", RECIPE, "--arm", "sft", "--seeds", "2", *where, *changes)


def results(runs):
    """Return all that a comparison computed, without times and places."""
    found = {}
    for arm, seed, folder in compare_folders(runs, RECIPE):
        record = folder.record()
        assert record is not None
        steps = [{k: v for k, v in row.items() if k not in TIMED} for row in folder.steps()]
        sums = {name: s for name, s in record["files"].items() if name != "steps.jsonl"}
        found[arm, seed] = (record["scores"], record["status"], sums, steps)
    return found


def wait_until(is_true, *, show):
    until = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < until, show()
        time.sleep(0.3)


def test_tasks_that_are_put_back_in_time_make_the_comparison_of_one_machine(
    slurm, tmp_path, monkeypatch
):
    """No checkpoint is due during training: what goes on from one was saved in time."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm[name])
    runs = tmp_path / "a folder, 100% odd"
    slowly = tmp_path / "slowly"
    slowly.mkdir()
    (slowly / "sitecustomize.py").write_text(SLOWLY)
    words = ("submit", "--slurm", "--array", "2", "--time", "60", "--", *compare(runs))
    given = study(*words, before=[slowly])
    assert given.returncode == 0, given.stderr
    (folder,) = (runs / "slurm").iterdir()
    job = json.loads((folder / "job.json").read_text())["id"]
    logs = [folder / f"{task}.log" for task in (1, 2)]

    def shown():
        return "\n".join(log.read_text() for log in logs if log.exists()) + str(status(runs))

    def tasks():
        return [row["state"] for row in status(runs) if row["part"] == "slurm"]

    seen = tasks()
    training = runs / RECIPE / "compare" / "sft"
    wait_until(
        lambda: any(path.stat().st_size for path in training.glob("*/steps.jsonl")), show=shown
    )
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True, timeout=60)
    wait_until(
        lambda: all("start 2" in log.read_text() for log in logs if log.exists()), show=shown
    )
    saved = list(training.glob("*/trainer/checkpoint-*"))
    wait_until(lambda: not tasks(), show=shown)
    whole = study(*compare(tmp_path / "whole"))

    assert set(seen) <= {"queued", "running"}
    assert len(seen) == 2
    assert whole.returncode == 0, whole.stderr
    assert saved, shown()
    assert {int(path.name.rpartition("-")[2]) for path in saved} < set(range(1, 40))
    assert results(runs) == results(tmp_path / "whole")
    assert sorted(path.name for path in folder.glob("*.ended")) == ["1.ended", "2.ended"]
    assert all("stopped by SIGUSR1" in log.read_text() for log in logs)


def test_what_slurm_refuses_is_one_message(slurm, tmp_path, monkeypatch):
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm[name])
    words = ("submit", "--slurm", "--partition", "nowhere", "--", *compare(tmp_path))
    refused = study(*words)

    assert refused.returncode == 1
    assert "sbatch refused the job" in refused.stderr
    assert "invalid partition" in refused.stderr
    assert "sinfo" in refused.stderr
    assert [row for row in status(tmp_path) if row["part"] == "slurm"] == []


def test_a_task_that_is_cancelled_shows_as_interrupted(slurm, tmp_path, monkeypatch):
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm[name])
    words = ("submit", "--slurm", "--sbatch=--hold", "--", *compare(tmp_path))
    assert study(*words).returncode == 0
    (waiting,) = [row for row in status(tmp_path) if row["part"] == "slurm"]
    (folder,) = (tmp_path / "slurm").iterdir()
    job = json.loads((folder / "job.json").read_text())["id"]
    subprocess.run(["scancel", job], check=True, timeout=60)
    (after,) = [row for row in status(tmp_path) if row["part"] == "slurm"]

    assert (waiting["state"], after["state"]) == ("queued", "interrupted")
    assert "JobHeldUser" in waiting["detail"]
    assert "cancelled" in after["detail"]
    assert Path(after["detail"].rpartition("see ")[2]).parent == folder
