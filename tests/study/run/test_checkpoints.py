"""A checkpoint counts when all its files are whole; a damaged one is set aside."""

import pytest

from study.records.files import append_jsonl
from study.run.checkpoints import resume_from, seal_checkpoint

FILES = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "adapter_model.safetensors",
    "trainer_state.json",
)


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at steps 4 and 8 that was killed at step 10."""
    for step in range(1, 11):
        append_jsonl(tmp_path / "steps.jsonl", {"split": "train", "step": step, "loss": 1.5})
        if step in (4, 8):
            checkpoint = tmp_path / "trainer" / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            for name in FILES:
                (checkpoint / name).write_bytes(f"{name} at {step}".encode())
            seal_checkpoint(tmp_path, checkpoint, {})
    return tmp_path


def resumed(run):
    checkpoint, rows = resume_from(run, tidy=True, width=15)
    return checkpoint and checkpoint.rpartition("-")[2], [row["step"] for row in rows]


def test_a_killed_run_goes_on_from_its_last_checkpoint(run):
    assert resumed(run) == ("8", list(range(1, 9)))


@pytest.mark.parametrize("name", [*FILES, "whole.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "lost", "emptied"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(run, caplog, name, damage):
    path = run / "trainer" / "checkpoint-8" / name
    content = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        kept = {"cut": content[:-3], "emptied": b""}
        path.write_bytes(kept.get(damage, content[:-4] + b"#" + content[-3:]))
    unsealed = (name, damage) == ("whole.json", "lost")

    assert resumed(run) == ("4", [1, 2, 3, 4])
    assert unsealed or str(path) in caplog.text
    assert unsealed or list((run / "trainer").glob("checkpoint-8.damaged-*"))
    assert resumed(run) == ("4", [1, 2, 3, 4])


def test_a_checkpoint_of_another_version_is_kept_with_its_log_and_not_used(run, caplog):
    steps, old = (run / "steps.jsonl").read_bytes(), run / "trainer" / "checkpoint-8"
    seal_checkpoint(run, old, {"rows": [[1.5] * 11, [1.5] * 11]})
    again = resumed(run)
    (kept,) = (run / "trainer").glob("checkpoint-8.other-version-*")

    assert again == ("4", [1, 2, 3, 4])
    assert "kept 11 numbers of an update where this one keeps 15" in caplog.text
    assert f"it is kept as {kept.name}" in caplog.text
    assert (kept / "steps.jsonl").read_bytes() == steps
    assert set(FILES) < {path.name for path in kept.iterdir()}


def test_a_checkpoint_that_was_written_at_a_log_is_of_any_version(run):
    seal_checkpoint(run, run / "trainer" / "checkpoint-8", {"rows": []})

    assert resumed(run)[0] == "8"


@pytest.mark.parametrize(
    ("line", "expected"), [(10, ("8", 8)), (6, ("4", 4)), (2, (None, 0))], ids=str
)
def test_a_changed_digit_in_the_steps_sends_a_run_back_before_it(run, line, expected):
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace("1.5", "1.6")
    (run / "steps.jsonl").write_text("".join(lines))
    checkpoint, steps = resumed(run)

    assert (checkpoint, len(steps)) == expected
