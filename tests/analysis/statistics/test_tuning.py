"""What a search showed, from trials worked by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.statistics import trials as tuning


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
            "state": "complete", "repeated": None, "n_repeated": 0,
        },
    )  # fmt: skip


def test_unequal_budgets_are_said():
    assert tuning.budget_difference({"sft": TRIALS, "orpo": TRIALS}) is None
    assert tuning.budget_difference({"sft": TRIALS, "orpo": TRIALS[:2]}) == "sft 5, orpo 2"


def test_random_values_leave_out_published_and_guided_trials_and_fill_in_the_worst():
    trials = [
        trial(0, 9.0, sampled="published"),
        trial(1, 3.0, sampled="random"),
        trial(2, 5.0, state="pruned", sampled="random"),
        trial(3, None, state="diverged", sampled="random"),
        trial(4, 1.0, sampled="tpe"),
        trial(5, 2.0, sampled="random"),
    ]

    assert tuning.random_values(trials, direction="minimize") == [3.0, 5.0, 5.0, 2.0]
    assert tuning.random_values(trials, direction="maximize") == [3.0, 2.0, 2.0, 2.0]
    assert tuning.random_values(TRIALS, direction="minimize") is None


def test_the_expected_best_is_the_mean_over_all_subsets():
    values = [2.0, 3.5, 1.0, 8.0, 4.0, 6.0]
    curve = tuning.expected_best(values, direction="minimize", seed=0)
    mirrored = tuning.expected_best([-v for v in values], direction="maximize", seed=0)

    for point, other in zip(curve, mirrored, strict=True):
        subsets = list(itertools.combinations(values, point.n))
        assert point.expected == pytest.approx(np.mean([min(subset) for subset in subsets]))
        assert other.expected == pytest.approx(-point.expected)
    assert [point.n for point in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1].expected == 1.0
    assert curve[-1].low is None  # six trials say nothing on how good a seventh may be
    assert curve[-1].high < 8.0


def test_too_few_random_trials_have_no_expected_best():
    assert tuning.expected_best([1.0, 2.0, 3.0, 4.0], direction="minimize", seed=0) == ()


def test_the_band_holds_the_median_best_as_often_as_it_says(monkeypatch):
    from opda import nonparametric

    # How wide a band must be depends on the number of trials alone, and takes long.
    widths = nonparametric._ld_band_weights(
        10, tuning.BAND, kind="equal_tailed", generator=np.random.default_rng(0), n_jobs=1
    )
    monkeypatch.setattr(nonparametric, "_ld_band_weights", lambda *_, **__: widths)
    ns = np.arange(1, 11)
    truth = scipy_stats.norm.ppf(1 - 0.5 ** (1 / ns))  # median of the least of n
    held = 0
    for seed in range(1000):
        values = list(np.random.default_rng(seed).normal(size=10))
        curve = tuning.expected_best(values, direction="minimize", seed=seed)
        held += all(
            (point.low is None or point.low <= true) and (point.high is None or true <= point.high)
            for point, true in zip(curve, truth, strict=True)
        )

    # Asked at ten places alone, it holds at least as often as everywhere.
    assert tuning.BAND - 3.5 * math.sqrt(0.16 / 1000) < held / 1000 < 0.98


def search_of(n, value):
    generator = np.random.default_rng(3)
    rows = []
    for number in range(n):
        rate, beta = np.exp(generator.uniform(np.log(1e-4), np.log(1e-2), 2))
        rows.append(
            trial(number, value(rate, beta)) | {"settings": {"learning_rate": rate, "beta": beta}}
        )
    return rows


def test_importance_finds_the_hyperparameter_that_decides():
    space = {"learning_rate": (1e-4, 1e-2), "beta": (1e-4, 1e-2)}
    rows = search_of(60, lambda rate, beta: abs(math.log(rate / 1e-3)))
    mirrored = [row | {"value": -row["value"]} for row in rows]
    found = tuning.importance(rows, space, direction="minimize")

    assert found["learning_rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert tuning.importance(mirrored, space, direction="maximize") == pytest.approx(found)


def test_importance_needs_two_hyperparameters_and_ten_trials():
    space = {"learning_rate": (1e-4, 1e-2), "beta": (1e-4, 1e-2)}
    rows = search_of(9, lambda rate, beta: rate)

    assert tuning.importance(rows, space, direction="minimize") == {}
    assert tuning.importance(rows * 2, {"beta": (1e-4, 1e-2)}, direction="minimize") == {}


def test_another_weight_may_have_another_winner():
    trials = [
        trial(0, 0, nll=1.0, lor=0.9),
        trial(1, 0, nll=1.3, lor=0.5),
        trial(2, 0, nll=0.1, lor=0.1, state="pruned"),
    ]
    found = tuning.winners_by_weight(trials, weights=(0.0, 0.5, 1.0))

    assert [(weight, row["number"]) for weight, row in found] == [(0.0, 0), (0.5, 0), (1.0, 1)]
    assert tuning.winners_by_weight(trials[2:]) == []


def test_the_weight_may_be_that_of_the_ranking_loss():
    trials = [trial(0, 0, nll=1.0, ranking=0.9), trial(1, 0, nll=1.3, ranking=0.5)]
    found = tuning.winners_by_weight(trials, "ranking", weights=(0.0, 1.0))

    assert [row["number"] for _, row in found] == [0, 1]


def test_no_trial_on_the_front_is_beaten_in_both_losses():
    scored = [(1.0, 0.5), (1.2, 0.4), (1.3, 0.45), (1.0, 0.6), (1.4, 0.3), (1.2, 0.4)]
    trials = [trial(n, 0, nll=nll, ranking=loss) for n, (nll, loss) in enumerate(scored)]

    assert [row["number"] for row in tuning.pareto_front(trials)] == [0, 1, 4]
    assert tuning.pareto_front([row | {"ranking": None} for row in trials]) == []


def followed(number, *values, state="complete"):
    rows = [
        {"step": 10 * (place + 1), "nll": value, "lor": 1.0} for place, value in enumerate(values)
    ]
    return trial(number, values[-1], state=state) | {"intermediate": rows}


# At step 10 the ranks are turned round, at step 20 two neighbours are swapped.
FOLLOWED = [
    followed(n, 12 - n, {4: 5, 5: 4}.get(n, n), n) for n in range(12)
] + [followed(12, 0.5, state="pruned")]  # fmt: skip


def test_early_ranks_are_correlated_with_the_final_ones():
    found = tuning.early_correlations(FOLLOWED, "nll+lor")
    swapped = scipy_stats.spearmanr([0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11], range(12)).statistic

    assert [early.step for early in found] == [10, 20]
    assert found[0].correlation == pytest.approx(-1)
    assert found[1].correlation == pytest.approx(swapped)
    assert -1 < found[0].low < found[0].high < -0.9
    assert tuning.early_correlations(FOLLOWED[:9], "nll") == ()
    assert tuning.early_correlations(FOLLOWED, "margin") == ()
    assert tuning.early_correlations(FOLLOWED, "lor") == ()  # the same in every trial


def test_the_leader_is_known_from_the_step_after_which_it_stays():
    assert tuning.leader_known_from(FOLLOWED, "nll", direction="minimize") == 20
    assert tuning.leader_known_from(FOLLOWED[:4], "nll", direction="maximize") == 20
    assert tuning.leader_known_from([], "nll", direction="minimize") is None


def test_the_rank_interval_covers_as_it_says():
    generator, n, rho = np.random.default_rng(5), 20, 0.7
    true = 6 / math.pi * math.asin(rho / 2)  # Spearman's of the bivariate normal
    held = 0
    for _ in range(2000):
        x, y = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
        low, high = tuning.rank_interval(scipy_stats.spearmanr(x, y).statistic, n)
        held += low <= true <= high

    assert 0.93 < held / 2000 < 0.975


def test_published_settings_carry_their_repetitions():
    tried = trial(0, 2.0, published="somebody")
    repeats = [
        {"settings": {"learning_rate": 1e-3}, "status": "ok", "value": value} for value in (2, 3)
    ] + [
        {"settings": {"learning_rate": 1e-3}, "status": "diverged", "value": None},
        {"settings": {"learning_rate": 2e-3}, "status": "ok", "value": 9},
    ]
    (found,) = tuning.published_tried([tried], repeats)

    assert (found["repeated"], found["n_repeated"]) == (2.5, 2)


def test_updates_are_counted_to_the_last_validation():
    assert tuning.updates(FOLLOWED) == 12 * 30 + 10
