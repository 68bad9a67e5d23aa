"""Win rates: their contrasts by hand, missing verdicts left out, and what a judge is worth."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import compare_clustered, holm
from analysis.statistics.length import length_controlled_wins
from analysis.statistics.wins import share_interval
from analysis.tables.judges import judge_rows, win_rows
from analysis.words.judges import judge_remarks

N = 60
ITEMS = [f"item{n}" for n in range(N)]
CLUSTERS = [f"c{n // 2}" for n in range(N)]
ARMS = {"base": (0.1, (0,)), "sft": (0.3, (1, 2, 3)), "orpo": (0.45, (1, 2, 3)),
        "dpo": (0.32, (1, 2, 3))}  # fmt: skip


def verdicts(wins, **changes):
    return {
        "items": ITEMS, "clusters": CLUSTERS, "wins": wins, "parts": [[None, None]] * len(wins),
        "missing": {}, "turned": 6,
    } | changes  # fmt: skip


def judged(arm, seed, rate):
    rng = np.random.default_rng([seed, int(100 * rate)])
    wins = rng.choice([0.0, 0.5, 1.0], N, p=[1 - rate - 0.1, 0.2, rate - 0.1]).tolist()
    lengths = rng.integers(5, 60, N).tolist()
    return {
        "recipe": "tiny", "arm": arm, "seed": seed, "judge": "j", "digest": "d",
        "verdicts": verdicts(wins), "lengths": lengths, "reference_lengths": [20] * N,
    }  # fmt: skip


@pytest.fixture
def found():
    return [judged(arm, seed, rate) for arm, (rate, seeds) in ARMS.items() for seed in seeds]


@pytest.fixture
def judge():
    right = [1.0] * 50 + [0.0] * 6 + [0.5] * 2 + [None] * 2
    return {
        "recipe": "tiny", "judge": "j", "kind": "endpoint", "name": "Big One", "identity": "at",
        "held_out": verdicts(right, missing={"nonsense": 2}),
    }  # fmt: skip


def records(judge, found, exact=None):
    def ok(recipe, arm):
        return tuple(
            SimpleNamespace(
                seed=one["seed"],
                examples=pd.DataFrame(
                    {
                        "example_id": ITEMS[::-1],
                        "exact_match": (exact or (lambda _: [float(n % 2) for n in range(N)]))(
                            one["verdicts"]["wins"]
                        )[::-1],
                    }
                ).astype({"exact_match": float}),
            )
            for one in found
            if one["arm"] == arm
        )

    return SimpleNamespace(recipes=("tiny",), judges=(judge,), judged=tuple(found), ok=ok)


def matrix(found, arm):
    return np.array([one["verdicts"]["wins"] for one in found if one["arm"] == arm])


def longer(found, arm):
    return np.array([one["lengths"] for one in found if one["arm"] == arm]) - 20.0


def test_raw_rates_come_first_and_are_compared_over_seeds_and_clustered_prompts(judge, found):
    rows = win_rows(records(judge, found))
    orpo = next(row for row in rows if row.arm == "orpo")
    by_hand = {
        arm: compare_clustered(
            matrix(found, "sft"), matrix(found, arm), paired=False, clusters=CLUSTERS
        )
        for arm in ("orpo", "dpo")
    }
    half = compare_clustered(
        np.full((3, N), 0.5), matrix(found, "orpo"), paired=True, clusters=CLUSTERS
    )
    tested = {row.arm: row.p_adjusted for row in rows if row.p_adjusted is not None}

    assert [(row.arm, row.controlled) for row in rows] == [
        (arm, controlled) for controlled in (False, True) for arm in ("base", "sft", "orpo", "dpo")
    ]
    assert orpo.rate == pytest.approx(matrix(found, "orpo").mean())
    assert (orpo.low, orpo.high) == pytest.approx([0.5 + bound for bound in half.interval()])
    assert orpo.difference == pytest.approx(by_hand["orpo"].estimate)
    assert (orpo.difference_low, orpo.difference_high) == pytest.approx(by_hand["orpo"].interval())
    assert sorted(tested) == ["dpo", "orpo"]
    assert [tested[a] for a in ("orpo", "dpo")] == pytest.approx(
        holm([by_hand["orpo"].p_value, by_hand["dpo"].p_value])
    )


def test_rates_at_equal_length_are_those_of_the_model_without_a_test(judge, found):
    rows = win_rows(records(judge, found))
    orpo = next(row for row in rows if row.arm == "orpo" and row.controlled)
    arms = {
        arm: length_controlled_wins(matrix(found, arm), longer(found, arm))
        for arm in ("sft", "orpo")
    }
    beside = compare_clustered(arms["sft"], arms["orpo"], paired=False, clusters=CLUSTERS)

    assert orpo.rate == pytest.approx(arms["orpo"].mean())
    assert (orpo.difference_low, orpo.difference_high) == pytest.approx(beside.interval())
    assert orpo.p_adjusted is None
    assert orpo.longer == pytest.approx(longer(found, "orpo").mean())


def test_the_bases_interval_is_over_prompts_alone_and_it_is_not_tested(judge, found):
    base = win_rows(records(judge, found))[0]
    pairs = matrix(found, "base")[0].reshape(-1, 2).mean(axis=1)
    reach = stats.t.ppf(0.975, len(pairs) - 1) * (pairs.var(ddof=1) / len(pairs)) ** 0.5

    assert (base.arm, base.p_adjusted) == ("base", None)
    assert base.high == pytest.approx(base.rate + reach)
    assert base.low == pytest.approx(max(0.0, base.rate - reach))
    assert base.difference_low < base.difference < base.difference_high


def test_a_prompt_without_a_verdict_in_one_run_is_left_out_of_all(judge, found):
    found[3]["verdicts"]["wins"][5] = None
    rows = win_rows(records(judge, found))
    kept = np.delete(matrix(found, "orpo").astype(float), 5, axis=1)

    assert {(row.n_items, row.n_missing) for row in rows} == {(N - 1, 1)}
    assert next(row for row in rows if row.arm == "orpo").rate == pytest.approx(kept.mean())


def test_runs_that_were_asked_about_fewer_prompts_take_no_part(judge, found):
    short = found[-1]
    short["verdicts"] = verdicts([1.0, 0.0], items=ITEMS[:2], clusters=CLUSTERS[:2])
    rows = win_rows(records(judge, found))

    assert {row.arm: row.n_seeds for row in rows} == {"base": 1, "sft": 3, "orpo": 3, "dpo": 2}
    assert win_rows(records(judge, [])) == ()
    assert judge_rows(records(judge, [])) == ()


def test_one_seed_gives_rates_without_intervals(judge, found):
    rows = win_rows(records(judge, [one for one in found if one["seed"] in (0, 1)]))
    orpo = next(row for row in rows if row.arm == "orpo")

    assert (orpo.low, orpo.difference_low, orpo.p_adjusted) == (None, None, None)
    assert orpo.difference is not None


def test_a_judge_is_held_against_pairs_and_against_exact_match(judge, found):
    def exact(wins):
        """Call ties and wins right, and the first answer, whatever was said of it, wrong."""
        return [0.0, *(float(w >= 0.5) for w in wins[1:])]

    (row,) = judge_rows(records(judge, found, exact))
    wins = np.concatenate([np.array(one["verdicts"]["wins"]) for one in found])
    match = np.concatenate([exact(one["verdicts"]["wins"]) for one in found])

    assert (row.n_pairs, row.n_missing) == (58, 2)
    assert row.accuracy == pytest.approx(51 / 58)
    assert row.low < row.accuracy < row.high
    assert row.caught == pytest.approx((wins[match == 0] < 0.5).mean())
    assert row.kept == 1.0
    assert row.n_wrong + row.n_right == len(wins)
    assert row.turned == pytest.approx(6 * 11 / (58 + 10 * N))
    assert row.correlation > 0.9


def test_what_is_said_of_a_judge_names_what_makes_it_doubtful(judge, found):
    trusted = judge_rows(records(judge, found))[0]
    doubtful = dataclasses.replace(trusted, low=0.4, trained_on="other pairs")
    silent = dataclasses.replace(trusted, accuracy=None)
    blind = dataclasses.replace(trusted, caught=0.45)
    sure, unsure, none, coin = judge_remarks([trusted, doubtful, silent, blind])

    assert "prefers the chosen answer in 0.879" in sure
    assert "wrong answers lose" in sure
    assert "half the exact match" in sure
    assert "little better than guessing" not in sure
    assert "little better than guessing" in unsure
    assert "Test pairs may be among them" in unsure
    assert "mean nothing" in none
    assert "no more than a coin" in coin


def test_an_interval_of_a_share_is_clopper_pearsons_for_prompts_on_their_own():
    scores = np.repeat([1.0, 0.0], [40, 10])
    exact = stats.binomtest(40, 50).proportion_ci(method="exact")
    own = share_interval(scores, [str(n) for n in range(50)])
    pairs = share_interval(scores, [str(n // 2) for n in range(50)])

    assert own == pytest.approx((exact.low, exact.high), abs=0.01)
    assert pairs[0] < own[0]
    assert pairs[1] > own[1]
    assert share_interval(np.ones(20), [str(n) for n in range(20)])[0] == pytest.approx(
        stats.binomtest(20, 20).proportion_ci(method="exact").low
    )
    assert share_interval([1.0, 0.0], ["one", "one"]) == (None, None)


def test_rows_say_all_that_the_tables_print(judge, found):
    from paper.tables.judges import judges, wins

    those = records(judge, found)
    findings = SimpleNamespace(judges=judge_rows(those), wins=win_rows(those), signature="x")
    tables = [wins(findings), judges(findings)]
    printed = [row.cells[0].lines[0] for row in tables[0].groups[0].rows]

    assert printed == ["Base", "SFT", "ORPO", "DPO"]
    assert tables[1].groups[0].rows[0].cells[0].lines == ("Big One, tiny",)
    for table in tables:
        assert sum(column.width for column in table.columns) == pytest.approx(1.0)
        for group in table.groups:
            assert all(len(row.cells) == len(table.columns) for row in group.rows)
