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
    checkpoint, rows = resume_from(run, tidy=True)
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


@pytest.mark.parametrize(
    ("line", "expected"), [(10, ("8", 8)), (6, ("4", 4)), (2, (None, 0))], ids=str
)
def test_a_changed_digit_in_the_steps_sends_a_run_back_before_it(run, line, expected):
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace("1.5", "1.6")
    (run / "steps.jsonl").write_text("".join(lines))
    checkpoint, steps = resumed(run)

    assert (checkpoint, len(steps)) == expected
