"""The far end of a workbench, and what its driver makes of what it says, in one process."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from study.errors import DataError
from study.model.jobs import do
from study.records.runs import RunFolder
from study.run.checkpoints import SAVED, tell_saved
from study.workers import carrying
from study.workers.carrying import files_of
from study.workers.exchange import LostError
from study.workers.on_ray import _Far
from study.workers.trainer import Trainer


@dataclass(frozen=True)
class Start:
    folder: RunFolder


@pytest.fixture
def far(monkeypatch, tmp_path):
    """A workbench elsewhere whose trainer is in this process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(carrying, "CHUNK_BYTES", 4)
    trainer = Trainer({})
    trainer._workbench = SimpleNamespace(name="bench")
    far = _Far(SimpleNamespace())
    far.calls = []

    def call(method, *arguments):
        far.calls.append(method)
        return getattr(trainer, method)(*arguments)

    far._call = call
    yield far
    trainer._held.close()
    trainer._thread.shutdown()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "runs" / "orpo" / "seed-1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{} and more than one piece")
    (folder / ".config.json.lock").touch()
    return folder


def train(workbench, *, folder, start, follow, seen):
    seen = [*seen, workbench.name, folder.parts[-2:], (start.folder.path / "a").read_text()]
    seen += [sorted(files_of(folder)), follow(1, {"nll": 2.0})]
    checkpoint = folder / "trainer" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "empty").touch()
    (checkpoint / "whole.json").write_text("sealed")
    tell_saved(folder)
    seen.append(follow(2, {"nll": 1.0}))
    (checkpoint / "empty").unlink()
    (checkpoint / "whole.json").unlink()
    (folder / "record.json").write_text("record")
    return seen


def test_folders_go_there_and_come_back_and_functions_are_called_here(far, folder, tmp_path):
    start = tmp_path / "starts" / "digest"
    start.mkdir(parents=True)
    (start / "a").write_text("weights of the start")
    states = []

    def follow(step, scores):
        states.append((step, scores, sorted(files_of(folder))))
        return step == 2

    given = {"start": Start(RunFolder(start)), "follow": follow, "seen": [1]}
    seen = do(far, train, writes=folder, folder=folder, **given)

    checkpoint = "trainer/checkpoint-1/"
    whole = [f"{checkpoint}empty", f"{checkpoint}whole.json"]
    first = ["config.json"]
    assert seen == [1, "bench", ("orpo", "seed-1"), "weights of the start", first, False, True]
    assert states == [(1, {"nll": 2.0}, first), (2, {"nll": 1.0}, [*first, *whole])]
    assert sorted(files_of(folder)) == ["config.json", "record.json"]
    assert (folder / "record.json").read_text() == "record"
    assert not (folder / "trainer").exists()
    assert not list((tmp_path / "there").rglob("seed-1"))


def refuse(workbench, *, folder):
    raise DataError("line 3 is empty")


def fail(workbench, *, folder):
    raise RuntimeError("CUDA error: gone")


def test_errors_there_are_those_here(far, folder):
    with pytest.raises(DataError, match=r"^line 3 is empty$"):
        do(far, refuse, writes=folder, folder=folder)
    with pytest.raises(LostError, match="device"):
        do(far, fail, writes=folder, folder=folder)


def ask(workbench, *, folder, follow):
    return follow()


def test_an_error_here_ends_the_work_there(far, folder):
    def follow():
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        do(far, ask, writes=folder, folder=folder, follow=follow)

    assert far.calls[-1] == "give_up"
    assert do(far, ask, writes=folder, folder=folder, follow=lambda: 3) == 3
    assert SAVED == []


def test_what_says_that_others_are_whole_is_sent_last(tmp_path):
    names = ["record.json", "trainer/checkpoint-2/whole.json", "z", ".z.part", "a", ".a.lock"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert list(files_of(tmp_path)) == ["a", "z", "trainer/checkpoint-2/whole.json", "record.json"]


def test_scratch_of_killed_processes_is_removed(far, tmp_path):
    (home,) = (tmp_path / "there").iterdir()
    (home / "killed").mkdir()
    (home / "killed.lock").touch()
    other = Trainer({})
    other._held.close()
    other._thread.shutdown()

    assert not (home / "killed").exists()
    assert far is not None
    assert len([path for path in home.iterdir() if path.is_dir()]) == 2
