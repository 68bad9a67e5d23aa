"""Texts of others stay out of publications, and come back where the data are."""

import json
from pathlib import Path

import made_records
import pytest

from study.records.files import read_jsonl, write_jsonl
from study.records.layout import GENERATIONS
from study.records.publish import publish
from study.records.runs import RunFolder, run_folder
from study.records.texts import has_texts, keep_texts, known_texts, restore, sha256, withhold

ROW = {
    "example_id": "a1",
    "prompt": "user: Who wrote it?",
    "reference": "Somebody else did.",
    "references": ["Somebody else did.", "Nobody."],
    "text": "The model's own answer.",
}


def test_a_withheld_row_keeps_its_answer_and_has_hashes_for_the_rest() -> None:
    row = withhold(ROW)
    told = json.dumps(row)

    assert (row["example_id"], row["text"]) == ("a1", ROW["text"])
    assert row["withheld"]["prompt"] == sha256(ROW["prompt"])
    assert sha256(ROW["reference"]) in row["reference"]
    assert [text for text in ("Who wrote", "Somebody", "Nobody") if text in told] == []
    assert not has_texts([row])
    assert withhold(row) == row


def test_rows_are_restored_where_every_text_is_known() -> None:
    texts = {sha256(text): text for text in (ROW["prompt"], *ROW["references"])}
    row = withhold(ROW)
    some = {sha256(ROW["prompt"]): ROW["prompt"]}

    assert restore([row, ROW], texts) == (ROW, ROW)
    assert restore([row], some) == (row,)
    assert restore([row], {}) == (row,)


def test_texts_are_kept_in_the_cache_by_their_hashes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path))
    keep_texts("0123", ["one", "zwei ü"])
    (file,) = (tmp_path / "texts").iterdir()

    assert known_texts("0123") == {sha256("one"): "one", sha256("zwei ü"): "zwei ü"}
    assert known_texts("4567") == {}
    file.write_text("{")
    assert known_texts("0123") == {}


@pytest.fixture
def local(tmp_path: Path, monkeypatch) -> Path:
    """A finished comparison on a file of pairs whose texts may not be published."""
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / "cache"))
    pairs, runs = tmp_path / "pairs.jsonl", tmp_path / "local"
    changes = ["data.publish_texts=false", f"data.name={pairs}"]
    recipe = made_records.load_recipe("tiny-llama").override(changes)
    made_records.make_plan(runs, recipe, seeds=(1,))
    for arm in ("base", "sft", "orpo"):
        name_speakers(made_records.make_run(runs, recipe, arm, 1))
    rows = [
        {"prompt": row["prompt"].removeprefix("user: "), "chosen": row["reference"]}
        for row in answers(runs)
    ]
    write_jsonl(pairs, [{**row, "rejected": "I do not know."} for row in rows])
    return runs


def name_speakers(folder: RunFolder) -> None:
    """Write prompts as runs do, each turn with its speaker."""
    path, record = folder.path / GENERATIONS, folder.record()
    rows = [{**row, "prompt": f"user: {row['prompt']}"} for row in read_jsonl(path)]
    write_jsonl(path, rows)
    folder.finish(record)


def answers(runs: Path) -> list[dict]:
    return list(read_jsonl(run_folder(runs, "tiny-llama", "orpo", 1).path / GENERATIONS))


def test_a_publication_is_sound_and_holds_no_text_of_others(local, tmp_path) -> None:
    target = tmp_path / "published"
    publish(local, target)
    published = b"".join(path.read_bytes() for path in target.rglob("*") if path.is_file())
    rows = answers(local)

    assert all(RunFolder(path.parent).is_finished() for path in target.rglob("record.json"))
    assert [row["text"] for row in answers(target)] == [row["text"] for row in rows]
    assert has_texts(rows)
    assert not has_texts(answers(target))
    for row in rows:
        assert json.dumps(row["prompt"]).encode() not in published
        assert json.dumps(row["reference"]).encode() not in published


def test_the_report_reads_the_texts_where_the_user_has_the_file(local, tmp_path) -> None:
    from analysis.records.load import load_study
    from analysis.tables.rouge import rouge_rows
    from study.cli.texts import remember_texts

    target, said = tmp_path / "published", []
    publish(local, target)
    before = load_study(target)
    remember_texts([tmp_path / "absent", target], None, say=said.append)
    after = load_study(target)

    assert rouge_rows(before) == ()
    assert not has_texts(before.ok("tiny-llama", "orpo")[0].generations)
    assert list(after.ok("tiny-llama", "orpo")[0].generations) == answers(local)
    assert rouge_rows(after)
    assert len(said) == 1
    remember_texts([target], None, say=said.append)
    assert len(said) == 1
