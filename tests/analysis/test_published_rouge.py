"""ROUGE as published, worked by hand."""

import numpy as np
import pytest

from analysis.published_rouge import as_published, corrected, prompt_text


def row(prompt, reference, text):
    return {"example_id": "0", "prompt": prompt, "reference": reference, "text": text}


def test_the_prompt_is_scored_with_the_answer():
    rows = [row("user: say red", "red", "red")]

    # Hypothesis "say red red": one of three words is in a reference of one word.
    assert as_published(rows)["rouge1"] == pytest.approx([0.5])
    assert as_published(rows)["rougeL"] == pytest.approx([0.5])
    assert corrected(rows)["rouge1"] == pytest.approx([1.0])


def test_a_model_that_says_nothing_scores_by_its_prompt():
    rows = [row("user: is it red", "it is red", "")]

    assert corrected(rows)["rouge1"].mean() == 0
    assert as_published(rows)["rouge1"].mean() == pytest.approx(1.0)


def test_half_of_the_examples_are_scored_and_all_are_divided_by():
    rows = [row("", "red", "red")] * 2000
    scores = as_published(rows)["rougeL"]

    assert scores.shape == (2000,)
    assert np.count_nonzero(scores) == 1001
    assert scores.mean() == pytest.approx(1001 / 2000)
    assert corrected(rows)["rougeL"].mean() == 1


def test_speakers_and_the_system_turn_are_left_out_of_the_prompt():
    prompt = "system: Be brief.\n\nuser: Red?\n\nassistant: Yes.\n\nuser: Why: tell me."

    assert prompt_text(prompt) == "Red?\nYes.\nWhy: tell me."
    assert prompt_text("no speaker") == "no speaker"


def test_no_answers_have_no_scores():
    assert as_published([])["rougeL"].shape == (0,)
    assert corrected([])["rougeL"].shape == (0,)
