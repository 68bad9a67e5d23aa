"""Correlations and winners of candidates, on trials worked out by hand."""

import pytest

from analysis.statistics.objectives import correlation, groups, report, value, winner


def trial(n, *, nll, ranking, accuracy, exact, status="ok", arm="sft"):
    scores = {"nll": nll, "ranking": ranking, "lor": ranking, "accuracy": accuracy, "margin": 1.0}
    early = {**scores, "nll": -nll}
    return {
        "recipe": "r",
        "arm": arm,
        "status": status,
        "steps": [{"step": s, **row} for s, row in enumerate((scores, early, scores))],
        "rougeL": n / 10,
        "test": {"exact_match": exact, "accuracy": accuracy},
    }


TRIALS = [
    trial(n, nll=n, ranking=0.1 * (3 - n) ** 2, accuracy=0.5 + n / 10, exact=1 - n / 10)
    for n in range(4)
]


@pytest.mark.parametrize(
    ("candidate", "exact", "accuracy"),
    [("nll", 1, -1), ("ranking", -1, 1), ("accuracy", -1, 1), ("rougeL", -1, 1), ("margin",) * 3],
)
def test_a_good_objective_correlates_positively(candidate, exact, accuracy):
    found = [correlation(TRIALS, candidate, score) for score in ("exact_match", "accuracy")]

    if candidate == "margin":  # the same in every trial
        assert found == [None, None]
    else:
        assert found == pytest.approx([exact, accuracy])


def test_early_values_are_correlated_with_final_ones():
    assert correlation(TRIALS, "nll", "final", step=1) == pytest.approx(-1)
    assert correlation(TRIALS, "nll", "final", step=0) == pytest.approx(1)
    assert correlation(TRIALS, "rougeL", "final", step=1) is None


def test_a_sum_is_of_its_parts_and_the_winner_has_the_least():
    assert value(TRIALS[1], "nll+ranking") == pytest.approx(-1.4)
    assert winner(TRIALS, "nll+ranking") is TRIALS[0]
    assert winner(TRIALS, "ranking") is TRIALS[3]


def test_diverged_trials_are_counted_and_left_out():
    lost = trial(9, nll=9, ranking=9, accuracy=0, exact=0, status="diverged")
    lines = list(report([*TRIALS, lost]))

    assert {key: len(group) for key, group in groups([*TRIALS, lost]).items()} == {
        ("r", "all"): 4,
        ("r", "sft"): 4,
    }
    assert lines[0] == "5 trials, 4 complete, 1 diverged."
    assert "| nll | +1.00 / -1.00 | +1.00 / -1.00 | +1.00 / -1.00 |" in lines
