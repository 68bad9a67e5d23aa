"""Reward models as judges: trained on training pairs, refused where they are none, kept."""

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from study.cli import main, status
from study.data.pairs import Message
from study.errors import ConfigError, DataError, ModelError
from study.records.layout import judge_path, judged_path
from study.records.publish import publish
from study.records.released import JudgedAnswers, JudgeRecord
from study.records.schema import read_as
from study.release.chosen import all_runs
from study.release.judge.judging import judge_runs
from study.release.judge.questions import Question, answers_of, held_out, splits_of
from study.release.judge.reward import NO_TEMPLATE, TOO_LONG, Wanted, load_reward
from study.release.judge.training import Training, train_judge

ASKED = Message("user", "Which day comes after Monday?")


@pytest.fixture(scope="session")
def judge_folder(small_recipe, tmp_path_factory):
    """A reward model that was trained on the training pairs alone."""
    folder = tmp_path_factory.mktemp("judges") / "own"
    said = []
    train_judge(small_recipe, folder, Training(epochs=20, rate=3e-3), say=said.append)
    assert said
    return folder


@pytest.fixture
def judge(judge_folder):
    return load_reward(Wanted(name=str(judge_folder)))


def question(first, second, *prompt):
    return Question(
        example_id="x", cluster="c", prompt=prompt or (ASKED,), first=first, second=second
    )


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def reheaded(model_folder, target, n_labels):
    """Save a classifier with so many labels."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(
        model_folder, num_labels=n_labels
    ).save_pretrained(target)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(target)
    return str(target)


def test_a_judge_trained_on_training_pairs_is_right_more_often_than_chance(judge, toy_pairs):
    opinions = judge.compare(held_out(toy_pairs, 400))
    accuracy = sum(one.won for one in opinions) / len(opinions)

    assert accuracy > 0.6  # half of the rejected answers are wordy, which little data teach
    assert judge.trained_on is not None


def test_the_higher_reward_wins_and_equal_answers_tie(judge):
    (won,) = judge.compare([question("Tuesday.", "It is hard to say, but who can be sure?")])
    (lost,) = judge.compare([question("It is hard to say, but who can be sure?", "Tuesday.")])
    (tied,) = judge.compare([question("Tuesday.", "Tuesday.")])

    assert (won.won, lost.won, tied.won) == (float(won.parts[0] > won.parts[1]), 1 - won.won, 0.5)
    assert won.parts == lost.parts[::-1]


def test_a_reward_does_not_depend_on_the_batch(judge, judge_folder, toy_pairs):
    questions = held_out(toy_pairs, 12)
    alone = load_reward(Wanted(name=str(judge_folder), batch=1))
    together = [value for one in judge.compare(questions) for value in one.parts]

    assert judge.batch == 16
    assert together == pytest.approx(
        [value for one in alone.compare(questions) for value in one.parts], abs=1e-4
    )


def test_where_padding_would_change_a_reward_answers_are_scored_one_by_one(judge, toy_pairs):
    judge.model.config.pad_token_id = 5  # of a letter: the head reads another place in a batch

    judge.compare(held_out(toy_pairs, 12))

    assert judge.batch == 1


def test_what_cannot_be_scored_has_no_verdict_and_a_reason(judge):
    long = question("word " * 5000, "Tuesday.")
    refused = question("Tuesday.", "Monday.", Message("system", "x"), ASKED)
    judge.tokenizer.chat_template = (
        "{{ raise_exception('no system turn') if messages[0].role == 'system' else '' }}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    opinions = judge.compare([long, refused])

    assert [one.won for one in opinions] == [None, None]
    assert [one.missing for one in opinions] == [TOO_LONG, NO_TEMPLATE]


def test_without_a_chat_template_prompt_and_answer_are_a_pair_of_texts(judge):
    judge.tokenizer.chat_template = None
    (said,) = judge.compare([question("Tuesday.", "Monday.")])
    ids = judge.tokenizer(ASKED.content, "Tuesday.", return_tensors="pt")
    with torch.inference_mode():
        expected = float(judge.model(**ids).logits[0, 0])

    assert said.parts[0] == pytest.approx(expected, abs=1e-4)


def test_a_language_model_is_no_judge(model_folder):
    with pytest.raises(ModelError, match=r"has no trained head: score\.weight"):
        load_reward(Wanted(name=str(model_folder)))


def test_of_two_labels_the_better_one_must_be_named(model_folder, tmp_path):
    name = reheaded(model_folder, tmp_path / "two", 2)
    with pytest.raises(ConfigError, match="--label LABEL_0 or LABEL_1"):
        load_reward(Wanted(name=name))

    first, second = (load_reward(Wanted(name=name, label=label)) for label in ("LABEL_0", "1"))
    asked = question("Tuesday.", "Monday.")
    a, b = (judge.compare([asked])[0] for judge in (first, second))

    assert a.parts == pytest.approx([-value for value in b.parts], abs=1e-5)
    assert first.settings["label"] == "LABEL_0"


@pytest.mark.parametrize(
    ("n_labels", "label", "error", "message"),
    [
        (5, "", ModelError, r"has 5 labels \(LABEL_0"),
        (1, "LABEL_0", ConfigError, "leave out --label"),
        (2, "LABEL_7", ConfigError, "did you mean 'LABEL_1'|did you mean 'LABEL_0'"),
    ],
)
def test_labels_that_are_no_reward_are_refused(
    model_folder, tmp_path, n_labels, label, error, message
):
    name = reheaded(model_folder, tmp_path / "judge", n_labels)

    with pytest.raises(error, match=message):
        load_reward(Wanted(name=name, label=label))


def test_a_judge_without_a_tokenizer_or_with_anothers_is_refused(judge_folder, tmp_path):
    bare = copied(judge_folder, tmp_path / "bare")
    for path in bare.glob("*token*"):
        path.unlink()
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    larger = copied(judge_folder, tmp_path / "larger")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(larger)
    tokenizer.add_tokens([f"new{n}" for n in range(50)])
    tokenizer.save_pretrained(larger)

    with pytest.raises(ModelError, match=r"no tokenizer that can be read|is empty"):
        load_reward(Wanted(name=str(bare)))
    with pytest.raises(ModelError, match="do not belong together"):
        load_reward(Wanted(name=str(larger)))


def test_a_folder_that_exists_is_not_trained_over(small_recipe, judge_folder):
    with pytest.raises(ModelError, match="leave out --train"):
        train_judge(small_recipe, judge_folder, Training(), say=lambda _: None)


def test_runs_are_judged_once_and_status_publish_and_the_command_know_it(
    finished, judge_folder, judge, tmp_path, monkeypatch
):
    command = ["judge", "--recipe", "small", "--reward", str(judge_folder), "--runs", str(finished)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    runs = all_runs([], runs=finished, recipe="small")
    record = read_as(judge_path(finished, "small", judge.slug), JudgeRecord)
    found = read_as(judged_path(runs[-1].folder.path, judge.slug), JudgedAnswers)
    again = load_reward(Wanted(name=str(judge_folder)))
    monkeypatch.setattr(again, "_score", lambda texts: pytest.fail("asked again"))
    kept = judge_runs(runs, again, limit=None, n_pairs=128, confirm=pytest.fail, say=lambda _: None)
    states = [
        row
        for row in status.status(finished)
        if row["part"] == "judge" and row["detail"].startswith(judge.slug)
    ]
    copies = {path.name for path in publish(finished, tmp_path / "published")}

    assert done.exit_code == 0
    assert "prefers the chosen answer in" in done.output
    assert record["trained_on"] == "training pairs"
    assert record["identity"].startswith("sha256:")
    assert len(record["held_out"]["wins"]) == 16
    assert len(found["verdicts"]["items"]) == len(found["lengths"]) == 6
    assert kept.runs[-1] == found
    assert len(states) == len(runs) == 5
    assert {row["state"] for row in states} == {"finished"}
    assert f"{judge.slug}.json" in copies
    assert all(not run.folder.faults() for run in runs)


def test_verdicts_of_other_answers_or_damaged_ones_are_made_again(finished, judge, tmp_path):
    (run,) = all_runs(["base"], runs=finished, recipe="small")
    scored = []
    own = judge._score
    judge._score = lambda texts: scored.append(len(texts)) or own(texts)

    def again(limit=None):
        return judge_runs(
            [run], judge, limit=limit, n_pairs=4, confirm=pytest.fail, say=lambda _: None
        )

    again()
    n_first = len(scored)
    again()
    path = judged_path(run.folder.path, judge.slug)
    whole = path.read_text()
    path.write_text(whole.replace('"arm": "base"', '"arm": "sft"'))
    mended = again()

    assert n_first > 0
    assert len(scored) == n_first + 1
    assert mended.runs[0]["arm"] == "base"
    assert len(again(limit=2).runs[0]["verdicts"]["wins"]) == 2


def test_a_judge_of_other_pairs_is_named_as_such(finished, judge):
    judge.trained_on = "of another recipe"
    said = []
    runs = all_runs(["base"], runs=finished, recipe="small")
    judge.slug = "stranger"

    found = judge_runs(runs, judge, limit=2, n_pairs=2, confirm=pytest.fail, say=said.append)

    assert found.judge["trained_on"] == "other pairs"
    assert any("trained on other pairs" in line for line in said)
    judge_path(finished, "small", "stranger").unlink()
    judged_path(runs[0].folder.path, "stranger").unlink()


def test_answers_to_prompts_that_the_data_lack_are_refused(finished):
    (run,) = all_runs(["base"], runs=finished, recipe="small")
    pairs = splits_of(run.recipe).test

    assert len(answers_of(run, pairs, 3)) == 3
    with pytest.raises(DataError, match="restore the data"):
        answers_of(run, pairs[:1], None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name one judge"),
        (["--reward", "x", "--endpoint", "http://localhost"], "name one judge"),
        (["--endpoint", "http://localhost"], "belong together"),
        (["--endpoint", "http://localhost", "--model", "m", "--train"], "name its folder"),
    ],
)
def test_a_command_without_one_judge_is_refused(options, message):
    done = CliRunner().invoke(main, ["judge", "--recipe", "small", *options])

    assert done.exit_code == 2
    assert message in done.output
