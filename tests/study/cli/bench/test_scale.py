"""Many trials, runs and pairs are made by what makes real ones."""

import json

import pytest

from study.cli.bench import scale, scale_pairs, scale_runs
from study.cli.status import status
from study.config.recipe import load_recipe
from study.data.load import load_pairs
from study.records import files, schema
from study.records.layout import search_folder


def test_a_search_without_training_leaves_whole_records(tmp_path):
    found = scale.search_share(runs=str(tmp_path), trials=15)

    folder = search_folder(tmp_path, scale.RECIPE, scale.ARM)
    assert len(list(files.read_jsonl(folder / "trials.jsonl"))) == 15
    assert files.read_json(folder / "best.json")["n_trials"] == 15
    assert found["ended"] > found["began"]
    assert found["cpu_s"] > 0


def test_runs_that_nobody_trained_are_finished_and_sound(tmp_path):
    assert scale_runs.make_runs(tmp_path, n_arms=2, n_seeds=2) == 10

    runs = [row for row in status(tmp_path) if row["part"] == "compare"]
    assert [row["state"] for row in runs] == ["finished"] * 10


def test_the_status_reads_each_record_once(tmp_path, monkeypatch):
    scale_runs.make_runs(tmp_path, n_arms=2, n_seeds=2)
    read = []
    original = schema.read_json
    monkeypatch.setattr(schema, "read_json", lambda path: read.append(path) or original(path))
    status(tmp_path)

    records = [path for path in read if path.name == "record.json"]
    assert len(records) == len(set(records)) == 10


def test_descriptions_of_records_are_looked_up_once(monkeypatch):
    schema._hints_of.cache_clear()
    asked = []
    original = schema.get_type_hints
    monkeypatch.setattr(schema, "get_type_hints", lambda kind: asked.append(kind) or original(kind))
    for _ in range(5):
        schema._misfits({"path": ""}, schema.Trial, "")
        schema._misfits({}, schema.Best, "")

    assert len(asked) == len(set(asked))


@pytest.fixture
def file(tmp_path):
    scale_pairs.write_pairs(tmp_path / "pairs.jsonl", 300)
    return tmp_path / "pairs.jsonl"


def test_a_generated_file_holds_distinct_pairs_of_several_scripts(file):
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    recipe = load_recipe("tiny-llama").override([f"data.name={json.dumps(str(file))}"])

    assert len(rows) == 300
    assert any(not text.isascii() for text in rows[0].values())
    assert len(load_pairs(recipe.data).pairs) > 290


def test_each_way_with_a_file_says_its_seconds_and_memory(file):
    measured = {stage.__name__: stage(file=str(file)) for stage in (*scale_pairs.STAGES[:1],)}
    measured["ours"] = scale_pairs.ours(file=str(file))

    assert list(measured["ours"]["cpu_s"]) == ["check", "split", "encode"]
    assert list(measured["tokenizer_alone"]["wall_s"]) == ["encode"]
    assert measured["ours"]["n_encoded"] > 50
