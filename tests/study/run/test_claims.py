"""Claims: read as data, registered before runs, and their runs made once."""

import re
from types import SimpleNamespace

import pytest
from made_records import whole_config, whole_record

from study.cli.status import status
from study.compare import compare
from study.config.claims import load_claims, parse_claims
from study.config.recipe import load_recipe
from study.config.seeds import compare_seeds
from study.errors import ConfigError, RecordError
from study.records.files import read_json
from study.records.layout import claims_path, recipes_in
from study.records.plan import register
from study.records.publish import publish
from study.records.runs import run_folder, setting_folder
from study.run.claims import make_claim_runs, plan_claim_runs

pytestmark = pytest.mark.usefixtures("small_seeds")

SMALL = """
[costs]
smallest_share = 0.05

[early]
share_of_updates = 0.25
rank_correlation = 0.5

[scales.embedded]
models = ["toy:"]
chosen = "by hand"

[scales.embedded.settings]
low = { learning_rate = 1e-3, beta = 0.1 }
high = { learning_rate = 1e-3, beta = 1.0 }

[[claims]]
id = "1"
source = "a source"
sentence = "A higher β separates more."
model = "7B"
data = "chats"
not_testable = ""
[[claims.parts]]
kind = "contrast"
metric = "margin"
baseline = "low"
treatment = "high"
direction = "higher"
"""


@pytest.fixture
def recipe():
    return load_recipe("tiny-llama")


@pytest.fixture
def trained(monkeypatch):
    """Replace training and scoring by formulas; list the runs made."""
    from study.run.watch import Outcome

    made = []

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        made.append((arm, seed, dict(settings)))
        return Outcome()

    monkeypatch.setattr("study.run.train.train_run", train_run)
    monkeypatch.setattr("study.run.evaluate.evaluate_run", lambda workbench, folder: {"nll": 1.0})
    return made


def here(jobs):
    base = SimpleNamespace(resolved={}, checked=None)

    def bench(recipe):
        return SimpleNamespace(recipe=recipe, device="cpu", data_summary={}, base=base)

    return [job.work(bench(job.recipe), lambda *_: None) for job in jobs]


def make(recipes, runs, *, seeds=2, seed=0):
    return make_claim_runs(
        recipes, runs=runs, seeds=seeds, seed=seed, run_jobs=here, say=lambda line: None
    )


def test_the_eight_claims_of_the_sources_are_registered():
    registry = load_claims()
    ids = {re.match(r"\d+", claim.id).group() for claim in registry.claims}

    assert ids >= set("12345678")
    assert all(claim.sentence.endswith(".") and claim.model for claim in registry.claims)
    assert all(claim.parts or claim.not_testable for claim in registry.claims)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-smollm2", "llama-3.2-1b", "smollm2-1.7b"])
def test_the_rate_of_the_claims_is_the_recipes_own_untuned_one(name):
    recipe = load_recipe(name)
    _, scale = load_claims().scale_of(recipe)
    rate = recipe.arms["orpo"]["learning_rate"]

    for setting, beta in {"beta-0.1": 0.1, "beta-0.5": 0.5, "beta-1.0": 1.0}.items():
        assert scale.settings[setting] == {"learning_rate": rate, "beta": beta}
    assert scale.settings["default"] == {"learning_rate": 8e-6, "beta": 0.1}
    assert scale.settings["higher-rate"]["learning_rate"] == pytest.approx(3 * rate)


def test_a_models_scale_is_the_first_that_its_name_fits(recipe):
    registry = load_claims()
    large = recipe.override(["model.name=my/model"])

    assert registry.scale_of(recipe)[0] == "embedded"
    assert registry.scale_of(large)[0] == "full"
    with pytest.raises(ConfigError, match=r"no scale .* like 'my/model'; add one .* embedded"):
        parse_claims(SMALL).scale_of(large)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "1"', "id = 1", r"claims\[0\]\.id is 1; it must be of type str"),
        ("sentence =", "sentense =", "did you mean 'sentence'"),
        ('kind = "contrast"', 'kind = "rank"', "kind 'rank' takes no baseline"),
        ('baseline = "low"', 'baseline = ""', "kind 'contrast' needs a baseline"),
        ('baseline = "low"', 'baseline = "lower"', "names 'lower'; it must be one of base, .*high"),
        ('metric = "margin"', 'metric = "bleu"', "must be one of"),
        ("low =", "sft =", "'sft' is an arm"),
        ("beta = 1.0", "beta = 0.0", "above zero"),
        (", beta = 1.0", "", "must give learning_rate and beta"),
        ("share_of_updates = 0.25", "share_of_updates = 1.5", "must be between 0 and 1"),
        ("smallest_share = 0.05", "smallest_share = 0", r"costs\.smallest_share is 0"),
        ("[early]", "[early", "claims.toml: "),
    ],
)
def test_what_is_wrong_with_the_claims_is_said(old, new, message):
    assert old in SMALL
    with pytest.raises(ConfigError, match=message):
        parse_claims(SMALL.replace(old, new, 1))


def test_claims_need_ids_of_their_own_and_parts_or_a_reason():
    claim = SMALL[SMALL.index("[[claims]]") :]
    without = f"{SMALL[: SMALL.index('[[claims.parts]]')]}parts = []"
    other = '[scales.full]\nmodels = [""]\nchosen = "so"\n[scales.full.settings]\n'

    with pytest.raises(ConfigError, match="registered twice"):
        parse_claims(SMALL + claim)
    with pytest.raises(ConfigError, match="claim 1 has no parts; say in not_testable why"):
        parse_claims(without)
    with pytest.raises(ConfigError, match="settings of the same names"):
        parse_claims(SMALL + other)


def test_claims_stand_beside_the_records_before_the_first_run(recipe, tmp_path):
    seen = []

    def run_jobs(jobs):
        seen.append(read_json(claims_path(tmp_path, recipe.name)))

    compare([recipe], runs=tmp_path, seeds=1, seed=0, run_jobs=run_jobs, say=seen.append)
    plan = next(found for found in seen if isinstance(found, dict))

    assert [claim["id"] for claim in plan["claims"]] == [c.id for c in load_claims().claims]
    assert (plan["seeds"], plan["scale"]) == ([], "embedded")
    assert register(tmp_path, recipe) == plan


def test_seeds_are_added_to_the_registered_ones_and_pair_from_five_on(recipe, tmp_path):
    first = register(tmp_path, recipe, seeds=[1, 2, 3])
    second = register(tmp_path, recipe, seeds=[4, 5])

    assert (first["paired"], second["paired"]) == (False, True)
    assert second["seeds"] == [1, 2, 3, 4, 5]
    assert [past["seeds"] for past in second["amended"]] == [[1, 2, 3]]


def test_a_setting_that_several_claims_share_is_trained_once_per_seed(recipe, tmp_path):
    plan = plan_claim_runs(recipe, runs=tmp_path, seeds=3, seed=2)
    trained_at = [(*run.settings.values(), run.seed) for run in plan]

    assert len(plan) == len(set(trained_at)) == 15
    assert {run.seed for run in plan} == set(compare_seeds(2, 3, recipe="tiny-llama"))


def test_only_missing_runs_are_made(recipe, trained, tmp_path):
    make([recipe], tmp_path)
    folder = setting_folder(tmp_path, recipe.name, "beta-0.5", 2)
    (folder.path / "record.json").unlink()
    trained.clear()
    records = make([recipe], tmp_path)

    assert trained == [("orpo", 2, {"learning_rate": 3e-3, "beta": 0.5})]
    assert len(records) == 10
    assert {record["setting"] for record in records} == set(
        read_json(claims_path(tmp_path, recipe.name))["settings"]
    )


def test_a_damaged_record_is_made_again(recipe, trained, tmp_path):
    make([recipe], tmp_path, seeds=1)
    folder = setting_folder(tmp_path, recipe.name, "beta-0.5", 1)
    (folder.path / "record.json").write_text("{")
    trained.clear()
    make([recipe], tmp_path, seeds=1)

    assert trained == [("orpo", 1, {"learning_rate": 3e-3, "beta": 0.5})]
    assert folder.status() == "ok"


def test_status_names_a_damaged_plan_of_claims_and_still_lists_its_runs(recipe, trained, tmp_path):
    make([recipe], tmp_path, seeds=1)
    claims_path(tmp_path, recipe.name).write_text("{")
    rows = [row for row in status(tmp_path) if row["part"] == "claims"]

    assert [row["state"] for row in rows] == ["damaged", *["finished"] * 5]
    assert "claims/config.json is damaged" in rows[0]["detail"]


def test_claims_that_change_after_runs_of_a_comparison_say_after_how_many(
    recipe, tmp_path, monkeypatch
):
    register(tmp_path, recipe)
    run = run_folder(tmp_path, recipe.name, "sft", 1)
    run.claim(whole_config())
    run.finish(whole_record(recipe=recipe.name))
    monkeypatch.setattr("study.records.plan.load_claims", lambda: parse_claims(SMALL))
    (past,) = register(tmp_path, recipe)["amended"]

    assert past["finished_runs"] == 1


def test_runs_of_another_configuration_are_refused_before_any_is_made(recipe, trained, tmp_path):
    make([recipe], tmp_path, seeds=1)
    trained.clear()

    with pytest.raises(RecordError, match=r"training\.batch_pairs: 16 in the records, 8 asked"):
        make([recipe.override(["training.batch_pairs=8"])], tmp_path)
    assert trained == []


def test_status_and_publication_know_the_claims_runs(recipe, trained, tmp_path):
    make([recipe], tmp_path / "runs")
    folder = setting_folder(tmp_path / "runs", recipe.name, "default", 1)
    (folder.path / "record.json").unlink()
    rows = [row for row in status(tmp_path / "runs") if row["part"] == "claims"]
    states = {(row["arm"], row["seed"]): row["state"] for row in rows}
    publish(tmp_path / "runs", tmp_path / "published")

    assert recipes_in(tmp_path / "runs") == [recipe.name]
    assert states["default", 1] == "interrupted"
    assert states["beta-1.0", 2] == "finished"
    assert len(rows) == 10
    assert {row["detail"] for row in rows} == {""}
    assert claims_path(tmp_path / "published", recipe.name).exists()
    copied = {p.parent.name for p in (tmp_path / "published").glob("*/claims/*/seed-1")}
    assert copied == {"beta-0.1", "beta-0.5", "beta-1.0", "higher-rate"}
