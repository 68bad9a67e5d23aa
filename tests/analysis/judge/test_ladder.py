"""The ladder of an article in the analysis: every step scored as far as it is mended."""

import numpy as np
import pytest
from made_records import N_GENERATED, load_recipe, make_claims, make_ladder, make_study

from analysis.figures.ladder import draw_ladder, ladder_alt, ladder_info
from analysis.judge.claims import claim_rows
from analysis.judge.comparisons import POOLED
from analysis.judge.ladder import SHOWN, ladder_rows, scores_on, steps_of
from analysis.records.load import load_study
from analysis.records.published_rouge import published_scores
from analysis.words.ladder import ladder_remarks
from study.config.ladder import load_ladder
from study.records.publish import publish

RUNGS = ["published", *(r.id for r in load_ladder("article-a").rungs if r.touches != "comparison")]


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """A study of two recipes with the ladder of article A on both."""
    runs = make_study(tmp_path_factory.mktemp("ladder") / "runs")
    for name in ("tiny-llama", "tiny-smollm2"):
        make_claims(runs, load_recipe(name))
        make_ladder(runs, load_recipe(name), seeds=3)
    return runs


@pytest.fixture(scope="module")
def records(climbed):
    return load_study(climbed)


def test_every_rung_has_its_gap_over_all_models_first(records):
    rows = ladder_rows(records)

    assert list(dict.fromkeys(row.recipe for row in rows)) == [
        POOLED,
        "tiny-llama",
        "tiny-smollm2",
    ]
    for place in (POOLED, "tiny-llama"):
        for metric in SHOWN:
            mine = [row for row in rows if (row.recipe, row.metric) == (place, metric)]
            assert [row.rung for row in mine] == RUNGS
            assert all(row.low < row.estimate < row.high for row in mine)
            assert all(len(row.by_seed) == (6 if place == POOLED else 3) for row in mine)


def test_a_gap_is_the_mean_of_its_seeds_and_over_models_that_of_the_models(records):
    for row in ladder_rows(records):
        assert row.estimate == pytest.approx(np.mean(row.by_seed))
        assert row.estimate == pytest.approx(row.treatment - row.baseline)


def test_scoring_is_mended_fault_by_fault(records):
    """Slow twin: the answers of one run scored by hand, as each step has them."""
    steps = {step["rung"]: step for step in steps_of(records, "tiny-llama")}
    (run,) = (
        run
        for run in records.ladder_runs
        if (run.recipe, run.arm) == ("tiny-llama", "sft-published")
        and run.seed == min(records.ladders["tiny-llama"]["seeds"])
    )

    def first(rung):
        found = scores_on(records, "tiny-llama", [(steps[rung], "baseline")], "rougeL")
        return found[0].matrix[0]

    def by_hand(rung, **options):
        return published_scores(run.answers[rung], **options)["rougeL"]

    assert first("published") == pytest.approx(by_hand("first-turns"))
    assert (first("published")[N_GENERATED // 2 + 1 :] == 0).all()
    assert first("denominator") == pytest.approx(by_hand("first-turns", share=1.0))
    bare = {"share": 1.0, "with_prompt": False}
    assert first("prompt-in-answer") == pytest.approx(by_hand("first-turns", **bare))
    assert first("first-turns") == pytest.approx(by_hand("sampling", **bare))
    assert first("sampling") == pytest.approx(by_hand("template-of-prompts", **bare))
    own = run.scores["rougeL"].dropna().to_numpy()
    assert first("template-of-prompts") == pytest.approx(own)
    assert first("start") == pytest.approx(own)


def test_ranking_is_the_same_while_scoring_alone_is_mended(records):
    rows = [row for row in ladder_rows(records) if row.metric == "accuracy"]
    scoring = {
        row.estimate for row in rows if row.recipe == POOLED and row.touches in ("", "scoring")
    }

    assert len(scoring) == 1
    assert len({row.estimate for row in rows if row.recipe == POOLED}) > 1


def test_the_sentences_give_the_way_the_method_and_what_one_seed_shows(records):
    rows = ladder_rows(records)
    told = ladder_remarks(records, rows)
    first, last = (row for row in (rows[0], rows[len(RUNGS) - 1]))

    assert told[0].startswith("ROUGE-L, ORPO minus SFT (all models): ")
    assert f"{abs(first.estimate):.3f}" in told[0]
    assert f"{abs(last.estimate):.3f}" in told[0]
    assert told[1].startswith("Preference accuracy, ORPO minus SFT")
    assert any("the loss alone" in sentence for sentence in told[2:4])
    assert any("of a single seed" in sentence for sentence in told)
    assert ladder_remarks(records, ()) == ()


def test_the_claim_asks_for_the_published_gap_and_for_half_of_it_with_the_loss_alone(records):
    (claim,) = (
        row for row in claim_rows(records) if row.claim == "6c" and row.recipe == "tiny-llama"
    )
    rows = {
        row.rung: row
        for row in ladder_rows(records)
        if (row.recipe, row.metric) == ("tiny-llama", "rougeL")
    }
    published, share = claim.parts

    assert published.estimate == pytest.approx(rows["published"].estimate)
    assert share.estimate == pytest.approx(
        rows["rate"].estimate - rows["template-of-prompts"].estimate / 2
    )
    assert "as published" in published.prediction
    assert "half" in share.prediction


def test_without_a_reproduction_the_claim_says_how_to_make_one(claim_study):
    rows = claim_rows(load_study(claim_study))
    (pooled, *_) = (row for row in rows if row.claim == "6c")

    assert pooled.verdict == "not testable here"
    assert pooled.parts[0].test == "not tested: `study reproduce article-a` was not run"
    assert ladder_rows(load_study(claim_study)) == ()


def test_a_step_whose_runs_are_missing_or_diverged_has_no_gap(small_runs):
    recipe = load_recipe("tiny-llama")
    seeds = make_ladder(small_runs, recipe, diverged=[("orpo-rate", 1)])
    folder = small_runs / "tiny-llama" / "reproduce" / "sft-scaling" / f"seed-{seeds[0]}"
    (folder / "record.json").unlink()
    records = load_study(small_runs)
    steps = {step["rung"]: step for step in steps_of(records, "tiny-llama")}

    def reason(rung, side):
        return scores_on(records, "tiny-llama", [(steps[rung], side)], "rougeL")

    assert seeds == [1, 2]
    assert reason("scaling", "baseline").startswith("sft-scaling has no finished run of seed ")
    assert reason("rate", "treatment") == "1 runs of orpo-rate diverged"
    found = [row.rung for row in ladder_rows(records) if row.metric == "rougeL"]
    assert [rung for rung in RUNGS if rung not in found] == ["scaling", "dropout", "rate"]


def test_texts_that_were_not_published_leave_the_rungs_that_need_them_out(small_runs, tmp_path):
    recipe = load_recipe("tiny-llama").override(["data.publish_texts=false"])
    make_ladder(small_runs, recipe)
    publish(small_runs, tmp_path / "published")
    rows = ladder_rows(load_study(tmp_path / "published"))
    found = [row.rung for row in rows if row.metric == "rougeL"]

    assert found == RUNGS[RUNGS.index("template-of-prompts") :]
    assert [row.rung for row in rows if row.metric == "accuracy"] == RUNGS


def test_the_figure_shows_every_rung_of_both_metrics_and_says_it(records):
    panels = ladder_info(ladder_rows(records))
    figure = draw_ladder(panels)
    told = ladder_alt(panels)

    assert [len(panel.rows) for panel in panels] == [len(RUNGS)] * 2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == [
        "as published",
        "+ denominator",
    ]
    assert told.count("single seeds") == 2 * len(RUNGS)
    assert ladder_info(()) == ()
