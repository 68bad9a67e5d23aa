"""Claims of the sources: evidence against its oracles, verdicts against their rules."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import statistics as stats
from analysis.figures.claims import beta_info, draw_betas
from analysis.judge.claims import Corrected, _compared, _judged, claim_remarks, claim_rows
from analysis.judge.evidence import Evidence, gather, pool, share_of_change
from analysis.judge.judged import judged_by
from analysis.records.load import load_study, scores_of
from analysis.statistics.verdicts import ClaimVerdict, claim_verdict
from analysis.tables.provenance import commands
from analysis.tables.rouge import rouge_rows
from analysis.words.history import history
from study.config.canonical import to_dict
from study.config.claims import load_claims
from study.config.recipe import load_recipe
from study.errors import RecordError
from study.records.files import read_json, write_json
from study.records.layout import claims_path
from study.records.runs import setting_folder

REPRODUCED, CONTRADICTED = ClaimVerdict.REPRODUCED, ClaimVerdict.CONTRADICTED
INCONCLUSIVE, NOT_TESTABLE = ClaimVerdict.INCONCLUSIVE, ClaimVerdict.NOT_TESTABLE
LONGER = {"kind": "contrast", "metric": "margin", "baseline": "beta-0.1", "treatment": "beta-0.5"}
HIGHER = {**LONGER, "direction": "higher"}
LOWER = {**LONGER, "direction": "lower"}


@pytest.fixture(scope="module")
def records(claim_study):
    return load_study(claim_study)


@pytest.fixture(scope="module")
def rows(records):
    return claim_rows(records)


@pytest.fixture
def one_recipe(small_runs, builders):
    builders["claims"](small_runs, builders["recipe"]("tiny-llama"))
    return small_runs


def row_of(rows, claim, recipe="all models"):
    return next(row for row in rows if (row.claim, row.recipe) == (claim, recipe))


def part_of(records, claim, place=0, recipe="tiny-llama"):
    claims = records.claims[recipe]["claims"]
    return next(one for one in claims if one["id"] == claim)["parts"][place]


def contrast(effect, *, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, noise, (2, 3, 40))
    return stats.compare_arms(a, b + effect, paired=False, scope="population")


def corrected(effect, **changes):
    evidence = Evidence(form="difference", contrast=contrast(effect))
    return Corrected(evidence=evidence, **{"p_adjusted": 0.01, **changes})


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("1", REPRODUCED),
        ("2", REPRODUCED),
        ("3", REPRODUCED),
        ("4", CONTRADICTED),
        ("4b", INCONCLUSIVE),
        ("5b", INCONCLUSIVE),
        ("8", NOT_TESTABLE),
        ("10", NOT_TESTABLE),
    ],
)
def test_every_verdict_is_reached_on_the_synthetic_study(rows, claim, verdict):
    assert row_of(rows, claim).verdict == verdict


def test_every_claim_is_judged_over_all_models_first_and_then_on_each(rows, records):
    ids = [claim["id"] for claim in records.claims["tiny-llama"]["claims"]]
    places = ("all models", "tiny-llama", "tiny-smollm2")

    assert [(row.claim, row.recipe) for row in rows] == [(i, p) for i in ids for p in places]
    assert row_of(rows, "3").here == "0.9M parameters; a toy language"
    assert row_of(rows, "3").made_at == "Mistral-7B; UltraFeedback"


def test_a_prediction_is_the_contrast_of_its_two_settings(rows, records):
    part = row_of(rows, "3", "tiny-llama").parts[0]
    a, b = (
        scores_of(records.side("tiny-llama", name), "margin") for name in ("beta-0.1", "beta-0.5")
    )
    theirs = stats.compare_arms(
        a.matrix, b.matrix, paired=False, scope="population", clusters=a.clusters
    )

    assert part.prediction == "margin: ORPO with β 0.5 higher than with β 0.1 (learning rate 3e-3)"
    assert part.estimate == pytest.approx(b.matrix.mean() - a.matrix.mean())
    assert (part.low, part.high) == pytest.approx(theirs.interval())
    assert part.p_value == pytest.approx(theirs.p_value)
    assert part.detectable == pytest.approx(theirs.minimum_detectable())
    assert part.n == "3 and 3 runs, 80 pairs"


def test_the_family_is_every_distinct_prediction_over_all_models(rows, records):
    found = {
        part.prediction: part
        for row in rows
        if row.recipe == "all models"
        for part in row.parts
        if part.remark != "both cost the same"
    }
    untested = [part for part in found.values() if part.p_value is None]
    known = [part for part in found.values() if part.p_value is not None]
    family = [part.p_value for part in known] + [1.0] * len(untested)

    assert len(known) > 10
    assert [part.p_adjusted for part in known] == pytest.approx(stats.holm(family)[: len(known)])
    assert f"has {len(family)} tests" in claim_remarks(records, rows)[0]


def test_the_change_by_a_quarter_of_the_updates_is_worked_by_hand():
    steps = [
        {"split": "validation", "step": step, "margin": value}
        for step, value in ((0, -1.0), (20, 0.0), (40, 2.0), (80, 3.0))
    ]
    run = SimpleNamespace(steps=[*steps, {"split": "train", "step": 5, "margin": 9.0}])
    flat = SimpleNamespace(steps=[{**row, "margin": 1.0} for row in steps])

    assert share_of_change(run, "margin", 0.25) == pytest.approx(1 / 4)
    assert share_of_change(run, "margin", 0.375) == pytest.approx(2 / 4)
    assert np.isnan(share_of_change(flat, "margin", 0.25))


def test_how_early_a_score_moves_is_the_one_sample_t_over_seeds(records, rows):
    part = row_of(rows, "4", "tiny-llama").parts[0]
    shares = [share_of_change(run, "margin", 0.25) for run in records.side("tiny-llama", "orpo")]
    theirs = scipy_stats.ttest_1samp(shares, 0.25)

    assert part.estimate == pytest.approx(np.mean(shares))
    assert part.p_value == pytest.approx(theirs.pvalue)
    assert (part.low, part.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_the_rank_correlation_is_spearmans_with_fishers_interval(records):
    found = gather(records, "tiny-llama", part_of(records, "4b"))
    low, high = (found.shown(value) for value in found.contrast.interval())

    search = next(one for one in records.searches if one.arm == "orpo")
    done = [trial for trial in search.trials if trial["state"] == "complete"]
    quarter = load_recipe("tiny-llama").training.max_steps / 4
    at_quarter = [
        np.interp(
            quarter,
            [row["step"] for row in trial["intermediate"]],
            [row["accuracy"] for row in trial["intermediate"]],
        )
        for trial in done
    ]
    rho = scipy_stats.spearmanr(at_quarter, [trial["accuracy"] for trial in done]).statistic
    reach = 1.959964 * np.sqrt((1 + rho**2 / 2) / 14)

    assert found.n == "17 trials"
    assert found.shown(found.contrast.estimate) == pytest.approx(rho)
    assert np.arctanh([low, high]) == pytest.approx(
        np.arctanh(rho) + np.array([-reach, reach]), rel=1e-4
    )


def test_costs_are_ratios_and_equal_ones_need_no_test(rows):
    row = row_of(rows, "8b", "tiny-llama")
    seconds, tokens, _ = row.parts

    assert seconds.estimate == pytest.approx(1.0)  # both arms take 21, 22 and 23 s
    assert seconds.p_value == pytest.approx(1.0)
    assert (tokens.estimate, tokens.low, tokens.p_value) == (pytest.approx(1.0), None, None)
    assert tokens.remark == "both cost the same"
    assert row.verdict == INCONCLUSIVE


def cost_ratio(ratio, *, noise):
    """Return the evidence of two arms' costs over three seeds each."""
    found = contrast(np.log(ratio), noise=noise)
    return Corrected(evidence=Evidence(form="ratio", contrast=found), p_adjusted=0.01)


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict", "remark"),
    [
        (1.006, 0.001, INCONCLUSIVE, "both cost the same to within 5 %"),
        (1 / 1.006, 0.001, INCONCLUSIVE, "both cost the same to within 5 %"),
        (1.2, 0.001, CONTRADICTED, ""),
        (1 / 1.2, 0.001, REPRODUCED, ""),
        (1.06, 0.001, CONTRADICTED, ""),
        (1.048, 0.1, CONTRADICTED, ""),  # its interval reaches beyond 5 %
    ],
)
def test_costs_that_differ_by_less_than_a_share_are_the_same(ratio, noise, verdict, remark):
    found = cost_ratio(ratio, noise=noise)

    assert _judged({**LOWER, "kind": "cost"}, found, 0.05) == (
        verdict,
        remark.replace(" %", "\N{NO-BREAK SPACE}%"),
    )


@pytest.mark.parametrize(
    ("ratio", "verdict", "remark"),
    [
        (1.0, INCONCLUSIVE, "both cost the same"),
        (0.97, INCONCLUSIVE, "both cost the same to within 5\N{NO-BREAK SPACE}%"),
        (0.9, REPRODUCED, "exact"),
        (1.1, CONTRADICTED, "exact"),
    ],
)
def test_costs_that_are_the_same_in_every_run_are_held_to_the_same_share(ratio, verdict, remark):
    assert _compared(LOWER, float(np.log(ratio)), 0.05) == (verdict, remark)


def test_the_history_says_that_the_share_of_costs_is_younger_than_results(records):
    plan = dict(records.claims["tiny-llama"])
    bare = {name: value for name, value in plan.items() if name != "costs"}
    amended = {**plan, "amended": [{**bare, "finished_runs": 3}]}

    assert history(records, judged_by(records)) == ()
    for old in (bare, amended):
        changed = replace(records, claims={**records.claims, "tiny-llama": old})
        assert changed.smallest_cost_share == 0.05
        (told,) = history(changed, judged_by(changed))
        assert "less than 5\N{NO-BREAK SPACE}% are judged to be the same" in told
        assert told.endswith("was set after the results had been seen.")
    early = {**plan, "amended": [{**bare, "finished_runs": 0}]}
    early_records = replace(records, claims={**records.claims, "tiny-llama": early})
    assert history(early_records, judged_by(early_records)) == ()


def test_a_claim_on_arms_that_a_study_does_not_train_is_not_testable(rows):
    row = row_of(rows, "12", "tiny-llama")

    assert (row.verdict, row.parts) == (NOT_TESTABLE, ())
    assert row.remark == "this study does not train IPO or KTO"


@pytest.mark.parametrize(
    ("found", "part", "verdict", "remark"),
    [
        (corrected(0.5), HIGHER, REPRODUCED, ""),
        (corrected(0.5), LOWER, CONTRADICTED, ""),
        (corrected(-0.5), HIGHER, CONTRADICTED, ""),
        (
            corrected(0.5, p_adjusted=0.06),
            HIGHER,
            INCONCLUSIVE,
            "not after correction for the family",
        ),
        (corrected(0.5, is_open=False), HIGHER, INCONCLUSIVE, "not shown over all models"),
        (corrected(0.0, p_adjusted=1.0), HIGHER, INCONCLUSIVE, "any difference is below 0.05"),
        (corrected(0.03), HIGHER, REPRODUCED, "below the smallest effect of interest, 0.05"),
        (Corrected(evidence=Evidence(form="difference", reason="none")), HIGHER, NOT_TESTABLE, ""),
        (
            Corrected(
                evidence=Evidence(form="difference", contrast=contrast(0.5), n_diverged=1),
                p_adjusted=0.0,
            ),
            HIGHER,
            INCONCLUSIVE,
            "1 run diverged",
        ),
    ],
)
def test_a_prediction_is_judged_by_its_corrected_test_alone(found, part, verdict, remark):
    assert _judged(part, found, 0.05) == (verdict, remark)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, INCONCLUSIVE], INCONCLUSIVE),
        ([REPRODUCED, CONTRADICTED, NOT_TESTABLE], CONTRADICTED),
        ([REPRODUCED, NOT_TESTABLE, INCONCLUSIVE], NOT_TESTABLE),
        ([], NOT_TESTABLE),
    ],
)
def test_all_parts_of_a_claim_must_hold(parts, verdict):
    assert claim_verdict(parts) == verdict


def test_models_are_pooled_where_every_one_has_evidence():
    first, second = (
        Evidence(form="difference", n="3 runs", test="t", contrast=contrast(0.5, seed=seed))
        for seed in (1, 2)
    )
    neither = Evidence(form="difference", reason="no search was run")
    both = pool({"a": first, "b": second})

    assert both.contrast.estimate == pytest.approx(
        (first.contrast.estimate + second.contrast.estimate) / 2
    )
    assert (both.n, both.test) == ("2 models, each 3 runs", "t, pooled over 2 models")
    assert pool({"a": first, "b": neither}).reason == "b: no search was run"
    assert pool({"a": neither, "b": neither}).reason == "no search was run"


def test_the_published_scoring_stops_half_way_through_the_file_in_claims_too(records):
    runs = [
        replace(
            run,
            generations=tuple(
                {**row, "text": row["reference"] if place < 20 and run.arm == "orpo" else "none"}
                for place, row in enumerate(run.generations[::-1])
            ),
        )
        for run in records.runs
    ]
    records = replace(records, runs=tuple(runs))
    found = gather(records, "tiny-llama", part_of(records, "6b"))
    table = {row.arm: row for row in rouge_rows(records) if row.recipe == "tiny-llama"}
    expected = table["orpo"].published["rougeL"] - table["sft"].published["rougeL"]

    assert expected > 0.02
    assert found.estimate == pytest.approx(expected)
    assert found.n == "3 and 3 runs, 40 pairs"


def test_runs_of_claims_that_were_changed_are_named_and_never_judged(one_recipe):
    folder = setting_folder(one_recipe, "tiny-llama", "beta-0.5", 1)
    with (folder.path / "steps.jsonl").open("a") as file:
        file.write("{}\n")

    with pytest.raises(RecordError, match=r"beta-0.5, seed 1: steps.jsonl was .*`study claims`"):
        load_study(one_recipe)


def test_a_claim_is_not_judged_while_planned_runs_are_missing(one_recipe):
    folder = setting_folder(one_recipe, "tiny-llama", "beta-0.5", 3)
    (folder.path / "record.json").unlink()
    row = row_of(claim_rows(load_study(one_recipe)), "3", "tiny-llama")

    assert row.verdict == NOT_TESTABLE
    assert row.parts[0].test == "not tested: planned runs are missing: beta-0.5 with seed 3"


def test_a_diverged_run_leaves_its_claims_inconclusive(small_runs, builders):
    recipe = builders["recipe"]("tiny-llama")
    builders["claims"](small_runs, recipe)
    builders["remove"](setting_folder(small_runs, "tiny-llama", "beta-1.0", 2).path)
    builders["run"](small_runs, recipe, "orpo", 2, setting="beta-1.0", diverged=True)
    rows = claim_rows(load_study(small_runs))

    assert row_of(rows, "3", "tiny-llama").verdict == INCONCLUSIVE
    assert row_of(rows, "3", "tiny-llama").parts[1].remark == "1 run diverged"
    assert "diverged" not in row_of(rows, "3", "tiny-llama").parts[0].remark


def test_without_registered_claims_there_are_no_rows(study_runs):
    records = load_study(study_runs)

    assert claim_rows(records) == ()
    assert claim_remarks(records, ()) == ()
    assert beta_info(records) == ()


def test_runs_of_claims_are_checked_like_those_of_a_comparison(one_recipe, builders):
    recipe = builders["recipe"]("tiny-llama").override(["training.batch_pairs=8"])
    builders["remove"](setting_folder(one_recipe, "tiny-llama", "default", 1).path)
    builders["run"](one_recipe, recipe, "orpo", 1, setting="default")

    with pytest.raises(RecordError, match=r"tiny-llama, default, seed 1: another recipe"):
        load_study(one_recipe)


def test_models_registered_with_different_claims_are_refused(claim_study, tmp_path):
    runs = shutil.copytree(claim_study, tmp_path / "runs")
    path = claims_path(runs, "tiny-llama")
    plan = read_json(path)
    write_json(path, {**plan, "claims": plan["claims"][:3]})

    with pytest.raises(RecordError, match="registered with different claims; start"):
        load_study(runs)


def test_a_claim_is_judged_by_the_models_that_train_its_arms(claim_study, tmp_path):
    runs = shutil.copytree(claim_study, tmp_path / "runs")
    path = claims_path(runs, "tiny-smollm2")
    every_arm = load_claims().within(load_recipe("tiny-smollm2-methods"))
    write_json(path, {**read_json(path), "claims": to_dict(every_arm)["claims"]})
    records = load_study(runs)
    others = [
        replace(run, arm=arm) for arm in ("ipo", "kto") for run in records.ok("tiny-smollm2", "sft")
    ]
    rows = claim_rows(replace(records, runs=(*records.runs, *others)))
    untrained, trained, pooled = (
        row_of(rows, "12", name) for name in ("tiny-llama", "tiny-smollm2", "all models")
    )

    assert (untrained.parts, untrained.remark) == ((), "this study does not train IPO or KTO")
    assert all(part.p_adjusted is not None for part in trained.parts)
    assert pooled.parts[0].test == "not tested: tiny-llama: no finished run of IPO"


def test_the_figure_over_beta_shows_every_seed_and_their_means(records):
    panels = beta_info(records)
    margin = panels[0]
    runs = records.side("tiny-llama", "beta-0.5")
    middle = np.mean([run.record["scores"]["margin"] for run in runs])
    figure = draw_betas(panels)

    assert [panel.recipe for panel in panels] == ["tiny-llama"] * 2 + ["tiny-smollm2"] * 2
    assert (margin.learning_rate, len(margin.points)) == (3e-3, 9)
    assert [beta for beta, _ in margin.means] == [0.1, 0.5, 1.0]
    assert margin.means[1][1] == pytest.approx(middle)
    assert len(figure.axes) == 4


def test_the_commands_make_the_runs_of_claims_again_with_the_studys_seed(tmp_path, builders):
    runs = builders["study"](tmp_path / "runs", recipes=("tiny-llama",), seeds=(2001, 2002))
    builders["claims"](runs, builders["recipe"]("tiny-llama"), seeds=(2001, 2002))
    lines = commands(load_study(runs))

    assert f"study compare --recipe tiny-llama --seeds 2 --seed 2 --runs {runs}" in lines
    assert f"study claims --recipe tiny-llama --seeds 2 --seed 2 --runs {runs}" in lines
