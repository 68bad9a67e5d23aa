"""Real commands on a disk that fills up; with room again, nothing differs from a larger disk.

`nox -s faults` tries many sizes; among the other tests they are a few.
"""

import os
import shutil
import subprocess
import sys

import pytest
from promises.faults.test_kills import RECIPE, TRIALS, options, results

from study.records.files import read_json, read_jsonl
from study.records.layout import search_folder

SEARCH = ("search", "--trials", str(TRIALS))
COMPARE = ("compare", "--seeds", "1")
SIZES_KB = {
    SEARCH: os.environ.get("ORPO_STUDY_SEARCH_DISKS_KB", "600").split(),
    COMPARE: os.environ.get("ORPO_STUDY_COMPARE_DISKS_KB", "900").split(),
}
"""Sizes that end a command while it writes a checkpoint, a record or a journal."""

FILL_AND_GROW = """
mount -t tmpfs -o size="$SIZE_KB"k none "$DISK" && {
    "$@"; echo "status $?"
    mount -o remount,size=1g "$DISK"
    "$@"; echo "status $?"
    cp -r "$DISK"/. "$KEPT"
}
"""

NAMESPACE = ["unshare", "--map-root-user", "--mount"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A folder that takes a small disk, where this system lets us mount one."""
    folder = tmp_path_factory.mktemp("disk")
    mount = [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=100k", "none", str(folder)]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode:
        pytest.skip("this system lets nobody but root mount a small disk")
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, disk):
    """What each command leaves on a disk with room, made when first asked for."""
    known = {}

    def of(command):
        if command not in known:
            known[command] = tmp_path_factory.mktemp(command[0])
            subprocess.run(words(command, known[command]), check=True, env=environment())
        return known[command]

    return of


@pytest.mark.parametrize(
    ("command", "size_kb"),
    [(command, size) for command, sizes in SIZES_KB.items() for size in sizes],
    ids=lambda value: value[0] if isinstance(value, tuple) else f"{value}kB",
)
def test_a_disk_that_was_full_leaves_what_a_larger_one_does(
    undisturbed, disk, tmp_path, command, size_kb
):
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", FILL_AND_GROW, "sh", *words(command, disk)],
        env={**environment(), "SIZE_KB": size_kb, "DISK": str(disk), "KEPT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = done.stdout + done.stderr
    found = found_by(command, tmp_path)

    assert "Traceback" not in told, told
    assert [line for line in told.splitlines() if line.startswith("status")] == [
        "status 1",
        "status 0",
    ], told
    assert "No space left on device" in told
    assert found == found_by(command, undisturbed(command))


def words(command, runs):
    return (sys.executable, "-m", "study.cli.commands", *command, *options(runs))


def environment():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def found_by(command, runs):
    """Return all that a command computed, without times and numbers of trials."""
    if command == COMPARE:
        return results(runs)
    numbered = ("seconds", "number", "trial")
    bests = ("value", "trial_value", "optimism", "settings", "n_trials", "n_pruned", "n_diverged")
    found = {}
    for arm in ("sft", "orpo"):
        folder = search_folder(runs, RECIPE, arm)
        for name in ("trials.jsonl", "confirmations.jsonl"):
            rows = read_jsonl(folder / name)
            found[arm, name] = [{k: row[k] for k in row if k not in numbered} for row in rows]
        best = read_json(folder / "best.json")
        found[arm] = {name: best[name] for name in bests}
    return found
