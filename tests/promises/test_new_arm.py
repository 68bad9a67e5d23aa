"""A method that nobody has heard of is one entry in ``ARMS``, and a whole study runs with it."""

import dataclasses

import pytest

from study.arms import ARMS, Arm
from study.cli.status import status
from study.cli.tables import compare_table
from study.compare import compare
from study.errors import ConfigError
from study.losses import sft
from study.search.search import search

SETTINGS = {"learning_rate": 1e-3, "reach": 0.5}


def hinge(logps, *, n_tokens, n_pairs, reach):
    gap = (logps.chosen - logps.rejected).clamp(max=reach)
    return sft(logps, n_tokens=n_tokens, n_pairs=n_pairs) - gap.sum() / n_pairs


@pytest.fixture
def recipe(small_recipe, monkeypatch):
    """The small recipe with a made-up arm beside its own, and SFT."""
    monkeypatch.setitem(
        ARMS,
        "hinge",
        Arm(
            name="hinge",
            label="Hinge",
            colour="#009E73",
            hyperparameters=("learning_rate", "reach"),
            loss=hinge,
            reads="pair",
        ),
    )
    spaces = {
        "sft": small_recipe.search.space["sft"],
        "hinge": {"learning_rate": (2e-4, 2e-2), "reach": (0.1, 2.0)},
    }
    return dataclasses.replace(
        small_recipe,
        arms={"sft": small_recipe.arms["sft"], "hinge": SETTINGS},
        search=dataclasses.replace(
            small_recipe.search, space=spaces, published=(), confirm_top=1, confirm_seeds=1
        ),
    )


@pytest.mark.slow
def test_a_made_up_arm_is_searched_compared_listed_and_reported(recipe, workbench, tmp_path):
    from analysis.records.load import is_complete
    from paper.build import build

    bench = dataclasses.replace(workbench, recipe=recipe)
    runs = tmp_path / "runs"

    def here(jobs):
        return [job.work(bench, lambda *_: None) for job in jobs]

    best = search([recipe], runs=runs, trials=2, seed=0, run_jobs=here, say=[].append)
    records = compare([recipe], runs=runs, seeds=2, seed=0, run_jobs=here, say=[].append)
    listed = status(runs)
    report = build(runs, tmp_path / "report")
    html = report.html.read_text("utf-8")

    assert {found["arm"]: set(found["settings"]) for found in best} == {
        "sft": {"learning_rate"},
        "hinge": set(SETTINGS),
    }
    assert [record["arm"] for record in records] == ["base", *["sft"] * 2, *["hinge"] * 2]
    assert "hinge" in compare_table(records)
    assert {row["arm"] for row in listed} == {"base", "sft", "hinge"}
    assert {row["state"] for row in listed} == {"finished"}
    assert is_complete(runs)
    assert "with SFT or with Hinge?" in html
    assert "Hinge (learning rate" in html
    assert "ORPO (" not in html


def test_a_name_that_is_no_arm_is_refused_with_the_nearest(recipe):
    with pytest.raises(ConfigError, match=r"no arm 'hinges' \(did you mean 'hinge'\?\)"):
        dataclasses.replace(recipe, arms={"hinges": SETTINGS})
