"""ROUGE as published, worked by hand."""

import numpy as np
import pytest

from analysis.records.load import load_study
from analysis.records.published_rouge import as_published, prompt_text, published_scores
from analysis.rows import RougeRow
from analysis.tables.rouge import rouge_remarks, rouge_rows


def row(prompt, reference, text):
    return {"example_id": "0", "prompt": prompt, "reference": reference, "text": text}


def test_the_prompt_is_scored_with_the_answer():
    rows = [row("user: say red", "red", "red")]

    # Hypothesis "say red red": one of three words is in a reference of one word.
    assert published_scores(rows)["rouge1"] == pytest.approx([0.5])
    assert as_published(rows) == pytest.approx([0.5])


def test_a_model_that_says_nothing_scores_by_its_prompt():
    rows = [row("user: is it red", "it is red", "")]

    assert published_scores(rows)["rouge1"].mean() == pytest.approx(1.0)


def test_half_of_the_examples_are_scored_and_all_are_divided_by():
    rows = [row("", "red", "red")] * 2000
    scores = published_scores(rows)["rougeL"]

    assert scores.shape == (2000,)
    assert np.count_nonzero(scores) == 1001
    assert scores.mean() == pytest.approx(1001 / 2000)


def test_speakers_and_the_system_turn_are_left_out_of_the_prompt():
    prompt = "system: Be brief.\n\nuser: Red?\n\nassistant: Yes.\n\nuser: Why: tell me."

    assert prompt_text(prompt) == "Red?\nYes.\nWhy: tell me."
    assert prompt_text("no speaker") == "no speaker"


def test_no_answers_have_no_scores():
    assert published_scores([])["rougeL"].shape == (0,)


def rouge_row(arm, ours, theirs):
    return RougeRow(
        recipe="r", arm=arm, n_seeds=3, n_answers=40,
        corrected={"rouge1": 0.5, "rouge2": 0.5, "rougeL": ours},
        published={"rouge1": 0.5, "rouge2": 0.5, "rougeL": theirs},
    )  # fmt: skip


def test_the_remark_says_whether_the_order_of_the_arms_depends_on_the_scoring():
    base, sft, orpo = (
        rouge_row("base", 0.1, 0.2), rouge_row("sft", 0.5, 0.3), rouge_row("orpo", 0.4, 0.3),
    )  # fmt: skip
    alike = rouge_remarks((base, rouge_row("sft", 0.5, 0.4), orpo))
    (words,) = rouge_remarks((base, sft, orpo))
    assert words.startswith("r: corrected ROUGE-L ranks the arms SFT > ORPO > Base; ")
    assert words.endswith(" in another order: SFT = ORPO > Base, at 0.80 times the mean.")
    assert "puts them in the same order, at 0.90 times" in alike[0]


def test_rows_are_means_over_answers_and_seeds(study_runs):
    records = load_study(study_runs)
    rows = rouge_rows(records)
    row = next(row for row in rows if (row.recipe, row.arm) == ("tiny-llama", "sft"))
    runs = records.ok("tiny-llama", "sft")

    assert len(rows) == 6
    assert (row.n_seeds, row.n_answers) == (3, 40)
    assert row.published["rougeL"] == pytest.approx(
        np.mean([published_scores(run.generations)["rougeL"] for run in runs])
    )
    assert row.corrected["rouge1"] == pytest.approx(
        np.mean([run.examples["rouge1"].dropna().mean() for run in runs])
    )
