"""Benchmarks: every item's score is kept, and is what the model's log-probabilities say."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from study.cli import main, status
from study.data.pairs import Message
from study.data.tokens import encode_prompt
from study.errors import ConfigError, RecordError
from study.records.layout import benchmark_path
from study.records.publish import publish
from study.records.released import BenchmarkScores
from study.records.schema import read_as
from study.release import benchmark as scoring
from study.release.benchmark import How, benchmark
from study.release.chosen import all_runs, choose_run
from study.release.loaded import load_run
from study.release.tasks import EMBEDDED, GROUPS, chance_of, group_of, harness_task

needs_harness = pytest.mark.skipif(
    scoring.find_spec("lm_eval") is None, reason="pip install '.[benchmarks]'"
)
DAYS = dataclasses.replace(GROUPS["embedded"], tasks=("study_days",))
YAML = """
task: own_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def rows_of(task):
    told = harness_task(task)
    lines = Path(told["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_questions_have_one_right_answer_among_four(name) -> None:
    rows = rows_of(f"study_{name}")

    assert len({row["question"] for row in rows}) == len(rows) >= 14
    assert all(len(set(row["choices"])) == 4 for row in rows)
    assert {row["answer"] for row in rows} == {0, 1, 2, 3}
    assert all("passage" in row for row in rows) == (name == "colours")


@needs_harness
def test_an_items_score_is_whether_the_right_answer_is_likeliest(finished) -> None:
    run = choose_run(runs=finished, recipe="small", arm="orpo")
    (record,) = benchmark([run], How(group=DAYS, limit=6), forms=["adapter"], say=lambda _: None)
    base = load_run(run, device="cpu")
    expected = []
    for row in rows_of("study_days")[:6]:
        prompt = encode_prompt([Message("user", row["question"])], base.tokenizer)
        sums = []
        for choice in row["choices"]:
            ids = base.tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logits = base.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
            logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            sums.append(float(logps.gather(1, torch.tensor(ids)[:, None]).sum()))
        expected.append(float(max(range(4), key=sums.__getitem__) == row["answer"]))

    assert record["scores"] == expected
    assert record["chance"] == 0.25
    assert len(set(record["items"])) == 6


@needs_harness
def test_scored_tasks_are_kept_and_damaged_ones_made_again(finished, monkeypatch) -> None:
    run = choose_run(runs=finished, recipe="small", arm="sft")
    how, scored = How(group=DAYS, limit=4), []
    own = scoring._score
    monkeypatch.setattr(scoring, "_score", lambda *a: scored.append(a[2]) or own(*a))

    def again(how=how):
        return benchmark([run], how, forms=["adapter"], say=lambda _: None)

    first, second = again(), again()
    path = benchmark_path(run.folder.path, "adapter", "study_days")
    other = again(dataclasses.replace(how, group=dataclasses.replace(DAYS, name="other")))
    path.write_text(path.read_text().replace('"chance": 0.25', '"chance": 0.75'))
    mended = again()

    assert first == second
    assert other[0]["groups"] == ["embedded", "other"]
    assert mended[0]["scores"] == first[0]["scores"]
    assert scored == ["study_days", "study_days"]
    again(dataclasses.replace(how, limit=5))
    assert len(scored) == 3
    assert run.folder.faults() == []


@needs_harness
def test_the_harness_itself_would_tie_trained_rows_again_and_fail(finished) -> None:
    from lm_eval.models.huggingface import HFLM

    base = load_run(choose_run(runs=finished, recipe="small", arm="orpo"), device="cpu")

    with pytest.raises(Exception, match="weight"):  # where not, drop _kept_tied
        HFLM(pretrained=base.model, tokenizer=base.tokenizer)


@needs_harness
def test_the_command_takes_task_files_of_ones_own_and_status_and_publish_know_them(
    finished, tmp_path
) -> None:
    rows = [
        {"question": f"What is {word}?", "choices": ["Red.", "Blue."], "answer": number % 2}
        for number, word in enumerate(("fire", "sky", "blood", "sea"))
    ]
    data = tmp_path / "own.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.yaml").write_text(YAML.format(data=data))
    command = ["benchmark", "--recipe", "small", "--arm", "base", "--task", "own_task"]
    done = CliRunner().invoke(
        main,
        [*command, "--include", str(tmp_path), "--runs", str(finished)],
        catch_exceptions=False,
    )
    (base,) = all_runs(["base"], runs=finished, recipe="small")
    record = read_as(benchmark_path(base.folder.path, "adapter", "own_task"), BenchmarkScores)
    states = [row for row in status.status(finished) if row["part"] == "benchmark"]
    copied = publish(finished, tmp_path / "published")

    assert done.exit_code == 0
    assert (record["chance"], len(record["scores"])) == (0.5, 4)
    assert {"arm": "base", "state": "finished"}.items() <= states[0].items()
    assert any(path.name == "own_task.json" for path in copied)


@needs_harness
def test_a_merged_model_must_have_been_exported(finished) -> None:
    run = choose_run(runs=finished, recipe="small", arm="sft")

    with pytest.raises(RecordError, match="has no merged export; make it first: study export"):
        benchmark([run], How(group=DAYS), forms=["merged"], say=lambda _: None)


def test_without_the_harness_the_way_to_get_it_is_said(finished, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'orpo-study\[benchmarks\]'"):
        benchmark([], How(group=DAYS), forms=["adapter"], say=lambda _: None)


def test_groups_follow_the_model_and_unknown_ones_are_refused() -> None:
    assert group_of(None, tasks=(), model="toy:llama", chat=False).name == "embedded"
    assert group_of(None, tasks=(), model="meta-llama/Llama-3.2-1B", chat=False).name == "quick"
    assert group_of(None, tasks=("piqa",), model="toy:llama", chat=False).tasks == ("piqa",)
    with pytest.raises(ConfigError, match="did you mean 'article-c'"):
        group_of("article-d", tasks=(), model="toy:llama", chat=False)


def test_guessing_scores_the_share_of_right_answers() -> None:
    assert chance_of({}, 4) == 0.25
    assert chance_of({"mc2_targets": {"labels": [1, 1, 0, 0, 0]}}, 5) == 0.4


def test_git_is_not_asked_while_the_harness_works(tmp_path, monkeypatch, capfd):
    from lm_eval import evaluator

    monkeypatch.chdir(tmp_path)  # outside any repository Git complains, past `sys.stderr`
    asked = evaluator.get_git_commit_hash
    with scoring._quiet():
        evaluator.get_git_commit_hash()

    assert capfd.readouterr().err == ""
    assert evaluator.get_git_commit_hash is asked
