"""Real commands on the embedded study, killed over and over: nothing may be lost.

`nox -s faults` kills at least fifty times; among the other tests it is a few.
Half of the kills come between two writes that were chosen beforehand (see
``killer/sitecustomize.py``), half at any moment. They hit a worker, or what
workers are forked from, the parent of the workers, or all at once.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.cli.status import status
from study.records.files import checksum, read_json, read_jsonl
from study.records.layout import search_folder
from study.records.runs import compare_folders

KILLS = int(os.environ.get("ORPO_STUDY_KILLS", "3"))
"""Kills in all; half of them hit searches."""
TRIALS = 4
RECIPE = "tiny-llama"
ARMS = ("sft", "orpo")
SMALL = (
    "data.train_pairs=64",
    "data.validation_pairs=12",
    "data.test_pairs=12",
    "training.max_steps=8",
    "training.batch_pairs=8",
    "training.warmup_steps=2",
    "training.log_every_steps=2",
    "training.validate_every_steps=2",
    "training.checkpoint_every_steps=2",
    "evaluation.generated_answers=4",
    "evaluation.max_new_tokens=4",
    "search.pruning=none",
    "search.confirm_top=1",
    "search.confirm_seeds=1",
)
WRITES = 100
"""Kills at a write come within so many; a start that nothing disturbs makes more."""
PATIENCE_S = 300
ORPHANS_END_S = 20

pytestmark = pytest.mark.slow


def test_a_search_survives_its_kills(tmp_path, capsys):
    killer, round_, seen = Killer(random.Random(1), tmp_path, (KILLS + 1) // 2), 0, {}
    while killer.n_kills < killer.wanted:
        round_ += 1
        runs = tmp_path / f"round-{round_}"
        command = ("search", "--trials", str(TRIALS), *options(runs))
        killer.until_done(command, runs, lambda runs=runs: check_search(runs, seen))
        check_whole_search(runs)

    say(capsys, f"search: {killer}, in {round_} rounds")


def test_a_killed_comparison_equals_an_undisturbed_one(tmp_path, capsys):
    killer, round_ = Killer(random.Random(2), tmp_path, KILLS // 2), 0
    assert start(("compare", "--seeds", "1", *options(tmp_path / "whole"))).wait(PATIENCE_S) == 0
    whole = results(tmp_path / "whole")
    while killer.n_kills < killer.wanted:
        round_ += 1
        runs, seen = tmp_path / f"round-{round_}", {}
        command = ("compare", "--seeds", "1", *options(runs))
        killer.until_done(command, runs, lambda runs=runs, seen=seen: check_runs(runs, seen))

        assert results(runs) == whole
    say(capsys, f"compare: {killer}, in {round_} rounds")


def say(capsys, line):
    with capsys.disabled():
        print(f"\n{line}")  # noqa: T201 - the counts are a result


class Killer:
    """Starts a command again and again, and kills at random."""

    def __init__(self, luck, folder, wanted):
        self.luck, self.folder, self.wanted = luck, folder, wanted
        self.n_kills = self.n_starts = 0
        self.hits = dict.fromkeys(("all", "worker", "parent"), 0)

    def __str__(self):
        return f"{self.n_kills} kills ({self.hits}), {self.n_starts} starts"

    def until_done(self, words, runs, check):
        sessions, n_idle = [], 0
        while n_idle < 3:
            self.n_starts += 1
            whom, at_write = list(self.hits)[self.n_kills % 3], self.luck.random() < 0.5
            if self.n_kills == self.wanted:
                started, hit = start(words), False
                started.wait(PATIENCE_S)
            elif at_write:
                started, hit = self._kill_at_write(words, runs, whom)
            else:
                started, hit = self._kill_any_time(words, runs, whom)
            sessions.append(started.pid)
            self.n_kills += hit
            self.hits[whom] += hit
            if self.luck.random() < 0.5:
                wait_for_orphans(sessions)
            check()
            n_idle = 0 if hit else n_idle + 1
            if not hit:
                assert started.returncode == 0
                wait_for_orphans(sessions)
                if is_done(runs):
                    assert not list(runs.rglob(".worker-*")) + list(runs.rglob(".command-*"))
                    return
        pytest.fail(f"three starts that nothing disturbed did not finish: {status(runs)}")

    def _kill_at_write(self, words, runs, whom):
        mark = self.folder / f"mark-{self.n_starts}"
        environment = {
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent / "killer"), os.environ.get("PYTHONPATH", "")]
            ),
            "KILL_FOLDER": str(runs),
            "KILL_AT": str(self.luck.randint(1, WRITES)),
            "KILL_WHOM": whom,
            "KILL_MARK": str(mark),
        }
        started = start(words, environment)
        started.wait(PATIENCE_S)
        return started, mark.exists()

    def _kill_any_time(self, words, runs, whom):
        began = time.time()
        started = start(words)
        while started.poll() is None and newest(runs) < began:
            time.sleep(0.05)
        until = time.time() + self.luck.uniform(0, 4)
        while started.poll() is None and time.time() < until:
            time.sleep(0.05)
        workers = [pid for pid in members(started.pid) if "forkserver" in words_of(pid)]
        if started.poll() is not None or not workers:
            started.wait(PATIENCE_S)
            return started, False
        if whom == "all":
            os.killpg(started.pid, signal.SIGKILL)
        else:
            pid = self.luck.choice(workers) if whom == "worker" else started.pid
            os.kill(pid, signal.SIGKILL)
        started.wait(PATIENCE_S)
        return started, True


def start(words, environment=()):
    """Start a command in a session of its own; what goes wrong is shown by pytest."""
    return subprocess.Popen(
        [sys.executable, "-m", "study.cli.commands", *words],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **dict(environment)},
    )


def options(runs):
    changes = [word for change in SMALL for word in ("--set", change)]
    arms = [word for arm in ARMS for word in ("--arm", arm)]
    return ("--recipe", RECIPE, "--runs", str(runs), "--device", "cpu", "--quiet", *arms, *changes)


def is_done(runs):
    rows = [row for row in status(runs, [RECIPE]) if row["arm"] in ("base", *ARMS)]
    parts = {row["part"] for row in rows if row["state"] != "missing"}
    return {row["state"] for row in rows if row["part"] in parts} == {"finished"}


def check_search(runs, seen):
    """Every trial that was ever finished is still there, and nothing is half a file."""
    for arm in ARMS:
        folder = search_folder(runs, RECIPE, arm)
        read_json(folder / "config.json")
        read_json(folder / "best.json")
        found = {("told", row["number"]): row for row in trials_told(folder)}
        found |= {("file", row["number"]): row for row in read_jsonl(folder / "trials.jsonl")}
        found |= {
            ("repeated", json.dumps([row["settings"], row["seed"]])): row
            for row in read_jsonl(folder / "confirmations.jsonl")
        }
        kept = seen.setdefault(folder, {})

        assert kept.items() <= {key: json.dumps(row) for key, row in found.items()}.items()
        kept.update({key: json.dumps(row) for key, row in found.items()})
    assert json.dumps(status(runs))


def check_whole_search(runs):
    """The total is exact, nothing counts twice, and equal settings gave equal trials."""
    for arm in ARMS:
        folder = search_folder(runs, RECIPE, arm)
        rows = list(read_jsonl(folder / "trials.jsonl"))
        settings = [json.dumps(row["settings"]) for row in rows]
        names = {path.name for path in folder.iterdir()}

        assert [row["number"] for row in trials_told(folder)] == [row["number"] for row in rows]
        assert len(rows) == len(set(settings)) == TRIALS
        assert read_json(folder / "best.json")["n_trials"] == TRIALS
        assert all([v["step"] for v in row["intermediate"]] == [0, 2, 4, 6, 8] for row in rows)
        assert not [name for name in names if name.startswith(".trial-")]


def trials_told(folder):
    """Return what Optuna's journal holds of finished trials, as rows."""
    from study.config.recipe import load_recipe
    from study.search.storage import open_optuna_study
    from study.search.trials import trial_rows

    if not (folder / "journal.log").exists() or not (folder / "config.json").exists():
        return []
    digest = read_json(folder / "config.json")["digest"]
    recipe = load_recipe(RECIPE).override(SMALL)
    return trial_rows(open_optuna_study(folder, recipe, folder.name, digest, None))


def check_runs(runs, seen):
    """Every run that was ever finished is still there, and its files are its own."""
    for _, _, folder in compare_folders(runs, RECIPE):
        record = folder.record()
        if record is not None:
            kept = seen.setdefault(folder.path, json.dumps(record))

            assert json.dumps(record) == kept
            assert all(checksum(folder.path / name) == s for name, s in record["files"].items())
    assert json.dumps(status(runs))


def results(runs):
    """Return all that a comparison computed, without times and places."""
    found = {}
    for arm, seed, folder in compare_folders(runs, RECIPE):
        record = folder.record()
        timed = ("seconds", "peak_memory_bytes")
        steps = [{k: v for k, v in row.items() if k not in timed} for row in folder.steps()]
        sums = {name: s for name, s in record["files"].items() if name != "steps.jsonl"}
        found[arm, seed] = (record["scores"], record["status"], sums, steps)
    return found


def wait_for_orphans(sessions):
    """Workers without a parent end by themselves."""
    until = time.monotonic() + ORPHANS_END_S
    while any(members(session) for session in sessions):
        assert time.monotonic() < until, "a worker outlives its killed parent"
        time.sleep(0.1)


def members(session):
    """List the living processes of a session."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if is_member(path, session)]


def is_member(path, session):
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == session and fields[0] != "Z"


def words_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def newest(folder):
    times = []
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0)
