"""Any run's model answers prompts, alone or beside others, as its records say it did."""

import json

import pytest
from click.testing import CliRunner

from study.cli import main
from study.data.pairs import Message
from study.errors import DataError
from study.records.files import read_jsonl
from study.records.layout import GENERATIONS
from study.release.answers import Answerer, chat, read_prompts
from study.release.chosen import all_runs, choose_arms


@pytest.fixture(scope="module")
def answerer(finished):
    return Answerer(choose_arms([], runs=finished, recipe="small", seed=None), device="cpu")


def prompts_of(finished, arm, seed):
    path = finished / "small" / "compare" / arm / f"seed-{seed}" / GENERATIONS
    return list(read_jsonl(path))


def test_every_arm_answers_as_its_own_record_says(answerer, finished) -> None:
    for arm, run in answerer.runs.items():
        kept = prompts_of(finished, arm, run.seed)
        asked = [[Message("user", row["prompt"].removeprefix("user: "))] for row in kept]

        assert answerer.answer(arm, asked) == [row["text"] for row in kept]
    assert list(answerer.runs) == ["base", "sft", "orpo"]


def test_a_file_of_prompts_is_answered_by_the_command(finished, tmp_path) -> None:
    (tmp_path / "asked.txt").write_text("What is red?\n\nWhat is blue?\n")
    out = tmp_path / "answers.jsonl"
    command = ["generate", "--recipe", "small", "--arm", "sft", "--arm", "orpo"]
    options = ["--prompts", str(tmp_path / "asked.txt"), "--runs", str(finished)]
    done = CliRunner().invoke(main, [*command, *options, "--out", str(out), "--tokens", "3"])
    rows = list(read_jsonl(out))

    assert done.exit_code == 0, done.output
    assert [row["prompt"][0]["content"] for row in rows] == ["What is red?", "What is blue?"]
    assert all(list(row["answers"]) == ["sft", "orpo"] for row in rows)


class Echo:
    """Stands in for models: answers with the number of turns that it was shown."""

    def __init__(self):
        self.runs = dict.fromkeys(("sft", "orpo"))

    def answer(self, arm, prompts):
        return [f"{len(turns)} turns, the last {turns[-1].content!r}" for turns in prompts]


def test_a_chat_goes_on_from_its_own_answers_and_begins_again() -> None:
    said = []
    chat(Echo(), iter(["hello", "", "more", "/new", "again", "/quit", "unheard"]), said.append)

    assert said == [
        "sft: 1 turns, the last 'hello'",
        "orpo: 1 turns, the last 'hello'",
        "sft: 3 turns, the last 'more'",
        "orpo: 3 turns, the last 'more'",
        "a new conversation",
        "sft: 1 turns, the last 'again'",
        "orpo: 1 turns, the last 'again'",
    ]


def test_prompts_are_read_as_texts_and_as_conversations(tmp_path) -> None:
    rows = [
        {"prompt": "One?"},
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "?"},
            ]
        },
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))

    assert read_prompts(path) == [
        (Message("user", "One?"),),
        (Message("system", "Be short."), Message("user", "?")),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is not JSON"),
        ('{"question": "?"}', "line 1 has no prompt"),
        ('{"messages": [{"role": "robot", "content": "?"}]}', "line 1 has no prompt"),
        ("\n", "holds no prompt"),
    ],
)
def test_a_file_without_prompts_is_refused_with_its_line(tmp_path, text, message) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(text)

    with pytest.raises(DataError, match=message):
        read_prompts(path)


@pytest.mark.parametrize("arm", ["sft-matched", "orpo-from-sft", "dpo"])
def test_runs_of_arms_with_a_start_or_a_budget_of_anothers_can_be_used(root, arm):
    runs, recipe = root / "runs/published", "tiny-llama-methods"
    (run, *_) = all_runs([arm], runs=runs, recipe=recipe)

    assert run.recipe.arms[arm] == run.record["settings"]
    assert set(run.recipe.arms) == {arm, *(["sft"] if "start" in run.record else [])}
