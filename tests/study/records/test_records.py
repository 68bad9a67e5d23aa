"""Records are whole or absent, and never mixed."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from made_records import whole_config, whole_record

from study.config.canonical import digest
from study.errors import RecordError
from study.records import runs as records
from study.records.files import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from study.records.layout import BENCH, BEST, HISTORY, JOURNAL, TRIALS, recipes_in, search_folder
from study.records.publish import publish
from study.records.runs import RunFolder

CONFIG = whole_config(arm="orpo", recipe={"training": {"max_steps": 8}})


def finished_run(runs: Path, *, arm: str = "sft", seed: int = 1) -> RunFolder:
    folder = records.run_folder(runs, "tiny", arm, seed)
    folder.claim({**CONFIG, "arm": arm, "seed": seed})
    append_jsonl(folder.path / records.STEPS, {"step": 1})
    records.write_bytes(folder.path / records.ADAPTER / "adapter.safetensors", b"weights")
    config = {**CONFIG, "arm": arm, "seed": seed}
    folder.finish(whole_record(arm=arm, seed=seed, digest=digest(config)))
    return folder


def test_a_run_goes_from_missing_to_finished(tmp_path: Path) -> None:
    folder = records.run_folder(tmp_path, "tiny", "orpo", 1)
    statuses = [folder.status()]
    folder.claim(CONFIG)
    statuses.append(folder.status())
    folder.finish(whole_record(status="diverged", arm="orpo", digest=digest(CONFIG)))
    statuses.append(folder.status())

    assert folder.path == tmp_path / "tiny" / "compare" / "orpo" / "seed-1"
    assert statuses == ["missing", "unfinished", "diverged"]


def test_a_record_carries_checksums_of_the_other_files(tmp_path: Path) -> None:
    folder = finished_run(tmp_path)
    record = folder.record()

    assert record is not None
    assert record["files"] == {
        "adapter/adapter.safetensors": hashlib.sha256(b"weights").hexdigest(),
        "steps.jsonl": hashlib.sha256(b'{"step": 1}\n').hexdigest(),
    }


def test_claiming_again_with_the_same_configuration_changes_nothing(tmp_path: Path) -> None:
    records.claim_folder(tmp_path, CONFIG)
    before = (tmp_path / "config.json").stat().st_mtime_ns
    records.claim_folder(tmp_path, dict(reversed(CONFIG.items())))

    assert (tmp_path / "config.json").stat().st_mtime_ns == before


def test_another_configuration_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    records.claim_folder(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = {**CONFIG, "seed": 2, "recipe": {"training": {"max_steps": 9}}}

    with pytest.raises(RecordError) as caught:
        records.claim_folder(tmp_path, other)

    message = str(caught.value)
    assert "seed: 1 in the records, 2 asked for" in message
    assert "recipe.training.max_steps: 8 in the records, 9 asked for" in message
    assert "arm:" not in message
    assert "--runs" in message
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"a": 1} trailing'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)

    with pytest.raises(RecordError, match=r"record\.json is damaged"):
        read_json(path)


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')

    with pytest.raises(RecordError, match=r"steps\.jsonl, line 2 is damaged"):
        list(read_jsonl(path))


def test_absent_files_are_empty(tmp_path: Path) -> None:
    assert read_json(tmp_path / "x.json") is None
    assert list(read_jsonl(tmp_path / "x.jsonl")) == []
    assert recipes_in(tmp_path / "nowhere") == []
    assert records.compare_folders(tmp_path, "nothing") == []


def test_rows_are_read_back_as_written(tmp_path: Path) -> None:
    rows = [{"text": "zwei\nZeilen \u2028 <script>", "value": 1.5}, {"text": "😀", "value": None}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    for row in rows:
        append_jsonl(tmp_path / "sub" / "b.jsonl", row)

    assert list(read_jsonl(tmp_path / "a.jsonl")) == rows
    assert list(read_jsonl(tmp_path / "sub" / "b.jsonl")) == rows


def test_numbers_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("inf")})

    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"version": 1})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RecordError, match="No space left on device"):
        write_json(path, {"version": 2})

    assert json.loads(path.read_text()) == {"version": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_seen_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "record.json", []
    replace = os.replace

    def watched(source: str, target: Path) -> None:
        seen.append((path.exists(), json.loads(Path(source).read_text())))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_json(path, {"whole": True})

    assert seen == [(False, {"whole": True})]
    assert json.loads(path.read_text()) == {"whole": True}


def test_a_folder_that_cannot_be_made_is_a_record_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RecordError, match="cannot write"):
        write_json(tmp_path / "file" / "record.json", {})


def test_runs_are_listed_in_order_of_arm_and_number(tmp_path: Path) -> None:
    for arm, seed in (("sft", 10), ("sft", 2), ("orpo", 1)):
        finished_run(tmp_path, arm=arm, seed=seed)
    (tmp_path / "tiny" / "compare" / "sft" / "seed-x").mkdir()
    (tmp_path / "tiny" / "compare" / "sft" / "seed-7").mkdir()

    listed = [(arm, seed) for arm, seed, _ in records.compare_folders(tmp_path, "tiny")]
    assert listed == [("orpo", 1), ("sft", 2), ("sft", 10)]
    assert recipes_in(tmp_path) == ["tiny"]


def test_publishing_copies_finished_records_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "local", tmp_path / "published"
    done = finished_run(source)
    records.write_bytes(done.path / ".hidden", b"")
    records.run_folder(source, "tiny", "orpo", 1).claim(CONFIG)
    search = search_folder(source, "tiny", "sft")
    records.write_bytes(search / JOURNAL, b"journal")
    write_jsonl(search / TRIALS, [{"number": 0}])
    unfinished = search_folder(source, "tiny", "orpo")
    write_jsonl(unfinished / TRIALS, [{"number": 0}])
    write_json(search / BEST, {"trial": 0})
    write_json(source / BENCH, {"steps": {}})
    write_jsonl(source / HISTORY, [{"at": "2026-11-20", "what": "x"}])
    copied = publish(source, target)

    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.*"))
    assert names == [
        "bench.json",
        "history.jsonl",
        "tiny/compare/sft/seed-1/config.json",
        "tiny/compare/sft/seed-1/record.json",
        "tiny/compare/sft/seed-1/steps.jsonl",
        "tiny/search/sft/best.json",
        "tiny/search/sft/trials.jsonl",
    ]
    assert sorted(copied) == sorted(target / name for name in names)
    assert (target / names[2]).read_bytes() == (source / names[2]).read_bytes()
