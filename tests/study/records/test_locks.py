"""Folders on file systems without locks: refused before work, readable without."""

import fcntl
import os

import pytest

from study.cli.status import status
from study.compare import compare
from study.config.recipe import load_recipe
from study.errors import RecordError
from study.records.folders import begin_afresh
from study.records.layout import search_folder
from study.records.locks import hold, is_held, lease
from study.search.search import search

RECIPE = load_recipe("tiny-llama")


def never(jobs):
    pytest.fail("a job was begun")


def enter(context):
    with context:
        pytest.fail("the block was entered")


USES = {
    "hold": lambda runs: enter(hold(runs / ".lock")),
    "wait": lambda runs: enter(hold(runs / ".lock", wait=True)),
    "lease": lambda runs: enter(lease(runs, "worker", {})),
    "fresh": lambda runs: begin_afresh(search_folder(runs, "tiny-llama", "sft")),
    "search": lambda runs: search([RECIPE], runs=runs, trials=1, seed=0, run_jobs=never),
    "compare": lambda runs: compare([RECIPE], runs=runs, seeds=1, seed=0, run_jobs=never),
}


@pytest.fixture(params=[37, 38, 95])
def lockless(monkeypatch, request):
    def refuse(file, how):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("use", USES)
def test_a_folder_without_locks_is_refused_before_anything_is_made(lockless, tmp_path, use):
    search_folder(tmp_path, "tiny-llama", "sft").mkdir(parents=True)
    with pytest.raises(RecordError, match=f"{tmp_path}.* has no file locks .*a local disk"):
        USES[use](tmp_path)

    assert not [path for path in tmp_path.rglob("[!.]*") if path.is_file()]


def test_records_without_locks_can_be_read(lockless, tmp_path):
    (tmp_path / "tiny-llama" / "search" / "sft").mkdir(parents=True)
    (tmp_path / "tiny-llama" / "search" / "sft" / ".worker-dead").write_text("{}")
    (tmp_path / "lock").touch()

    assert not is_held(tmp_path / "lock")
    assert {row["state"] for row in status(tmp_path)} == {"missing"}
