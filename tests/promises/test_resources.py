"""Full disks, closed folders and caches: one message, nothing corrupted, and on it goes."""

import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest

from study.cli.status import status
from study.compare import plan_runs
from study.errors import ModelError, RecordError, StudyError
from study.records.files import append_jsonl, read_jsonl, write_bytes
from study.records.layout import STEPS
from study.run.make import make_run
from study.workers.mendable import mendable

FILES = (
    "steps.jsonl",
    "examples.parquet",
    "generations.jsonl",
    "adapter/adapter_model.safetensors",
)
TIMES = ("seconds", "peak_memory_bytes")


@contextmanager
def files_no_larger_than(n_bytes):
    """Let every write beyond a size fail, as a full disk does, with EFBIG for ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(folder, size):
    """Mount a file system of its own, or skip where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield lambda more: subprocess.run(
            ["mount", "-o", f"remount,{more}", str(folder)], check=True
        )
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def one_run(workbench, runs, arm="orpo"):
    plan = plan_runs(workbench.recipe, runs=runs, seeds=1, seed=0)
    return next(run for run in plan if run.arm == arm)


def results(run):
    """Return what a run leaves, without what a clock or the system measured."""
    rows = [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in read_jsonl(run.folder.path / STEPS)
    ]
    return rows, [(run.folder.path / name).read_bytes() for name in FILES[1:]]


def silent(*_):
    pass


@pytest.mark.parametrize(
    "n_bytes", [20_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (100, 1_500, 4_000))]
)
def test_a_run_on_a_full_disk_says_so_and_goes_on_to_the_same_bits(workbench, tmp_path, n_bytes):
    whole, cut = (one_run(workbench, tmp_path / name) for name in ("whole", "cut"))
    make_run(workbench, silent, run=whole)
    with files_no_larger_than(n_bytes), pytest.raises(Exception) as caught:
        make_run(workbench, silent, run=cut)
    message = str(caught.value) if isinstance(caught.value, StudyError) else mendable(caught.value)
    states = {row["arm"]: row["state"] for row in status(tmp_path / "cut")}
    make_run(workbench, silent, run=cut)

    assert message is not None
    assert "--runs" in message
    assert states.get("orpo", "missing") in ("missing", "interrupted")
    assert cut.folder.status() == "ok"
    assert results(cut) == results(whole)
    assert {path.suffix for path in cut.folder.path.rglob(".*")} <= {".lock"}


@pytest.mark.slow
@pytest.mark.parametrize("size", ["300k"])
def test_a_real_comparison_on_a_full_disk_goes_on_when_there_is_room(model_folder, tmp_path, size):
    changes = (
        f"model.name={model_folder}",
        *("data.train_pairs=96", "data.validation_pairs=16", "data.test_pairs=16"),
        *("training.max_steps=8", "training.batch_pairs=8", "training.warmup_steps=2"),
        *("training.validate_every_steps=4", "training.checkpoint_every_steps=2"),
        *("evaluation.generated_answers=4", "evaluation.max_new_tokens=4"),
    )
    options = [word for change in changes for word in ("--set", change)]
    program = (sys.executable, "-m", "study.cli.commands", "compare", "--recipe", "tiny-llama")

    words = "--seeds 1 --arm sft --arm orpo --device cpu --workers 1 --quiet".split()

    def compare():
        return subprocess.run(
            [*program, *words, "--runs", str(tmp_path / "disk/runs"), *options],
            capture_output=True,
            text=True,
            check=False,
        )

    with small_disk(tmp_path / "disk", size) as remount:
        full = compare()
        states = [row["state"] for row in status(tmp_path / "disk/runs")]
        remount("size=64m")
        done = compare()
        finished = {row["arm"]: row["state"] for row in status(tmp_path / "disk/runs")}

    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert "damaged" not in states
    assert done.returncode == 0, done.stderr
    assert {finished[arm] for arm in ("base", "sft", "orpo")} == {"finished"}


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / STEPS
    append_jsonl(path, {"step": 1})
    with (
        files_no_larger_than(40),
        pytest.raises(RecordError, match=r"cannot write .*steps\.jsonl: File too large"),
    ):
        append_jsonl(path, {"step": 2, "text": "x" * 60})
    append_jsonl(path, {"step": 3})

    assert [row["step"] for row in read_jsonl(path)] == [1, 3]


def test_a_file_that_does_not_fit_is_not_begun(tmp_path):
    write_bytes(tmp_path / "a.json", b"old")
    with files_no_larger_than(10), pytest.raises(RecordError, match="nothing was changed"):
        write_bytes(tmp_path / "a.json", b"x" * 60)

    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"old"


def test_a_read_only_folder_is_one_message_and_is_left_as_it_is(workbench, tmp_path):
    with small_disk(tmp_path / "disk", "4m") as remount:
        run = one_run(workbench, tmp_path / "disk/runs")
        make_run(workbench, silent, run=run)
        before = results(run)
        other = one_run(workbench, tmp_path / "disk/runs", arm="sft")
        remount("ro")
        with pytest.raises(RecordError, match=r"cannot write .*Read-only file system.*--runs"):
            make_run(workbench, silent, run=other)
        states = {row["arm"]: row["state"] for row in status(tmp_path / "disk/runs")}
        remount("rw")
        make_run(workbench, silent, run=other)

        assert states == {"base": "missing", "orpo": "finished"}
        assert results(run) == before
        assert other.folder.status() == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_message(workbench, tmp_path):
    (tmp_path / "runs").mkdir(mode=0o500)

    with pytest.raises(RecordError, match=r"cannot write .*Permission denied"):
        make_run(workbench, silent, run=one_run(workbench, tmp_path / "runs"))


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere", "x" * 300])
def test_a_cache_that_cannot_be_written_is_one_message_before_any_training(
    where, tmp_path, monkeypatch
):
    from study.model import toy

    (tmp_path / "file").touch()
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / where))
    monkeypatch.setattr(toy, "_train_base", lambda *_: pytest.fail("trained"))

    with pytest.raises(ModelError, match=r"(?s)cannot keep the tiny base.*ORPO_STUDY_CACHE"):
        toy.ensure_base("llama")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cache_that_is_full_is_one_message_and_leaves_nothing(
    tmp_path, monkeypatch, model_folder
):
    from transformers import AutoModelForCausalLM

    from study.model import toy

    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    monkeypatch.setattr(toy, "_train_base", lambda *_: (model, toy.train_tokenizer()))
    with (
        files_no_larger_than(20_000),
        pytest.raises(ModelError, match=r"(?s)File too large.*make room there"),
    ):
        toy.ensure_base("llama")
    left = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]

    assert left == []
    assert (toy.ensure_base("llama") / "model.safetensors").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/runs/a"), "cannot use /runs/a: No space left"),
        (RuntimeError("Error: I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "No space"),
        (OSError(36, "File name too long"), "File name too long"),
        (RuntimeError("a bug"), None),
        (OSError(5, "Input/output error"), None),
    ],
)
def test_errors_of_the_system_are_told_however_a_library_wraps_them(error, message):
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = error

    for told in (mendable(error), mendable(wrapped)):
        assert told is None if message is None else message in (told or "")
