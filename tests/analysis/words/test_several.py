import dataclasses

import pytest

from analysis.judged_rows import BestSetRow, DecisionRow, PairRow
from analysis.statistics import Outcome
from analysis.words import several


def best_set(metric, kept, **over_sft):
    """Say what arms gain over SFT; those of all other pairs are the differences."""
    gains = {"sft": 0.0, **{name.replace("_", "-"): gain for name, gain in over_sft.items()}}
    names = list(gains)
    pairs = [
        PairRow(
            baseline=a,
            treatment=b,
            estimate=gains[b] - gains[a],
            low=gains[b] - gains[a] - 0.01,
            high=gains[b] - gains[a] + 0.02,
            p_adjusted=0.01,
        )
        for n, a in enumerate(names)
        for b in names[n + 1 :]
    ]
    return BestSetRow(metric=metric, kept=tuple(kept), pairs=tuple(pairs), n_models=2)


def decision(arm, outcome):
    return DecisionRow(
        recipe="all models",
        baseline="sft",
        treatment=arm,
        outcome=outcome,
        metrics=(),
        costs={},
        n_models=2,
        n_seeds=(5, 5),
        n_examples=384,
        n_diverged=(0, 0),
        n_begun=(10, 10),
        divergence_p=None,
        reason="",
    )


RANKING = best_set("accuracy", ["orpo"], sft_matched=0.02, orpo=0.05)
ANSWERS = best_set("exact_match", ["sft-matched", "sft"], sft_matched=0.07, orpo=-0.01)
ROWS = [decision("sft-matched", Outcome.BETTER), decision("orpo", Outcome.TRADE_OFF)]


def test_the_headline_names_the_leader_of_every_metric_and_whom_it_is_not_shown_to_beat():
    text = several.headline(ROWS, [RANKING, ANSWERS])

    assert text == (
        "Over 2 models ORPO ranks given pairs best (+0.050 preference accuracy over SFT); "
        "token-matched SFT answers best (+0.070 exact match over SFT), level with SFT; "
        "better than SFT in all: token-matched SFT."
    )


def test_the_headline_stays_short_with_many_arms():
    many = {"sft_matched": 0.02, "orpo": 0.05, "dpo": 0.06, "ipo": 0.04, "kto": 0.05, "simpo": 0.03}
    kept = [name.replace("_", "-") for name in many]
    rows = [decision(arm, Outcome.BETTER) for arm in kept]
    text = several.headline(rows, [best_set(m, kept, **many) for m in ("accuracy", "exact_match")])

    assert "DPO ranks given pairs best" in text
    assert "level with 5 others" in text
    assert "better than SFT in all: 6 of 6" in text
    assert len(text.split()) <= 40


def test_a_leading_baseline_is_named_without_an_effect():
    text = several.headline(ROWS, [best_set("accuracy", ["sft"], sft_matched=-0.1, orpo=-0.2)])

    assert text.startswith("Over 2 models SFT ranks given pairs best; ")


def test_arms_are_compared_with_the_one_that_had_as_many_tokens():
    text = several.matched([RANKING, ANSWERS], ["sft-matched", "orpo"])

    assert "ORPO +0.030 preference accuracy (+0.020 to +0.050)" in text
    assert "\N{MINUS SIGN}0.080 exact match (\N{MINUS SIGN}0.090 to \N{MINUS SIGN}0.060)" in text


@pytest.mark.parametrize("treatments", [["orpo"], ["sft-matched"]])
def test_nothing_is_said_where_no_arm_or_no_other_was_matched(treatments):
    assert several.matched([RANKING, ANSWERS], treatments) == ""


def test_a_pair_reads_the_same_from_both_sides():
    turned = dataclasses.replace(
        RANKING,
        pairs=tuple(
            dataclasses.replace(
                pair,
                baseline=pair.treatment,
                treatment=pair.baseline,
                estimate=-pair.estimate,
                low=-pair.high,
                high=-pair.low,
            )
            for pair in RANKING.pairs
        ),
    )

    assert several.headline(ROWS, [turned]) == several.headline(ROWS, [RANKING])


def test_many_arms_are_answered_by_what_they_share():
    outcomes = {"sft-matched": Outcome.BETTER, "orpo": Outcome.TRADE_OFF, "dpo": Outcome.WORSE}
    rows = [
        dataclasses.replace(decision(arm, outcome), costs={"train_s": cost})
        for cost, (arm, outcome) in enumerate(reversed(outcomes.items()), start=1)
    ]
    text = several.answer(rows, [RANKING, ANSWERS])

    assert "Best in preference accuracy: ORPO (+0.050 over SFT, 95 % interval +0.040 to " in text
    assert "Best in exact match: token-matched SFT (+0.070 over SFT" in text
    assert "to +0.090), not shown to beat SFT." in text
    assert "better: token-matched SFT; trade-off: ORPO; worse: DPO." in text
    assert "in preference accuracy ORPO, in exact match none." in text
    assert "from 1.00 (DPO) to 3.00 (token-matched SFT) times the seconds of SFT." in text
    assert text.endswith("5 seeds per arm of each of 2 models, 384 held-out pairs.")


def test_many_untested_arms_say_why_once():
    rows = [
        dataclasses.replace(decision(arm, "not tested"), reason="one seed", n_seeds=(1, 1))
        for arm in ("orpo", "dpo", "kto")
    ]

    assert several.answer(rows, []) == (
        "Over both metrics, against SFT, not tested: ORPO, DPO and KTO. For ORPO the reason is: "
        "one seed. 1 seed per arm of each of 2 models, 384 held-out pairs."
    )
