"""Records are read whole, and refused by name where they cannot be compared."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from analysis.judge.judged import judged_by
from analysis.records import load
from analysis.records.load import is_complete, load_study, score_matrix
from analysis.words.history import history
from study.errors import RecordError
from study.records.files import read_json, write_json, write_jsonl
from study.records.layout import EXAMPLES, HISTORY, RECORD, STEPS
from study.records.runs import RunFolder, run_folder


def rewrite(runs, arm, seed, change):
    """Change a run's examples and write its record again as if it had ended so."""
    folder = run_folder(runs, "tiny-llama", arm, seed)
    record = folder.record()
    frame = change(pd.read_parquet(folder.path / EXAMPLES))
    frame.to_parquet(folder.path / EXAMPLES)
    folder.finish({key: value for key, value in record.items() if key != "files"})


def change_record(runs, arm, seed, change):
    path = run_folder(runs, "tiny-llama", arm, seed).path / RECORD
    record = read_json(path)
    change(record)
    write_json(path, record)


def test_everything_is_read(study_runs):
    records = load_study(study_runs)

    assert records.recipes == ("tiny-llama", "tiny-smollm2")
    assert records.arms("tiny-llama") == ("base", "sft", "orpo")
    assert [run.seed for run in records.ok("tiny-llama", "orpo")] == [1, 2, 3]
    assert len(records.searches) == 4
    assert len(records.searches[0].trials) == 20
    assert list(records.searches[1].space) == ["learning_rate", "beta"]


def test_score_matrices_are_seeds_by_examples(study_runs):
    records = load_study(study_runs)
    accuracy = score_matrix(records, "tiny-llama", "orpo", "accuracy")
    rouge = score_matrix(records, "tiny-llama", "orpo", "rougeL")

    assert accuracy.matrix.shape == (3, 80)
    assert rouge.matrix.shape == (3, 40)
    for run, mean in zip(records.ok("tiny-llama", "orpo"), rouge.matrix.mean(1), strict=True):
        assert mean == pytest.approx(run.record["scores"]["rougeL"])
    assert score_matrix(records, "tiny-llama", "dpo", "accuracy") is None


def test_a_score_that_nobody_knows_is_no_score(small_runs):
    for arm, seeds in (("base", (0,)), ("sft", (1, 2, 3)), ("orpo", (1, 2, 3))):
        for seed in seeds:
            change_record(small_runs, arm, seed, lambda record: record["scores"].pop("exact_match"))
            rewrite(small_runs, arm, seed, lambda frame: frame.assign(exact_match=None))
    records = load_study(small_runs)

    assert score_matrix(records, "tiny-llama", "sft", "exact_match") is None
    assert score_matrix(records, "tiny-llama", "sft", "rougeL") is not None


def test_a_study_is_complete_when_every_arm_of_one_recipe_is(small_runs, builders):
    assert is_complete(small_runs)
    builders["remove"](run_folder(small_runs, "tiny-llama", "orpo", 3).path)
    assert not is_complete(small_runs)


def test_an_unfinished_run_makes_it_incomplete_and_is_named(small_runs):
    (run_folder(small_runs, "tiny-llama", "sft", 2).path / RECORD).unlink()

    assert not is_complete(small_runs)
    assert load_study(small_runs).unfinished == (("tiny-llama", "sft", 2),)


def test_an_empty_folder_says_what_to_do(tmp_path):
    assert not is_complete(tmp_path)
    with pytest.raises(RecordError, match="study compare"):
        load_study(tmp_path / "nothing")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["chosen_logp_sum", "rejected_logp_sum"])
def test_scores_that_are_not_finite_name_model_arm_and_seed(small_runs, column, value):
    def change(frame):
        frame.loc[3, column] = value
        return frame

    rewrite(small_runs, "orpo", 2, change)
    with pytest.raises(RecordError, match=r"tiny-llama, orpo, seed 2: .* not finite"):
        load_study(small_runs)


def test_scores_of_answers_that_are_not_finite_name_model_arm_and_seed(small_runs):
    def change(frame):
        frame.loc[3, "rougeL"] = np.inf
        return frame

    rewrite(small_runs, "sft", 3, change)
    with pytest.raises(RecordError, match=r"tiny-llama, sft, seed 3: rougeL .* not finite"):
        load_study(small_runs)


def test_a_mean_that_is_not_finite_names_model_arm_and_seed(small_runs):
    change_record(small_runs, "orpo", 1, lambda record: record["scores"].update(nll=None))
    with pytest.raises(RecordError, match=r"tiny-llama, orpo, seed 1: the score nll is None"):
        load_study(small_runs)


def test_another_set_of_examples_is_refused(small_runs):
    def change(frame):
        frame.loc[0, "example_id"] = "f" * 16
        return frame

    rewrite(small_runs, "sft", 3, change)
    with pytest.raises(RecordError, match=r"tiny-llama, sft, seed 3: 2 examples differ"):
        load_study(small_runs)


def test_another_set_of_generated_answers_is_refused(small_runs):
    def change(frame):
        frame.loc[[0, 45], "rougeL"] = frame.loc[[45, 0], "rougeL"].to_numpy()
        return frame

    rewrite(small_runs, "sft", 3, change)
    with pytest.raises(RecordError, match=r"sft, seed 3: rougeL is scored for other examples"):
        load_study(small_runs)


def test_rows_that_stand_twice_are_refused(small_runs):
    rewrite(small_runs, "sft", 1, lambda frame: pd.concat([frame, frame[:2]]))
    with pytest.raises(RecordError, match=r"tiny-llama, sft, seed 1: 2 examples are scored twice"):
        load_study(small_runs)


def test_the_order_of_rows_does_not_matter(small_runs):
    before = score_matrix(load_study(small_runs), "tiny-llama", "sft", "margin")
    rewrite(small_runs, "sft", 1, lambda frame: frame[::-1])
    after = score_matrix(load_study(small_runs), "tiny-llama", "sft", "margin")

    assert np.array_equal(before.matrix, after.matrix)


def test_other_data_are_refused(small_runs):
    change_record(
        small_runs, "orpo", 1, lambda record: record["data"]["test"].update(fingerprint="0" * 64)
    )
    with pytest.raises(RecordError, match=r"tiny-llama, .* other data .* test\.fingerprint"):
        load_study(small_runs)


def test_other_tokens_are_refused_where_both_records_know_theirs(small_runs):
    def tokens(value):
        return lambda record: record["data"].update(tokens={"test": value})

    change_record(small_runs, "orpo", 1, tokens("0" * 64))
    load_study(small_runs)  # older records beside it have no fingerprints of tokens
    change_record(small_runs, "base", 0, tokens("1" * 64))

    with pytest.raises(RecordError, match=r"other data .* tokens\.test"):
        load_study(small_runs)


def test_answers_that_were_scored_in_another_way_are_refused(small_runs):
    change_record(small_runs, "orpo", 1, lambda record: record["scoring"].update(tokenizer="x-2"))

    with pytest.raises(RecordError, match=r"answers scored in another way .* tokenizer: .*x-2"):
        load_study(small_runs)


@pytest.mark.parametrize(("word", "comparable"), [("nine", True), ("neuf è", False)])
def test_records_older_than_the_tokenizers_name_go_on_where_all_text_is_ascii(
    small_runs, word, comparable
):
    path = run_folder(small_runs, "tiny-llama", "orpo", 1).path / "generations.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("orpo says", word), "utf-8")
    change_record(small_runs, "orpo", 1, lambda record: record.pop("scoring"))
    rewrite(small_runs, "orpo", 1, lambda frame: frame.drop(columns="distinct_2"))

    if comparable:
        records = load_study(small_runs)
        assert score_matrix(records, "tiny-llama", "orpo", "distinct_2") is None
        assert score_matrix(records, "tiny-llama", "orpo", "rougeL") is not None
    else:
        with pytest.raises(RecordError, match="answers scored in another way"):
            load_study(small_runs)


def test_another_recipe_is_refused(small_runs, builders):
    builders["remove"](run_folder(small_runs, "tiny-llama", "sft", 2).path)
    other = builders["recipe"]("tiny-llama").override(["training.max_steps=80"])
    builders["run"](small_runs, other, "sft", 2)
    with pytest.raises(RecordError, match=r"sft, seed 2: another recipe .* training\.max_steps"):
        load_study(small_runs)


def test_a_score_that_is_not_the_mean_of_its_examples_is_refused(small_runs):
    change_record(small_runs, "orpo", 1, lambda record: record["scores"].update(margin=9.0))
    with pytest.raises(RecordError, match=r"orpo, seed 1: margin is 9.0 in record.json"):
        load_study(small_runs)


def test_a_changed_file_is_refused(small_runs):
    path = run_folder(small_runs, "tiny-llama", "orpo", 1).path / STEPS
    path.write_text(path.read_text() + "\n")
    with pytest.raises(RecordError, match=r"orpo, seed 1: steps.jsonl was changed"):
        load_study(small_runs)


def test_a_changed_configuration_is_refused(small_runs):
    path = run_folder(small_runs, "tiny-llama", "orpo", 1).path / "config.json"
    path.write_text(path.read_text().replace('"seed": 1,', '"seed": 7,'))
    with pytest.raises(RecordError, match=r"orpo, seed 1: .*config.json is damaged"):
        load_study(small_runs)


def test_weights_may_be_left_out_and_nothing_else(small_runs):
    path = run_folder(small_runs, "tiny-llama", "orpo", 1).path / RECORD
    record = read_json(path)
    record["files"]["adapter/adapter_model.safetensors"] = "0" * 64
    record["files"]["checkpoint-80/optimizer.pt"] = "0" * 64
    write_json(path, record)
    load_study(small_runs)

    (RunFolder(path.parent).path / "generations.jsonl").unlink()
    with pytest.raises(RecordError, match=r"orpo, seed 1: generations.jsonl is missing"):
        load_study(small_runs)


DAMAGED = {
    **dict.fromkeys(
        ("config.json", "record.json", "steps.jsonl", "examples.parquet", "generations.jsonl"),
        "compare/orpo/seed-1",
    ),
    **dict.fromkeys(("best.json", "trials.jsonl", "confirmations.jsonl"), "search/orpo"),
}


@pytest.mark.parametrize("how", ["cut", "altered"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_records_are_named_and_never_judged(small_runs, name, how):
    path = small_runs / "tiny-llama" / DAMAGED[name] / name
    content = bytearray(path.read_bytes())
    middle = next(i for i in range(len(content) // 2, len(content)) if chr(content[i]).isdigit())
    content[middle] = ord("1") if content[middle] != ord("1") else ord("2")
    path.write_bytes(content[:middle] if how == "cut" else content)

    with pytest.raises(RecordError, match=rf"tiny-llama, .*orpo.*{name}.*`study"):
        load_study(small_runs)
    assert is_complete(small_runs) == (path.parent.name == "orpo")


def test_runs_on_other_kinds_of_device_or_weights_are_refused(small_runs):
    change_record(small_runs, "orpo", 1, lambda record: record.update(device="NVIDIA H200"))
    with pytest.raises(RecordError, match=r"tiny-llama, .*: another kind of device"):
        load_study(small_runs)
    change_record(
        small_runs, "orpo", 1, lambda record: record.update(device="cpu", model={"dtype": "x"})
    )
    with pytest.raises(RecordError, match=r"tiny-llama, .*: other weights .*"):
        load_study(small_runs)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("compare/orpo/seed-1", "compare/orpo/seed-2", "seed 1, but lies in the folder of seed 2"),
        ("compare/orpo/seed-1", "compare/orpo/seed-9", "seed 1, but lies in the folder of seed 9"),
        (
            "compare/sft/seed-1",
            "compare/orpo/seed-1",
            "arm sft, but lies in the folder of arm o",
        ),
        ("claims/beta-0.1/seed-1", "claims/beta-0.1/seed-2", "lies in the folder of seed 2"),
        ("claims/beta-0.1/seed-1", "claims/beta-0.5/seed-1", "one is a copy of the other; move"),
        ("search/sft", "search/orpo", "is of tiny-llama / sft, not of tiny-llama / orpo"),
        ("", "../other", "recipe tiny-llama, but lies in the folder of recipe other"),
    ],
)
def test_a_copied_folder_is_no_replicate(small_runs, builders, source, target, expected):
    builders["claims"](small_runs, builders["recipe"]("tiny-llama"))
    recipe = small_runs / "tiny-llama"
    shutil.rmtree(recipe / target, ignore_errors=True)
    shutil.copytree(recipe / source, recipe / target)

    with pytest.raises(RecordError, match=expected):
        load_study(small_runs)


def test_what_came_before_the_records_stands_in_the_history(small_runs):
    rows = [{"at": "2026-11-20", "what": "the task was changed after scores had been seen."}]
    write_jsonl(small_runs / HISTORY, rows)
    records = load_study(small_runs)

    assert history(records, judged_by(records))[0] == (
        "Noted by the authors: the task was changed after scores had been seen (2026-11-20)."
    )


@pytest.mark.parametrize("row", [{"at": "2026-11-20"}, {"at": "", "what": "x"}, {"what": 3}])
def test_a_history_without_date_or_words_is_refused(small_runs, row):
    write_jsonl(small_runs / HISTORY, [row])

    with pytest.raises(RecordError, match="lacks 'at' or 'what'"):
        load_study(small_runs)


def test_a_matrix_is_put_together_once(small_runs, monkeypatch):
    records, made = load_study(small_runs), []
    original = load.scores_of
    monkeypatch.setattr(load, "scores_of", lambda *given: made.append(given[1]) or original(*given))
    first = load.score_matrix(records, records.recipes[0], "sft", "margin")

    assert load.score_matrix(records, records.recipes[0], "sft", "margin") is first
    assert made == ["margin"]
    assert not first.matrix.flags.writeable
    other = dataclasses.replace(records)
    assert load.score_matrix(other, records.recipes[0], "sft", "margin") is not first
