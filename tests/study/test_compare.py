import functools
import json
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from made_records import narrowed, whole_best, whole_trial

from study.cli.status import status
from study.compare import compare
from study.config import seeds
from study.config.canonical import digest
from study.config.recipe import load_recipe
from study.errors import RecordError
from study.records.digests import search_config
from study.records.files import _hash_of, read_json, write_bytes, write_json, write_jsonl
from study.records.folders import claim_folder
from study.records.layout import search_folder
from study.records.locks import hold, lease
from study.records.runs import lock_path, run_folder
from study.records.searches import arm_settings
from study.records.sharing import COMMAND, present
from study.run.planned import record_of

pytestmark = pytest.mark.usefixtures("small_seeds")

SCORES = {"nll": 1.0, "accuracy": 0.75}


@pytest.fixture
def recipe():
    """The shipped recipe with its two searched arms alone."""
    return narrowed(load_recipe("tiny-llama"), "sft", "orpo")


@pytest.fixture
def trained(monkeypatch):
    """Replace training and scoring by what they leave behind; list the runs made."""
    from study.run.watch import Outcome

    made = []

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        made.append((arm, seed, dict(settings)))
        write_bytes(folder / "steps.jsonl", b"")
        on_validation(0, {"nll": 2.0})
        if settings["learning_rate"] > 1:
            return Outcome(status="diverged", divergence={"step": 3, "example_ids": ["a"]})
        return Outcome(cost={"train_s": 1.0})

    def untrained(workbench, run):
        made.append((run.arm, run.seed, dict(run.settings)))
        return Outcome()

    monkeypatch.setattr("study.run.train.train_run", train_run)
    monkeypatch.setattr("study.run.make._untrained", untrained)
    monkeypatch.setattr("study.run.evaluate.evaluate_run", lambda workbench, folder: SCORES)
    return made


def bench(recipe):
    base = SimpleNamespace(resolved={"dtype": "float32"}, checked=None)
    return SimpleNamespace(recipe=recipe, device="cpu", data_summary={"source": "toy"}, base=base)


def here(jobs):
    return [job.work(bench(job.recipe), lambda *_: None) for job in jobs]


def run(recipes, runs, *, n=2, seed=0, said=None):
    say = [].append if said is None else said.append
    return compare(recipes, runs=runs, seeds=n, seed=seed, run_jobs=here, say=say)


def freeze(recipe, runs, arm, settings, *, seed=0):
    folder = search_folder(runs, recipe.name, arm)
    config = search_config(recipe, arm=arm, seed=seed)
    claim_folder(folder, config)
    best = whole_best(arm=arm, settings=settings, digest=digest(config))
    write_json(folder / "best.json", best)


def test_every_arm_gets_every_seed_and_the_base_gets_one_run(recipe, trained, tmp_path):
    records = run([recipe], tmp_path)

    assert [(r["arm"], r["seed"]) for r in records] == [
        ("base", 0),
        ("sft", 1),
        ("sft", 2),
        ("orpo", 1),
        ("orpo", 2),
    ]
    assert all(r["scores"] == SCORES and r["status"] == "ok" for r in records)


def test_seeds_of_a_comparison_follow_the_studys_seed(recipe, trained, tmp_path):
    records = run([recipe], tmp_path, seed=7)

    found = {r["seed"] for r in records if r["arm"] != "base"}
    assert found == set(seeds.compare_seeds(7, 2, recipe=recipe.name))


def test_finished_runs_are_kept_and_missing_ones_made(recipe, trained, tmp_path):
    run([recipe], tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("record.json")}
    (run_folder(tmp_path, recipe.name, "sft", 2).path / "record.json").unlink()
    trained.clear()
    run([recipe], tmp_path, n=3)

    assert [(arm, seed) for arm, seed, _ in trained] == [("orpo", 3), ("sft", 2), ("sft", 3)]
    assert all(p.read_bytes() == text for p, text in before.items() if p.parent.name != "seed-2")


def test_matched_sft_takes_the_rate_that_sfts_search_froze_and_has_no_search(
    trained, tmp_path, monkeypatch
):
    recipe = narrowed(load_recipe("tiny-llama"), "sft", "sft-matched", "orpo")
    monkeypatch.setattr(
        "study.run.budget.budget_of", lambda workbench, arm, seed: (recipe.training, None)
    )
    freeze(recipe, tmp_path, "sft", {"learning_rate": 5e-3})
    records = run([recipe], tmp_path, n=1)
    rows = status(tmp_path)

    assert [(r["arm"], r["tuned"]) for r in records[1:3]] == [("sft", True), ("sft-matched", True)]
    assert records[1]["settings"] == records[2]["settings"] == {"learning_rate": 5e-3}
    assert [r["arm"] for r in rows if r["part"] == "search"] == ["sft", "orpo"]
    assert ("sft-matched", "finished") in [(r["arm"], r["state"]) for r in rows]


def test_a_finished_comparison_starts_no_job(recipe, trained, tmp_path):
    jobs = []
    first = run([recipe], tmp_path)
    again = compare(
        [recipe], runs=tmp_path, seeds=2, seed=0, run_jobs=jobs.extend, say=lambda line: None
    )

    assert jobs == []
    assert again == first


def test_without_a_search_the_recipes_settings_are_used_and_said(recipe, trained, tmp_path):
    said = []
    records = run([recipe], tmp_path, said=said)

    assert [line.split(" is ")[0] for line in said] == ["tiny-llama/sft", "tiny-llama/orpo"]
    assert all("untuned" in line for line in said)
    assert not any(r["tuned"] for r in records)
    assert records[-1]["settings"] == {"learning_rate": 3e-3, "beta": 0.1}


def test_frozen_settings_are_used_and_recorded_as_tuned(recipe, trained, tmp_path):
    tuned = {"learning_rate": 1e-3, "beta": 0.5}
    freeze(recipe, tmp_path, "orpo", tuned)
    said = []
    records = run([recipe], tmp_path, said=said)

    assert [(r["arm"], r["tuned"]) for r in records if r["seed"] == 1] == [
        ("sft", False),
        ("orpo", True),
    ]
    assert records[-1]["settings"] == tuned
    assert len(said) == 1


def test_a_search_of_another_seed_still_tunes(recipe, tmp_path):
    freeze(recipe, tmp_path, "sft", {"learning_rate": 1e-3}, seed=5)

    assert arm_settings(recipe, "sft", runs=tmp_path) == ({"learning_rate": 1e-3}, True)


def test_settings_tuned_on_another_budget_are_refused_before_anything_is_trained(
    recipe, trained, tmp_path
):
    freeze(recipe, tmp_path, "sft", {"learning_rate": 1e-3})

    with pytest.raises(RecordError, match=r"training\.max_steps: 96 in the records, 50"):
        run([recipe.override(["training.max_steps=50"])], tmp_path)
    assert trained == []


def test_runs_of_another_configuration_are_refused_before_anything_is_trained(
    recipe, trained, tmp_path
):
    run([recipe], tmp_path)
    trained.clear()

    with pytest.raises(RecordError, match=r"recipe\.training\.batch_pairs: 16 .* 8 asked"):
        run([recipe.override(["training.batch_pairs=8"])], tmp_path, n=5)
    assert trained == []


def test_a_diverged_run_is_a_record_without_scores(recipe, trained, tmp_path):
    hot = recipe.override(["arms.sft.learning_rate=1000.0"])
    records = run([hot], tmp_path, n=1)

    sft = records[1]
    assert (sft["status"], sft["scores"]) == ("diverged", {})
    assert sft["divergence"] == {"step": 3, "example_ids": ["a"]}
    row = next(row for row in status(tmp_path) if row["arm"] == "sft" and row["seed"] == 1)
    assert (row["state"], row["detail"]) == ("failed", "diverged at step 3")


def test_a_record_describes_the_run_and_its_files(recipe, trained, tmp_path):
    record = run([recipe], tmp_path, n=1)[1]

    folder = run_folder(tmp_path, recipe.name, "sft", 1)
    assert record == folder.record()
    assert record["digest"] == read_json(folder.path / "config.json")["digest"]
    assert set(record["files"]) == {"steps.jsonl"}
    assert {"train_s", "evaluate_s"} <= record["cost"].keys()
    assert {"versions", "device", "git", "finished_at"} <= record.keys()


def test_a_run_that_another_process_makes_is_left_to_it(recipe, trained, tmp_path):
    with hold(lock_path(run_folder(tmp_path, recipe.name, "sft", 1))):
        records = run([recipe], tmp_path, n=1)
        states = {(row["arm"], row["seed"]): row["state"] for row in status(tmp_path)}

    assert [arm for arm, _, _ in trained] == ["orpo", "base"]
    assert [r["arm"] for r in records] == ["base", "orpo"]
    assert states["sft", 1] == "running"


def test_status_lists_finished_interrupted_and_missing(recipe, trained, tmp_path):
    run([recipe], tmp_path, n=2)
    (run_folder(tmp_path, recipe.name, "orpo", 2).path / "record.json").unlink()
    (run_folder(tmp_path, recipe.name, "base", 0).path / "record.json").unlink()
    (run_folder(tmp_path, recipe.name, "base", 0).path / "config.json").unlink()

    rows = {(row["part"], row["arm"], row["seed"]): row for row in status(tmp_path)}
    assert rows["compare", "base", 0]["state"] == "missing"
    assert rows["compare", "sft", 2]["state"] == "finished"
    assert rows["compare", "sft", 2]["detail"] == "untuned"
    assert rows["compare", "orpo", 2]["state"] == "interrupted"
    assert rows["search", "sft", None]["state"] == "missing"
    assert json.dumps(list(rows.values()))


def test_status_of_a_search_counts_its_trials(recipe, tmp_path):
    freeze(recipe, tmp_path, "sft", {"learning_rate": 1e-3})
    folder = search_folder(tmp_path, recipe.name, "sft")
    states = [status(tmp_path)[0]["state"]]
    write_jsonl(folder / "trials.jsonl", [whole_trial(), whole_trial(number=1)])
    states.append(status(tmp_path)[0]["state"])
    with lease(folder, "worker", {"trials": 5}):
        rows = [status(tmp_path)[0]]
        with lease(folder, "worker", {"trials": 2}):
            (folder / ".worker-dead").touch()
            rows.append(status(tmp_path)[0])
    rows.append(status(tmp_path)[0])

    assert states == ["finished", "interrupted"]
    assert [row["state"] for row in rows] == ["running", "running", "interrupted"]
    assert rows[0]["detail"] == "2 of 5 finished trials"
    assert rows[-1]["detail"] == (
        "2 finished trials, 1 killed while running, tried again at the next start"
    )


def test_a_search_that_ended_is_finished_while_its_command_goes_on(recipe, tmp_path):
    freeze(recipe, tmp_path, "sft", {"learning_rate": 1e-3})
    asked = {"command": "search", "parts": [["sft", None], ["orpo", None]]}
    with lease(tmp_path / recipe.name, COMMAND, asked):
        states = {row["arm"]: row["state"] for row in status(tmp_path) if row["part"] == "search"}

    assert states["sft"] == "finished"
    assert states["orpo"] == "queued"


def test_a_command_shows_before_its_first_record(recipe, tmp_path):
    with present(tmp_path, "search", [(recipe, "sft", None)]):
        rows = status(tmp_path)

    assert [row["arm"] for row in rows if row["state"] == "queued"] == ["sft"]
    assert status(tmp_path) == []


def test_what_a_living_command_will_come_to_is_queued(recipe, trained, tmp_path):
    seen = []

    def look(jobs):
        if jobs:
            with hold(lock_path(run_folder(tmp_path, recipe.name, "orpo", 1))):
                seen.extend(status(tmp_path))
        return here(jobs)

    compare([recipe], runs=tmp_path, seeds=2, seed=0, run_jobs=look, say=[].append)

    states = {(row["arm"], row["seed"]): row["state"] for row in seen if row["part"] == "compare"}
    assert states.pop(("orpo", 1)) == "running"
    assert states == dict.fromkeys([("base", 0), ("sft", 1), ("sft", 2), ("orpo", 2)], "queued")
    assert not list(tmp_path.rglob(".command-*"))


def test_two_studies_in_one_folder_at_once_are_refused(recipe, trained, tmp_path):
    other = recipe.override(["training.max_steps=50"])
    with (
        present(tmp_path, "compare", [(other, "sft", 1)]),
        pytest.raises(RecordError, match=r"(?s)in use by .study compare., .*max_steps: 50 .* 96"),
    ):
        run([recipe], tmp_path)
    assert trained == []
    (tmp_path / recipe.name / ".command-killed").write_text("{}")

    assert len(run([recipe], tmp_path)) == 5


def test_a_run_that_another_process_dropped_is_made_after_all(recipe, trained, tmp_path):
    rounds = []

    def run_jobs(jobs):
        rounds.append(len(jobs))
        if len(rounds) > 1:
            here(jobs)

    records = compare([recipe], runs=tmp_path, seeds=1, seed=0, run_jobs=run_jobs, say=print)

    assert rounds == [3, 3]
    assert len(records) == 3


def test_rows_that_were_left_out_are_said_once(recipe, trained, tmp_path, monkeypatch):
    summary = {"dropped": {"missing rejected": 2, "empty answer": 0}}
    monkeypatch.setattr("study.run.make.record_of", lambda *a: {**record_of(*a), "data": summary})
    said = []
    compare([recipe], runs=tmp_path, seeds=2, seed=0, run_jobs=here, say=said.append)

    assert [line for line in said if "left out" in line] == [
        (
            f"{recipe.name}: rows left out of the data: missing rejected 2; "
            "`study data check` names them"
        )
    ]


@pytest.fixture
def opened(monkeypatch):
    """Count how often each file is opened."""
    found = Counter()
    listening = [True]

    def hear(event, arguments):
        if listening and event == "open" and isinstance(arguments[0], str):
            found[arguments[0]] += 1

    sys.addaudithook(hear)  # it cannot be taken back
    yield found
    listening.clear()


def test_no_command_looks_at_finished_runs_more_than_once_each(
    recipe, trained, tmp_path, monkeypatch, opened
):
    """Opened files grow with the runs, and no file that did not change is hashed twice."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("study.config.environment.versions", dict)
    totals = {}
    for n_seeds in (50, 100):
        runs = tmp_path / str(n_seeds)
        opened.clear()
        run([recipe], runs, n=n_seeds)
        totals["first compare", n_seeds] = opened.total()
        time.sleep(0.2)  # until the last file's time says that it stays
        for name, command in (
            ("status", status),
            ("compare", functools.partial(run, [recipe], n=n_seeds)),
        ):
            _hash_of.cache_clear()
            opened.clear()
            command(runs=runs)
            totals[name, n_seeds] = opened.total()
            hashed = [n for path, n in opened.items() if path.endswith("steps.jsonl")]

            assert set(hashed) == {1}
            assert len(hashed) == 2 * n_seeds
    for name in ("first compare", "status", "compare"):
        assert totals[name, 100] <= 2.1 * totals[name, 50]
