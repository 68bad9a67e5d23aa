"""Arms that continue another are searched after it, from what was found for it."""

import functools
import math
from types import SimpleNamespace

import pytest
from made_records import narrowed

from study.compare import compare
from study.config.canonical import to_dict
from study.config.recipe import from_dict, load_recipe
from study.config.seeds import confirmation_seeds, search_seed
from study.errors import ConfigError, RecordError
from study.records.files import read_json, read_jsonl
from study.records.layout import plan_path, search_folder
from study.records.searches import arm_settings
from study.search.search import search

BOTH = {"learning_rate": [1e-5, 1e-3], "beta": [0.01, 1.0]}


@pytest.fixture
def recipe():
    tree = to_dict(narrowed(load_recipe("tiny-llama"), "sft", "orpo"))
    tree["search"] |= {"confirm_top": 1, "confirm_seeds": 2}
    for arm in ("dpo", "ipo"):
        tree["search"]["space"][arm] = BOTH
        tree["arms"][arm] = {"learning_rate": 1e-4, "beta": 0.1}
    return from_dict(tree)


@pytest.fixture
def trained(monkeypatch):
    """Replace training by a formula; list what was trained and from which start."""
    from study.run.watch import Outcome

    made = []

    def find_start(workbench, report, *, start, seed):
        if start is None:
            return None
        record = {"digest": f"{start.arm} {seed}", "cost": {"train_tokens": 7}, "files": {}}
        return SimpleNamespace(settings=dict(start.settings), record=record)

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        last = 48 if start else 96
        made.append((arm, seed, start and start.settings))
        for step in (0, last // 2, last):
            off = math.log10(settings["learning_rate"]) / 100
            names = ("lor", "accuracy", "margin", "log_odds", "ranking")
            scores = {"nll": 3 + off - step / 100} | dict.fromkeys(names, 0.5)
            if on_validation(step, scores):
                return Outcome(status="stopped", validation=scores)
        return Outcome(validation=scores)

    for module in ("search.arm", "search.confirm", "run.make"):
        monkeypatch.setattr(f"study.{module}.find_start", find_start)
    monkeypatch.setattr("study.run.train.train_run", train_run)
    monkeypatch.setattr(
        "study.run.make._untrained", lambda workbench, run: Outcome(cost={"train_s": 0.0})
    )
    monkeypatch.setattr("study.run.evaluate.evaluate_run", lambda workbench, folder: {"nll": 1.0})
    return made


@pytest.fixture
def asked():
    """Names of the jobs in the order they were asked for, a list for each round."""
    return []


@pytest.fixture
def here(asked):
    def run_jobs(jobs):
        if jobs:
            asked.append([job.name.partition("/")[2] for job in jobs])
        base = SimpleNamespace(resolved={}, checked=None)
        for job in jobs:
            bench = SimpleNamespace(recipe=job.recipe, device="cpu", data_summary={}, base=base)
            job.work(bench, lambda *_: None)
        return []

    return run_jobs


@pytest.fixture
def go(recipe, here, tmp_path):
    """Search with few trials."""
    options = {"runs": tmp_path, "seed": 0, "run_jobs": here, "say": [].append}
    return functools.partial(search, [recipe], **{"trials": 3, **options})


def test_what_others_continue_is_searched_before_them(go, asked, trained, recipe, tmp_path):
    found = go()
    frozen, tuned = arm_settings(recipe, "sft", runs=tmp_path)

    assert asked == [["orpo", "sft"], ["ipo", "dpo"]]
    assert {best["arm"] for best in found} == {"sft", "orpo", "dpo", "ipo"}
    assert {best["n_trials"] for best in found} == {3}
    assert tuned
    assert {repr(start) for arm, _, start in trained if arm == "dpo"} == {repr(dict(frozen))}
    assert {start for arm, _, start in trained if arm == "orpo"} == {None}


def test_an_arm_whose_start_is_not_searched_yet_waits_for_it(go):
    said = []
    go(run_jobs=lambda jobs: [], say=said.append)

    waits = "it continues sft, whose search is not finished; the same command begins it"
    assert [waits in text for text in said] == [False, False, True, True]
    assert "tiny-llama/orpo is not finished here: other workers have the last trials" in said[0]


def test_an_arm_alone_is_searched_with_what_it_continues(go, asked, trained):
    found = go(arms=["dpo"])

    assert asked == [["sft"], ["dpo"]]
    assert [best["arm"] for best in found] == ["dpo", "sft"]


def test_more_workers_than_arms_share_and_still_wait_for_the_start(go, asked, trained):
    go(arms=["dpo"], workers=2)

    assert asked == [["sft", "sft"], ["dpo", "dpo"]]


def test_a_search_says_what_its_starts_cost_and_how_far_its_trials_went(
    go, trained, recipe, tmp_path
):
    go(arms=["dpo"])
    folder = search_folder(tmp_path, recipe.name, "dpo")
    seeds = [search_seed(0), *confirmation_seeds(0, 2)]
    last = {row["intermediate"][-1]["step"] for row in read_jsonl(folder / "trials.jsonl")}

    assert read_json(folder / "best.json")["starts"] == [
        {"seed": seed, "digest": f"sft {seed}", "cost": {"train_tokens": 7}} for seed in seeds
    ]
    assert "starts" not in read_json(search_folder(tmp_path, recipe.name, "sft") / "best.json")
    assert 48 in last
    assert {seed for arm, seed, _ in trained if arm == "dpo"} == set(seeds)


def test_trials_from_another_start_are_never_mixed(go, trained, recipe, tmp_path, monkeypatch):
    go(arms=["dpo"])
    trained.clear()
    other = {"learning_rate": 1.5e-3}
    monkeypatch.setattr(
        "study.search.search.start_settings",
        lambda recipe, arm, runs: other if arm == "dpo" else None,
    )

    with pytest.raises(RecordError, match=r"(?s)start\.settings\.learning_rate: .*--fresh"):
        go(arms=["dpo"], trials=5)
    assert {arm for arm, _, _ in trained} == {"sft"}


def test_an_arm_waits_while_others_have_the_last_trials_of_its_start(
    go, asked, trained, monkeypatch
):
    said = []
    monkeypatch.setattr("study.search.arm.search_arm", lambda *_, **__: None)
    go(arms=["dpo"], say=said.append)

    assert asked == [["sft"]]
    assert [line.split(" ")[0] for line in said] == ["tiny-llama/sft", "tiny-llama/dpo"]


def test_an_unknown_arm_is_refused_with_the_nearest(go, trained):
    with pytest.raises(ConfigError, match=r"no arm 'dpoo' \(did you mean 'dpo'\?\)"):
        go(arms=["dpoo"])


@pytest.fixture
def made(recipe, here, tmp_path):
    """Compare with one seed."""
    options = {"runs": tmp_path, "seeds": 1, "seed": 0, "run_jobs": here, "say": [].append}
    return functools.partial(compare, [recipe], **options)


def test_a_comparison_continues_the_start_that_the_search_found(
    go, made, trained, recipe, tmp_path
):
    go()
    frozen, _ = arm_settings(recipe, "sft", runs=tmp_path)
    trained.clear()
    records = made()

    assert {repr(start) for arm, _, start in trained if arm in ("dpo", "ipo")} == {
        repr(dict(frozen))
    }
    assert [record["tuned"] for record in records] == [False, *[True] * 4]


def test_a_comparison_of_some_arms_plans_all(made, trained, recipe, tmp_path):
    records = made(arms=["dpo"])
    plan = read_json(plan_path(tmp_path, recipe.name))
    everything = made()

    assert [record["arm"] for record in records] == ["base", "dpo"]
    assert plan["arms"].keys() == {"base", "sft", "orpo", "dpo", "ipo"}
    assert read_json(plan_path(tmp_path, recipe.name)) == plan
    assert [record["arm"] for record in everything] == ["base", "sft", "orpo", "dpo", "ipo"]
    with pytest.raises(ConfigError, match="tiny-llama has no arm 'kto'"):
        made(arms=["kto"])


def test_settings_tuned_from_another_start_are_refused(go, made, trained, recipe, tmp_path):
    go(arms=["dpo"])
    search_folder(tmp_path, recipe.name, "sft").rename(tmp_path / "elsewhere")
    trained.clear()

    with pytest.raises(RecordError, match=r"(?s)start\.settings\.learn.*--arm dpo --fresh"):
        made()
    assert trained == []
