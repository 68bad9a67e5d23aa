"""Scores of single pairs, against numbers worked by hand and a slow twin."""

import math

import pandas as pd
import pytest

from analysis.records.metrics import METRICS, example_scores, log_odds


def rows(*values):
    names = ("chosen_logp_sum", "chosen_tokens", "rejected_logp_sum", "rejected_tokens")
    return pd.DataFrame([dict(zip(names, value, strict=True)) for value in values])


def test_numbers_worked_by_hand():
    scores = example_scores(rows((-2.0, 4, -3.0, 3), (-6.0, 2, -2.0, 2)))

    assert list(scores["chosen_logps"]) == [-0.5, -3.0]
    assert list(scores["margin"]) == [0.5, -2.0]
    assert list(scores["accuracy"]) == [1.0, 0.0]
    assert scores["nll"].mean() == pytest.approx(8 / 6)  # not the mean of 0.5 and 3.0


def test_a_tie_counts_half():
    assert example_scores(rows((-2.0, 4, -1.0, 2)))["accuracy"][0] == 0.5


def test_log_odds_of_one_half_is_zero_and_certainty_is_finite():
    odds = log_odds(pd.Series([math.log(0.5), 0.0, -100.0]))

    assert odds[0] == pytest.approx(0.0)
    assert odds[1] == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert odds[2] == pytest.approx(-100.0)


def test_every_score_averages_to_its_slow_twin(builders):
    import numpy as np

    frame = builders["examples"](np.random.default_rng(0), "orpo")
    fast = example_scores(frame).mean()

    for name, value in builders["scores"](frame).items():
        if name not in ("ranking", "lor"):
            assert fast[name] == pytest.approx(value), name


def test_every_metric_is_described_in_one_sentence():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.meaning.endswith(".")
