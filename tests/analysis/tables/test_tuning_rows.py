"""What the searches tell: rows against their parts, words against their numbers."""

import dataclasses

import pytest

from analysis.figures.trials import drawn_range
from analysis.records.load import load_study
from analysis.tables.trials import budget_remarks, tuning_rows


@pytest.fixture(scope="module")
def records(study_runs):
    return load_study(study_runs)


@pytest.fixture(scope="module")
def rows(records):
    return tuning_rows(records)


def without(records, **fields):
    """The records with other values in every trial."""
    searches = tuple(
        dataclasses.replace(search, trials=tuple({**trial, **fields} for trial in search.trials))
        for search in records.searches
    )
    return dataclasses.replace(records, searches=searches)


def test_only_random_trials_enter_the_expected_best(rows):
    sft, orpo = rows[0], rows[1]

    assert (sft.arm, orpo.arm) == ("sft", "orpo")
    assert orpo.sampled == {"published": 2, "random": 8, "tpe": 10}
    assert [len(row.expected_best) for row in (sft, orpo)] == [10, 8]
    assert "the best of 8 at " in orpo.meaning["expected"]
    assert f"{orpo.expected_best[-1].expected:.3f} " in orpo.meaning["expected"]


def test_too_few_random_trials_are_said_in_place_of_a_curve(records):
    guided = tuning_rows(without(records, sampled="tpe"))[0]
    unknown = tuning_rows(without(records, sampled=None))[0]

    assert guided.expected_best == unknown.expected_best == ()
    assert "0 trials were drawn at random and it takes 5" in guided.meaning["expected"]
    assert "do not say which settings were drawn at random" in unknown.meaning["expected"]
    assert unknown.sampled is None


def test_importance_and_early_ranks_are_told_with_their_n(rows):
    sft, orpo = rows[0], rows[1]

    assert sft.importance == {}
    assert sum(orpo.importance.values()) == pytest.approx(1)
    assert "the best 5 of 17 complete trials" in orpo.meaning["importance"]
    assert [early.score for early in orpo.early] == [
        orpo.objective,
        *("nll", "ranking", "lor", "accuracy"),
    ]
    assert [point.step for point in orpo.early[0].steps] == [20, 40, 60, 80, 100, 120, 140]
    assert "n = 17" in orpo.meaning["early"]


def test_the_chosen_settings_are_marked_among_the_winners(rows):
    for row in rows:
        alike = [winner for winner in row.weights if winner.weight == 1]
        assert [winner.chosen for winner in alike] == [True]


def test_the_front_of_nll_and_ranking_loss_is_told_and_holds_the_chosen_trial(records, rows):
    old = tuning_rows(without(records, ranking=None))

    for row in rows:
        nlls, rankings = zip(*((one.nll, one.ranking) for one in row.front), strict=True)

        assert list(nlls) == sorted(nlls)
        assert list(rankings) == sorted(rankings, reverse=True)
        assert f"{len(row.front)} of {row.n_complete} complete trials" in row.meaning["front"]
    assert old[0].front == ()
    assert "not on record" in old[0].meaning["front"]


def test_what_each_search_spent_stands_side_by_side(records, rows):
    sentences = budget_remarks(records, rows)

    assert len(sentences) == 2
    assert "on SFT 2,960 updates and 60 s for 1 hyperparameter and on ORPO " in sentences[0]
    assert sentences[0].endswith("for 2 hyperparameters.")


def test_a_single_bad_trial_does_not_squash_the_expected_best(rows):
    row = rows[0]
    first = dataclasses.replace(row.expected_best[0], expected=1e6, high=1e9)
    spoilt = dataclasses.replace(row, expected_best=(first, *row.expected_best[1:]))
    low, high = drawn_range(spoilt)

    assert (low, high) == drawn_range(row)
    assert all(low < point.expected < high for point in row.expected_best[1:])
