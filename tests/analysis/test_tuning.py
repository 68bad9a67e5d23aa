"""What a search showed, from trials worked by hand."""

import pytest

from analysis import tuning


def trial(number, value, *, state="complete", nll=1.0, accuracy=0.5, **more):
    settings = {"learning_rate": 1e-3}
    return {
        "number": number, "value": value, "state": state, "settings": settings, "nll": nll,
        "accuracy": accuracy, "published": None, **more,
    }  # fmt: skip


TRIALS = [
    trial(0, None, state="diverged"),
    trial(1, 3.0),
    trial(2, 1.0, state="pruned"),
    trial(3, 2.0),
    trial(4, 2.5),
]


def test_best_so_far_begins_at_the_first_complete_trial_and_ignores_pruned_ones():
    assert tuning.best_so_far(TRIALS, direction="minimize") == [
        (1, 3.0), (2, 3.0), (3, 2.0), (4, 2.0),
    ]  # fmt: skip


def test_best_so_far_follows_the_direction():
    assert tuning.best_so_far(TRIALS, direction="maximize")[-1] == (4, 3.0)


def test_states_are_counted():
    assert tuning.count_states(TRIALS) == {"complete": 3, "pruned": 1, "diverged": 1}


def test_the_front_holds_what_nothing_beats_in_both():
    trials = [
        trial(0, 1, nll=1.0, accuracy=0.6),
        trial(1, 1, nll=1.2, accuracy=0.9),
        trial(2, 1, nll=1.1, accuracy=0.6),  # beaten by 0
        trial(3, 1, nll=1.3, accuracy=0.8),  # beaten by 1
        trial(4, 1, nll=0.9, accuracy=0.95, state="pruned"),
        trial(5, 1, nll=1.0, accuracy=0.6),  # as good as 0, later
    ]

    assert [row["number"] for row in tuning.trade_off_front(trials)] == [0, 1]


@pytest.mark.parametrize(
    ("rate", "edges"), [(1e-4, True), (1.2e-4, True), (1e-3, False), (9e-3, True)]
)
def test_a_best_value_near_a_bound_lies_at_the_edge(rate, edges):
    found = tuning.at_edge({"learning_rate": rate}, {"learning_rate": (1e-4, 1e-2)})

    assert found == (("learning_rate",) if edges else ())


def test_published_settings_are_listed_with_what_became_of_them():
    trials = [trial(0, 2.0, published="somebody"), trial(1, 1.0)]

    assert tuning.published_tried(trials) == (
        {
            "source": "somebody", "settings": {"learning_rate": 1e-3}, "value": 2.0,
            "state": "complete",
        },
    )  # fmt: skip


def test_unequal_budgets_are_said():
    assert tuning.budget_difference({"sft": TRIALS, "orpo": TRIALS}) is None
    assert tuning.budget_difference({"sft": TRIALS, "orpo": TRIALS[:2]}) == "sft 5, orpo 2"
