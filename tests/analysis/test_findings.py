"""Findings: numbers against their oracles, words against their verdicts."""

import dataclasses
import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.findings import build_findings, to_json
from analysis.judge.contrasts import _decided, _with_lengths
from analysis.records.load import load_study
from analysis.tables import provenance
from study.config.canonical import to_dict
from study.errors import RecordError
from study.records.asked import keep_asked
from study.records.layout import RECORD
from study.records.publish import publish
from study.records.runs import run_folder


@pytest.fixture(scope="module")
def findings(study_runs):
    return build_findings(load_study(study_runs), origin="local: for a test")


def arm_of(findings, recipe, arm):
    return next(row for row in findings.arms if (row.recipe, row.arm) == (recipe, arm))


def contrast_of(findings, metric, baseline, treatment, recipe="tiny-llama"):
    wanted = (recipe, metric, baseline, treatment)
    return next(
        row
        for row in findings.contrasts
        if (row.recipe, row.metric, row.baseline, row.treatment) == wanted
    )


def test_arms_show_mean_deviation_and_every_seed(findings, study_runs):
    row = arm_of(findings, "tiny-llama", "orpo")
    values = [
        run_folder(study_runs, "tiny-llama", "orpo", seed).record()["scores"]["nll"]
        for seed in (1, 2, 3)
    ]

    assert list(row.settings) == ["learning_rate", "beta"]
    assert row.n_seeds == 3
    assert row.scores["nll"].mean == pytest.approx(np.mean(values))
    assert row.scores["nll"].sd == pytest.approx(np.std(values, ddof=1))
    assert row.scores["nll"].by_seed == pytest.approx(dict(zip((1, 2, 3), values, strict=True)))
    assert arm_of(findings, "tiny-llama", "base").scores["nll"].sd is None


@pytest.mark.parametrize("metric", ["margin", "log_odds", "nll", "rougeL", "response_tokens"])
def test_on_the_test_set_contrasts_are_welchs_t_over_seeds(findings, metric):
    row = contrast_of(findings, metric, "sft", "orpo")
    sft, orpo = (
        list(arm_of(findings, "tiny-llama", arm).scores[metric].by_seed.values())
        for arm in ("sft", "orpo")
    )
    theirs = scipy_stats.ttest_ind(orpo, sft, equal_var=False)
    low, high = theirs.confidence_interval()

    assert row.estimate == pytest.approx(np.mean(orpo) - np.mean(sft))
    assert row.test_set_p_value == pytest.approx(theirs.pvalue, abs=1e-9)
    assert (row.test_set_low, row.test_set_high) == pytest.approx((low, high), abs=1e-9)
    assert row.df == pytest.approx(theirs.df)


def test_against_base_the_test_is_the_one_sample_t_over_seeds(findings):
    row = contrast_of(findings, "margin", "base", "orpo")
    base = arm_of(findings, "tiny-llama", "base").scores["margin"].mean
    orpo = list(arm_of(findings, "tiny-llama", "orpo").scores["margin"].by_seed.values())

    assert "one-sample" in row.test
    assert row.test_set_p_value == pytest.approx(scipy_stats.ttest_1samp(orpo, base).pvalue)


def test_every_metric_is_contrasted_for_every_pair_of_arms(findings):
    n_metrics = len(findings.metrics)

    assert n_metrics == 13
    assert len(findings.contrasts) == 2 * 3 * n_metrics


def test_lower_nll_is_better_and_length_has_no_better(findings):
    assert contrast_of(findings, "nll", "base", "sft").verdict == "better by at least"
    assert contrast_of(findings, "response_tokens", "base", "sft").verdict == "lower"
    assert contrast_of(findings, "accuracy", "sft", "orpo").verdict == "better by at least"


def test_a_score_without_any_variance_is_not_tested(findings):
    row = contrast_of(findings, "ended", "sft", "orpo")

    assert row.verdict == "not tested"
    assert row.low is None
    assert row.test == (
        "not tested: runs do not vary within an arm, so there is no variance to test by "
        "(tiny-llama: sft with seeds 1, 2, 3 and orpo with seeds 1, 2, 3)"
    )


def test_the_answer_names_effect_interval_and_n_and_leaves_settings_to_the_table(findings):
    assert findings.answer.startswith(
        "Mixed: on average of these 2 models ORPO ranks given pairs better (preference accuracy +0."
    )
    assert "but its own answers are not shown to be as good (exact match" in findings.answer
    assert "at 1.00 times the time (3 seeds of each model, 80 held-out pairs)" in findings.answer
    assert "If answers matter, there is no reason here to leave SFT." in findings.answer
    for recipe in ("tiny-llama", "tiny-smollm2"):
        assert f"On {recipe}: trade-off (preference accuracy +0." in findings.answer
    assert "learning rate" not in findings.answer
    assert "untuned" not in findings.answer


def test_an_interval_around_zero_is_told_as_no_difference_shown(small_runs, builders):
    recipe = builders["recipe"]("tiny-llama")
    for arm in ("sft", "orpo"):
        for seed in (1, 2, 3):
            builders["remove"](run_folder(small_runs, "tiny-llama", arm, seed).path)
            frame = builders["examples"](np.random.default_rng([seed, arm == "sft"]), "sft")
            builders["run"](small_runs, recipe, arm, seed, examples=frame)
    found = build_findings(load_study(small_runs), origin="local")

    assert contrast_of(found, "accuracy", "sft", "orpo").verdict == "inconclusive"
    assert found.answer.startswith("No difference between ORPO and SFT is shown on tiny-llama: ")
    assert ", 95 % interval −0." in found.answer
    assert "equal" not in found.answer


def test_one_seed_is_not_tested_and_says_why(tmp_path, builders):
    runs = builders["study"](tmp_path / "runs", recipes=("tiny-llama",), seeds=(1,))
    found = build_findings(load_study(runs), origin="local")
    row = contrast_of(found, "accuracy", "sft", "orpo")

    assert row.verdict == "not tested"
    assert row.test == (
        "not tested: one seed per arm shows no variation between runs "
        "(tiny-llama: sft with seed 1 and orpo with seed 1)"
    )
    assert (row.low, row.high, row.p_value, row.df) == (None, None, None, None)
    assert arm_of(found, "tiny-llama", "sft").scores["nll"].sd is None
    assert found.answer.startswith("ORPO and SFT are not tested on tiny-llama, because one seed")
    assert found.headline == ("ORPO and SFT are not tested on tiny-llama: train two seeds or more.")
    assert [row.outcome for row in found.decisions] == ["not tested"]


def test_two_seeds_are_called_exploratory(tmp_path, builders):
    runs = builders["study"](tmp_path / "runs", recipes=("tiny-llama",), seeds=(1, 2))
    found = build_findings(load_study(runs), origin="local")

    assert "exploratory with 2 seeds" in contrast_of(found, "margin", "sft", "orpo").test


def test_diverged_runs_are_counted_told_and_never_averaged(small_runs, builders):
    builders["remove"](run_folder(small_runs, "tiny-llama", "orpo", 2).path)
    builders["run"](small_runs, builders["recipe"]("tiny-llama"), "orpo", 2, diverged=True)
    found = build_findings(load_study(small_runs), origin="local")
    row = arm_of(found, "tiny-llama", "orpo")

    assert (row.n_seeds, row.n_diverged) == (2, 1)
    assert set(row.scores["nll"].by_seed) == {1, 3}
    assert found.failed_runs[0] == (
        "tiny-llama: ORPO with seed 2 diverged at step 41 (examples 00ab, 00cd)."
    )
    assert "1 of 3 runs of ORPO (95 % interval of the rate 1 % to 91 %)" in (
        found.failed_runs[1].replace("\N{NO-BREAK SPACE}", " ")
    )
    assert "p = 0.55 (Boschloo" in found.failed_runs[1]
    contrast = contrast_of(found, "rejected_logps", "sft", "orpo")
    assert contrast.verdict == "interval alone"
    assert contrast.test.endswith("given convergence, 1 run diverged")
    assert found.answer.startswith("When it converges, ")
    assert ": when it converges, on tiny-llama ORPO " in found.headline
    assert any("diverged" in sentence for sentence in found.cannot_conclude)
    assert "; 1 of 3 ORPO runs diverged; equal rates p\N{NO-BREAK SPACE}=" in found.answer


def test_diverged_runs_bound_the_contrast_by_the_worst_that_they_could_have_scored(
    small_runs, builders
):
    builders["remove"](run_folder(small_runs, "tiny-llama", "orpo", 2).path)
    builders["run"](small_runs, builders["recipe"]("tiny-llama"), "orpo", 2, diverged=True)
    found = build_findings(load_study(small_runs), origin="local")
    row = contrast_of(found, "accuracy", "sft", "orpo")

    assert row.bound_low < row.low
    assert row.bound_low < 0
    assert row.remark == "when it converges"


def test_a_verdict_survives_where_no_score_of_the_diverged_run_could_change_it(tmp_path, builders):
    runs, recipe = tmp_path / "runs", builders["recipe"]("tiny-llama")
    builders["plan"](runs, recipe, seeds=(1, 2, 3, 4))
    for seed in (1, 2, 3, 4):
        builders["run"](runs, recipe, "sft", seed, diverged=seed == 2)
        builders["run"](runs, recipe, "orpo", seed)
    # A base model as good as SFT: the failed run cannot have been much worse.
    like_sft = builders["examples"](np.random.default_rng(9), "sft")
    builders["run"](runs, recipe, "base", 0, examples=like_sft)
    found = build_findings(load_study(runs), origin="local")
    row = contrast_of(found, "accuracy", "sft", "orpo")

    assert row.n_diverged == 1
    assert row.test.endswith("given convergence, 1 run diverged")
    assert 0 < row.bound_low <= row.low
    assert row.bound_high >= row.high
    assert row.verdict == "better by at least"
    assert row.remark == "holds whatever the diverged runs had scored"
    assert "ORPO ranks given pairs better" in found.answer
    assert "1 of 4 SFT runs diverged" in found.answer


def test_one_recipe_answers_with_its_settings(small_runs):
    found = build_findings(load_study(small_runs), origin="local")

    assert found.pooled == ()
    assert found.answer.startswith("Mixed: on tiny-llama ORPO ranks given pairs better (")
    assert "(3 seeds, 80 held-out pairs)" in found.answer
    assert found.answer.endswith(
        "Settings: ORPO (learning rate 3.2e-3, β 0.42) against SFT (learning rate 2.5e-3)."
    )
    assert contrast_of(found, "accuracy", "sft", "orpo").family_size == 2


def test_the_contrast_over_models_is_the_mean_of_theirs(findings):
    row = next(row for row in findings.pooled if row.metric == "accuracy")
    single = [
        contrast_of(findings, "accuracy", "sft", "orpo", recipe=recipe)
        for recipe in ("tiny-llama", "tiny-smollm2")
    ]

    assert row.recipe == "all models"
    assert row.n_models == 2
    assert row.estimate == pytest.approx(np.mean([one.estimate for one in single]))
    assert row.high - row.low < min(one.high - one.low for one in single)
    assert row.n_clusters == 40


def test_families_are_corrected_and_base_has_intervals_alone(findings):
    primary = [row for row in findings.contrasts if row.family == "primary"]
    secondary = [
        row for row in (*findings.contrasts, *findings.pooled) if row.family == "secondary"
    ]
    tested = [row for row in secondary if row.p_value is not None]

    gate = next(row for row in findings.pooled if row.metric == "accuracy")

    assert [row.metric for row in primary] == ["accuracy", "exact_match"] * 2
    assert gate.p_adjusted == pytest.approx(2 * gate.p_value)
    for row in primary:
        over_all = next(one for one in findings.pooled if one.metric == row.metric)
        assert row.p_adjusted == pytest.approx(min(1, 2 * max(row.p_value, over_all.p_value)))
    assert {row.metric for row in secondary} == {"margin", "nll"}
    assert len(tested) == len(secondary) == 6
    assert min(row.p_adjusted for row in tested) == pytest.approx(
        len(secondary) * min(row.p_value for row in tested)
    )
    others = [row for row in findings.contrasts if row.baseline == "sft" and not row.family]
    assert {row.verdict for row in others} <= {"interval alone", "not tested"}
    assert all(row.p_value is row.tost_adjusted is None for row in others)
    base = contrast_of(findings, "nll", "base", "sft")
    assert base.p_value is base.p_adjusted is None
    assert base.low is not None


def test_a_correction_takes_verdicts_back(findings):
    row = contrast_of(findings, "accuracy", "sft", "orpo")
    weak = dataclasses.replace(row, p_adjusted=0.06)
    alike = dataclasses.replace(row, verdict="equivalent", tost_adjusted=0.06)

    assert _decided(row) == row
    assert _decided(weak).remark == "not after correction for the family"
    assert _decided(weak).verdict == _decided(alike).verdict == "inconclusive"


def test_rouge_is_told_beside_a_changed_length(findings):
    rouge = dataclasses.replace(contrast_of(findings, "rougeL", "sft", "orpo"), remark="")
    tokens = contrast_of(findings, "response_tokens", "sft", "orpo")
    longer = dataclasses.replace(tokens, low=1.0, high=2.0)
    alike = dataclasses.replace(tokens, low=-1.0, high=1.0)

    assert _with_lengths([rouge, longer])[0].remark == "length changed"
    assert _with_lengths([rouge, alike])[0].remark == ""


def test_rows_say_what_they_could_have_found_and_how_often_the_treatment_wins(findings):
    row = contrast_of(findings, "margin", "sft", "orpo")

    assert row.detectable_low < row.detectable < row.detectable_high
    assert row.win_low < row.win_rate <= row.win_high <= 1
    assert row.tost_p > 0.05
    assert any("More seeds or more pairs?" in line for line in findings.test_remarks)
    assert any("smallest effect of interest" in line for line in findings.test_remarks)
    assert any(row.detectable is not None for row in findings.pooled)


@pytest.mark.slow
def test_from_five_seeds_on_runs_are_compared_seed_by_seed(tmp_path, builders):
    runs = builders["study"](tmp_path / "runs", recipes=("tiny-llama",), seeds=(1, 2, 3, 4, 5))
    row = contrast_of(build_findings(load_study(runs), origin="local"), "margin", "sft", "orpo")
    builders["remove"](run_folder(runs, "tiny-llama", "orpo", 2).path)
    broken = contrast_of(build_findings(load_study(runs), origin="local"), "margin", "sft", "orpo")

    assert "paired by seed" in row.test
    assert row.df == 4
    assert broken.verdict == "not tested"
    assert broken.test == (
        "not tested: the plan pairs runs by seed, and these are missing: tiny-llama, orpo, seed 2; "
        "make them with `study compare`"
    )


def test_missing_and_unfinished_runs_are_told(small_runs, builders):
    builders["remove"](run_folder(small_runs, "tiny-llama", "orpo", 3).path)
    (run_folder(small_runs, "tiny-llama", "sft", 2).path / RECORD).unlink()
    found = build_findings(load_study(small_runs), origin="local")

    assert found.failed_runs == (
        "tiny-llama: SFT with seed 2 was begun and is not finished.",
        "tiny-llama: ORPO has no run with seed 3, which another arm has.",
    )


def test_an_arm_without_runs_cannot_be_compared(small_runs, builders):
    for seed in (1, 2, 3):
        builders["remove"](run_folder(small_runs, "tiny-llama", "orpo", seed).path)
    found = build_findings(load_study(small_runs), origin="local")

    assert found.answer == (
        "On tiny-llama ORPO and SFT cannot be compared: finished runs are missing."
    )
    assert found.headline.startswith("No arm can be compared with SFT yet")


def test_untuned_arms_are_called_so(small_runs, builders):
    recipe = builders["recipe"]("tiny-llama")
    for seed in (1, 2, 3):
        builders["remove"](run_folder(small_runs, "tiny-llama", "sft", seed).path)
        builders["run"](small_runs, recipe, "sft", seed, tuned=False)
    found = build_findings(load_study(small_runs), origin="local")

    assert "SFT (learning rate 2.5e-3, untuned)" in found.answer
    assert any("SFT could reach on tiny-llama" in line for line in found.cannot_conclude)


def test_searches_are_summarised(findings):
    row = next(row for row in findings.searches if row.arm == "orpo")

    assert (row.n_trials, row.n_pruned, row.n_diverged) == (20, 2, 1)
    assert row.optimism == pytest.approx(row.value - row.trial_value)
    assert [setting["source"] for setting in row.published] == [
        "axolotl example (Mistral-7B QLoRA r 32)", "another source",
    ]  # fmt: skip
    assert (
        "tiny-llama: every searched arm had the same number of finished trials, 20, including "
        "pruned ones." in (findings.search_remarks)
    )


def test_costs_are_means_over_seeds(findings):
    row = next(row for row in findings.costs if row.arm == "sft")
    base = next(row for row in findings.costs if row.arm == "base")

    assert row.train_s == pytest.approx(22.0)
    assert row.tokens_per_s == pytest.approx(100_000 / 22.0)
    assert base.tokens_per_s is None


def test_samples_put_all_arms_beside_each_other(findings):
    sample = findings.samples[0]

    assert set(sample.answers) == {"base", "sft", "orpo"}
    assert sample.answers["sft"].startswith("sft says")
    assert len(findings.samples) == 10


def test_commands_and_signature_name_the_study(findings, study_runs):
    assert findings.commands == (
        f"study search --recipe tiny-llama --recipe tiny-smollm2 --trials 20 --runs {study_runs}",
        f"study compare --recipe tiny-llama --recipe tiny-smollm2 --seeds 3 --runs {study_runs}",
        f"study report --runs {study_runs}",
    )
    assert findings.signature.startswith("model:toy:llama+toy:smollm2|data:")
    assert "|trials:20|seeds:3|digest:" in findings.signature


def test_the_default_folder_is_left_out_of_the_commands(study_runs):
    records = dataclasses.replace(load_study(study_runs), folder=Path("runs/local"))

    assert provenance.commands(records)[-1] == "study report"


def test_overrides_in_the_commands_lead_back_to_the_same_recipe(tmp_path, builders):
    source = 'a "quoted" source'
    overrides = [
        "training.max_steps=80",
        "model.attention=eager",
        "search.confirm_top=1",
        "search.space.orpo.beta=[0.05, 1.0]",
        "search.space.sft.learning_rate=[1e-4, 1e-2]",
        "analysis.sesoi.accuracy=0.05",
        "arms.orpo.beta=0.42",
        "arms.orpo.learning_rate=3.2e-3",
        "arms.sft.learning_rate=2.5e-3",
        (
            f"search.published=[{{arm='orpo', source='{source}', "
            "settings={learning_rate=1e-3, beta=0.3}}]"
        ),
    ]
    shipped = builders["recipe"]("tiny-llama")
    recipe = shipped.override(overrides)
    for arm in ("sft", "orpo"):
        builders["search"](tmp_path, recipe, arm)
        for seed in (5001, 5002):
            builders["run"](tmp_path, recipe, arm, seed, tuned=False)
    search, compare, _ = build_findings(load_study(tmp_path), origin="local").commands

    def again(command):
        words = shlex.split(command)
        found = [text for flag, text in itertools.pairwise(words) if flag == "--set"]
        return to_dict(shipped.override(found)), words

    searched, words = again(search)
    compared, more = again(compare)
    wanted = to_dict(recipe)
    assert {name: searched[name] for name in ("search", "training", "model")} == {
        name: wanted[name] for name in ("search", "training", "model")
    }
    assert {name: compared[name] for name in ("arms", "analysis", "training", "model")} == {
        name: wanted[name] for name in ("arms", "analysis", "training", "model")
    }
    assert words[:6] == ["study", "search", "--recipe", "tiny-llama", "--trials", "20"]
    assert more[4:8] == ["--seeds", "2", "--seed", "5"]
    assert words[-2:] == more[-2:] == ["--runs", str(tmp_path)]


def test_the_commands_of_a_recipe_file_name_it_and_what_was_set_over_it(small_runs, tmp_path):
    given = ["training.max_steps=80", 'data.columns={prompt = "the question"}']
    for part, name in (("search", "tiny-llama"), ("compare", "my recipes/a.toml")):
        keep_asked(small_runs, "tiny-llama", part, name=name, assignments=given)
    publish(small_runs, tmp_path / "published")

    for runs in (small_runs, tmp_path / "published"):
        line = next(c for c in provenance.commands(load_study(runs)) if c.startswith("study comp"))
        words = shlex.split(line)
        named = [text for flag, text in itertools.pairwise(words) if flag == "--recipe"]
        found = [text for flag, text in itertools.pairwise(words) if flag == "--set"]
        assert ("my recipes/a.toml" in named, found) == (True, given)

    keep_asked(small_runs, "tiny-llama", "compare", name="tiny-llama", assignments=given)
    assert "my recipes" not in str(provenance.commands(load_study(small_runs)))


def test_recipes_judged_by_different_metrics_are_kept_apart(small_runs, builders):
    recipe = builders["recipe"]("tiny-smollm2").override(
        ['analysis.primary_metrics=["nll"]', 'analysis.secondary_metrics=["margin"]']
    )
    builders["run"](small_runs, recipe, "sft", 1)
    with pytest.raises(
        RecordError, match="tiny-llama by accuracy and exact_match, tiny-smollm2 by nll"
    ):
        build_findings(load_study(small_runs), origin="local")


def test_findings_become_json_and_come_back(findings):
    tree = json.loads(to_json(findings))

    assert tree["answer"] == findings.answer
    assert len(tree["contrasts"]) == len(findings.contrasts)
    assert set(tree) == {field.name for field in dataclasses.fields(findings)}


def test_the_analysis_never_imports_torch():
    code = (
        "import sys, analysis.findings, analysis.figures.draw, analysis.records.load; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
