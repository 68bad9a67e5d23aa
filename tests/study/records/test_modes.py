"""Records that colleagues share: modes follow the umask, and what is unreadable is not damaged."""

import os
from pathlib import Path

import pytest
from made_records import whole_record

from study.config.canonical import digest
from study.config.recipe import load_recipe
from study.errors import UnreadableError
from study.records.files import follow_umask, write_bytes, write_json
from study.records.layout import ADAPTER, BEST, CONFIG, RECORD
from study.records.runs import RunFolder, run_folder
from study.records.searches import search_faults
from study.run.make import check_plan
from study.run.planned import PlannedRun

RECIPE = load_recipe("tiny-llama")
SETTINGS = {"learning_rate": 3e-3, "beta": 0.2}


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_mode_that_the_umask_asks_for(tmp_path: Path, umask: int) -> None:
    write_json(tmp_path / "record.json", {})
    (tmp_path / "model.safetensors").touch(0o600)
    follow_umask(tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    assert modes == {0o666 & ~umask}


def finished_run(runs: Path) -> PlannedRun:
    folder = run_folder(runs, RECIPE.name, "orpo", 1)
    run = PlannedRun(
        recipe=RECIPE, arm="orpo", settings=SETTINGS, seed=1, tuned=False, folder=folder
    )
    folder.claim(run.config)
    write_bytes(folder.path / ADAPTER / "adapter_model.safetensors", b"weights")
    names = {"recipe": RECIPE.name, "arm": "orpo", "seed": 1, "digest": digest(run.config)}
    folder.finish(whole_record(**names))
    return run


def forbid(monkeypatch, name: str) -> None:
    """Let no file of a name be read, also by root, whom modes do not bind."""
    opened = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)


@pytest.mark.parametrize("name", [CONFIG, RECORD, "adapter_model.safetensors"])
def test_a_run_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, name) -> None:
    run = finished_run(tmp_path)
    forbid(monkeypatch, name)
    with pytest.raises(UnreadableError, match=rf"{name} may not be read.*ask its owner"):
        check_plan([run], print)

    assert RunFolder(run.folder.path).status() == "unreadable"
    assert [path.name for path in run.folder.path.parent.iterdir()] == ["seed-1"]


def test_a_search_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch) -> None:
    write_json(tmp_path / BEST, {})
    forbid(monkeypatch, BEST)

    with pytest.raises(UnreadableError, match="ask its owner"):
        search_faults(tmp_path)
