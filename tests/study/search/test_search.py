import contextlib
import dataclasses
import functools
import json
import math
from types import SimpleNamespace

import optuna
import pytest
from made_records import narrowed
from optuna.exceptions import StorageInternalError

from study.config import seeds
from study.config.canonical import digest
from study.config.recipe import PublishedSetting, load_recipe
from study.errors import ConfigError, RecordError, StudyError
from study.records.files import append_jsonl, read_json, read_jsonl
from study.records.layout import search_folder
from study.records.locks import hold
from study.search import arm as arm_module
from study.search import orphans
from study.search.arm import search_arm
from study.search.confirm import best_trials, choose
from study.search.objectives import DIRECTION, score_trial, validation_value
from study.search.sampling import published_settings
from study.search.search import search
from study.search.storage import open_optuna_study
from study.search.trials import FINISHED, in_state

STEPS = (0, 20, 40, 80, 120, 160)


def bench_of(recipe):
    base = SimpleNamespace(resolved={"dtype": "float32"}, checked=None)
    return SimpleNamespace(recipe=recipe, device="cpu", data_summary={}, base=base)


def small_search():
    """A recipe with one published setting inside its space, whatever the shipped ones have."""
    shipped = load_recipe("tiny-llama").override(
        [
            "training.max_steps=160",
            "search.space.sft.learning_rate=[1e-4, 1e-2]",
            "search.space.orpo.learning_rate=[1e-4, 1e-2]",
            "search.space.orpo.beta=[0.03, 2.0]",
        ]
    )
    known = PublishedSetting(
        arm="orpo", source="axolotl", settings={"learning_rate": 2e-4, "beta": 0.1}
    )
    outside = PublishedSetting(
        arm="orpo", source="TRL", settings={"learning_rate": 1e-6, "beta": 0.1}
    )
    return dataclasses.replace(
        shipped, search=dataclasses.replace(shipped.search, published=(known, outside))
    )


@pytest.fixture
def recipe():
    return small_search()


@pytest.fixture
def trained(monkeypatch):
    """Replace training by a formula; list what was asked for."""
    calls = []

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        calls.append({"arm": arm, "settings": dict(settings), "seed": seed, "folder": folder})
        return follow(settings, seed, on_validation)

    monkeypatch.setattr("study.run.train.train_run", train_run)
    return calls


@pytest.fixture(scope="module")
def long_search(tmp_path_factory):
    """Forty trials of ORPO, searched once for all tests that only look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "study.run.train.train_run",
            lambda bench, *, arm, settings, seed, folder, on_validation, start: follow(
                settings, seed, on_validation
            ),
        )
        return run_arm(small_search(), tmp_path_factory.mktemp("runs"), 40)


def follow(settings, seed, on_validation):
    from study.run.watch import Outcome

    scores = {}
    for step in STEPS:
        if step and settings["learning_rate"] > 8e-3:
            return Outcome(status="diverged", validation=scores)
        scores = held_out(settings, seed, step / STEPS[-1])
        if on_validation(step, scores):
            return Outcome(status="stopped", validation=scores)
    return Outcome(validation=scores)


def held_out(settings, seed, share):
    distance = math.log10(settings["learning_rate"] / 2e-3) ** 2
    distance += math.log10(settings.get("beta", 0.3) / 0.3) ** 2
    nll = 3 - share * (2 - distance) + 0.001 * (seed % 7)
    return {
        "nll": nll,
        "ranking": 0.3 + distance / 20,
        "lor": 0.5 + distance / 10,
        "log_odds": 0.1,
        "margin": 1 - distance,
        "accuracy": 0.5,
        "chosen_logps": -1.0,
        "rejected_logps": -1.5,
    }


def run_arm(recipe, runs, trials, *, arm="orpo", seed=0, **options):
    bench = bench_of(recipe)
    silent = lambda done, total, note: None  # noqa: E731
    search_arm(bench, silent, arm=arm, runs=runs, trials=trials, seed=seed, **options)
    return search_folder(runs, recipe.name, arm)


def rows(folder):
    return list(read_jsonl(folder / "trials.jsonl"))


def reopen(folder, recipe, storage=None):
    digest = read_json(folder / "config.json")["digest"]
    return open_optuna_study(folder, recipe, folder.name, digest, storage)


# Totals, suggestions and seeds


def test_a_search_started_again_goes_on_to_the_total(recipe, trained, tmp_path):
    run_arm(recipe, tmp_path, 4)
    folder = run_arm(recipe, tmp_path, 7)
    n_trained = len(trained)
    run_arm(recipe, tmp_path, 7)

    assert [row["number"] for row in rows(folder)] == list(range(7))
    assert len(trained) == n_trained


@pytest.mark.slow
def test_a_stopped_search_goes_on_to_what_it_would_have_found(recipe, trained, tmp_path):
    whole = run_arm(recipe, tmp_path / "whole", 16)
    for total in (3, 11, 16):
        parts = run_arm(recipe, tmp_path / "parts", total)

    drop = [{k: v for k, v in row.items() if k != "seconds"} for row in rows(whole)]
    assert drop == [{k: v for k, v in row.items() if k != "seconds"} for row in rows(parts)]


def test_no_suggestion_is_made_twice(recipe, trained, tmp_path):
    for total in range(1, 13):
        folder = run_arm(recipe, tmp_path, total)

    assert len({json.dumps(row["settings"]) for row in rows(folder)}) == 12


def test_seed_is_honoured(recipe, trained, tmp_path):
    tried = [
        [row["settings"] for row in rows(run_arm(recipe, tmp_path / str(n), 5, seed=seed))]
        for n, seed in enumerate((0, 0, 1))
    ]

    assert tried[0] == tried[1]
    assert tried[0] != tried[2]


def test_published_settings_are_tried_first_once_and_marked(recipe, trained, tmp_path):
    run_arm(recipe, tmp_path, 1)
    folder = run_arm(recipe, tmp_path, 3)

    first, *others = rows(folder)
    assert first["settings"] == {"learning_rate": 2e-4, "beta": 0.1}
    assert first["published"].startswith("axolotl")
    assert all(row["published"] is None for row in others)


def test_trials_say_whether_a_source_chance_or_the_sampler_chose_them(long_search):
    found = rows(long_search)
    space = small_search().search.space["orpo"]
    alike = []
    for row in found:
        seed = int(digest([0, "orpo", row["number"]])[:8], 16)
        chance = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        drawn = {name: chance.suggest_float(name, *space[name], log=True) for name in space}
        alike.append(row["settings"] == drawn)

    assert [row["sampled"] for row in found] == ["published"] + ["random"] * 10 + ["tpe"] * 29
    assert alike == [False] + [True] * 10 + [False] * 29


def test_published_settings_outside_the_space_are_left_out(recipe):
    narrow = recipe.override(["search.space.orpo.beta=[0.5, 1.0]"])

    assert published_settings(narrow, "orpo") == []
    assert published_settings(recipe, "sft") == []


def test_all_trials_share_one_seed_and_confirmations_never_use_it(recipe, trained, tmp_path):
    folder = run_arm(recipe, tmp_path, 6, seed=4)

    confirmed = {row["seed"] for row in read_jsonl(folder / "confirmations.jsonl")}
    assert {row["seed"] for row in rows(folder)} == {seeds.search_seed(4)}
    assert confirmed == set(seeds.confirmation_seeds(4, 2))
    assert not confirmed & {seeds.search_seed(4), *seeds.compare_seeds(4, 50, recipe="tiny-llama")}


def test_seeds_that_would_meet_the_search_are_refused():
    with pytest.raises(ConfigError, match="--seed is 100"):
        seeds.compare_seeds(100, 3, recipe="tiny-llama")


def test_studies_with_different_seeds_share_no_seed():
    def everything(seed):
        return {seeds.search_seed(seed), *seeds.confirmation_seeds(seed, 9)} | set(
            seeds.compare_seeds(seed, 9, recipe="tiny-llama")
        )

    assert not everything(0) & everything(1)


def test_recipes_of_one_study_share_no_seed():
    one, other, shared = (
        set(seeds.compare_seeds(3, 99, recipe=name)) for name in ("tiny-llama", "tiny-smollm2", "")
    )

    assert not one & other
    assert not (one | other) & shared
    assert {seeds.study_seed(seed) for seed in one | other | shared} == {3}
    assert max(one | other) < 2**31


# Trials that end early, and objectives


def test_pruned_and_diverged_trials_count(long_search):
    states = [row["state"] for row in rows(long_search)]
    best = read_json(long_search / "best.json")
    assert len(states) == best["n_trials"] == 40
    assert states.count("pruned") == best["n_pruned"] > 0
    assert states.count("diverged") == best["n_diverged"] > 0


def test_a_diverged_trial_has_no_value(long_search):
    diverged = [row for row in rows(long_search) if row["state"] == "diverged"]
    assert {row["value"] for row in diverged} == {row["nll"] for row in diverged} == {None}
    assert all(row["settings"]["learning_rate"] > 8e-3 for row in diverged)


def test_no_trial_is_pruned_before_a_quarter_of_its_steps(long_search):
    lengths = [
        row["intermediate"][-1]["step"] for row in rows(long_search) if row["state"] == "pruned"
    ]
    assert min(lengths) >= 40
    assert max(lengths) < 160


SCORED = {"nll": 2.0, "ranking": 0.5, "lor": 0.25, "accuracy": 0.75, "margin": 1.5}


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        ("nll+ranking", 2.5),
        ("nll+lor", 2.25),
        ("nll", 2.0),
        ("accuracy", 0.75),
        ("margin", 1.5),
        ("rougeL", None),
    ],
)
def test_an_objective_is_a_score_or_a_sum_of_scores(objective, value):
    assert objective in DIRECTION
    assert validation_value(objective, SCORED) == value
    assert validation_value(objective, dict.fromkeys(SCORED, math.nan)) is None


def test_a_search_on_the_ranking_loss_stores_its_parts_and_the_old_objective(
    recipe, trained, tmp_path
):
    folder = run_arm(recipe.override(["search.objective=nll+ranking"]), tmp_path, 12)
    complete = [row for row in rows(folder) if row["state"] == "complete"]
    repeats = list(read_jsonl(folder / "confirmations.jsonl"))

    assert all(row["value"] == row["nll"] + row["ranking"] for row in [*complete, *repeats])
    assert all({"nll", "ranking", "lor"} <= row["intermediate"][-1].keys() for row in complete)
    assert min(row["nll"] + row["lor"] for row in complete) > 0
    assert read_json(folder / "best.json")["direction"] == "minimize"


@pytest.mark.parametrize("objective", ["accuracy", "margin"])
def test_objectives_that_cannot_be_pruned_on_are_not(recipe, trained, tmp_path, objective):
    folder = run_arm(recipe.override([f"search.objective={objective}"]), tmp_path, 20)

    assert "pruned" not in {row["state"] for row in rows(folder)}


# What is frozen, and its repetitions


def test_the_search_finds_good_settings(long_search):
    settings = read_json(long_search / "best.json")["settings"]
    assert settings["learning_rate"] == pytest.approx(2e-3, rel=0.6)
    assert settings["beta"] == pytest.approx(0.3, rel=0.6)


def test_best_json_says_what_was_frozen_and_how_optimistic_the_search_was(
    recipe, trained, tmp_path
):
    folder = run_arm(recipe, tmp_path, 8)

    best = read_json(folder / "best.json")
    repeats = [
        row["value"]
        for row in read_jsonl(folder / "confirmations.jsonl")
        if row["settings"] == best["settings"]
    ]
    winner = rows(folder)[best["trial"]]
    assert best["value"] == pytest.approx(sum(repeats) / 2)
    assert best["trial_value"] == winner["value"] == winner["nll"] + winner["ranking"]
    assert best["direction"] == "minimize"
    assert best["digest"] == read_json(folder / "config.json")["digest"]
    assert len(list(read_jsonl(folder / "confirmations.jsonl"))) == 6


def test_optimism_is_positive_when_a_maximised_trial_looked_too_good():
    trials = [{"number": 0, "state": "complete", "settings": {"learning_rate": 1.0}, "value": 0.9}]
    repeats = [{"settings": {"learning_rate": 1.0}, "status": "ok", "value": v} for v in (0.7, 0.8)]

    best = choose(trials, trials, repeats, objective="accuracy")
    assert best["optimism"] == pytest.approx(0.15)


def test_optimism_is_that_of_the_best_trial_not_of_the_winner():
    trials = [
        {"number": n, "state": "complete", "settings": {"learning_rate": lr}, "value": value}
        for n, (lr, value) in enumerate([(1.0, 0.1), (2.0, 0.2)])
    ]
    repeats = [
        {"settings": {"learning_rate": lr}, "status": "ok", "value": value}
        for lr, value in [(1.0, 0.5), (2.0, 0.15)]
    ]
    best = choose(trials, trials, repeats, objective="nll")

    assert best["trial"] == 1
    assert best["optimism"] == pytest.approx(0.4)


def test_settings_whose_repetition_diverged_do_not_win():
    trials = [
        {"number": n, "state": "complete", "settings": {"learning_rate": lr}, "value": value}
        for n, (lr, value) in enumerate([(1.0, 0.1), (2.0, 0.2)])
    ]
    repeats = [
        {"settings": {"learning_rate": 1.0}, "status": "ok", "value": 0.1},
        {"settings": {"learning_rate": 1.0}, "status": "diverged", "value": None},
        {"settings": {"learning_rate": 2.0}, "status": "ok", "value": 0.2},
    ]

    assert choose(trials, trials, repeats, objective="nll")["trial"] == 1


def test_candidates_are_distinct_settings():
    trials = [
        {"number": n, "state": "complete", "settings": {"learning_rate": lr}, "value": value}
        for n, (lr, value) in enumerate([(1.0, 0.2), (1.0, 0.1), (2.0, 0.3), (3.0, 0.4)])
    ]

    assert [t["number"] for t in best_trials(trials, objective="nll", n=2)] == [1, 2]


def test_confirmations_on_file_are_kept_when_the_search_goes_on(recipe, trained, tmp_path):
    folder = run_arm(recipe, tmp_path, 6)
    before = list(read_jsonl(folder / "confirmations.jsonl"))
    run_arm(recipe, tmp_path, 25)

    repeated = [call for call in trained if call["seed"] != seeds.search_seed(0)]
    assert list(read_jsonl(folder / "confirmations.jsonl"))[:6] == before
    assert len(repeated) == len({str(call) for call in repeated})


# Several workers


def test_a_running_trial_of_a_dead_worker_is_retired_and_tried_again(recipe, trained, tmp_path):
    folder = run_arm(recipe, tmp_path, 2)
    dead = reopen(folder, recipe).ask()
    dead.set_user_attr("worker", "gone")
    dead.set_user_attr("sampled", "tpe")
    settings = {
        "learning_rate": dead.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "beta": dead.suggest_float("beta", 0.03, 2.0, log=True),
    }
    run_arm(recipe, tmp_path, 4)

    assert [row["number"] for row in rows(folder)] == [0, 1, 3, 4]
    assert rows(folder)[2]["settings"] == settings
    assert [row["sampled"] for row in rows(folder)] == ["published", "random", "tpe", "random"]


def test_a_trial_of_a_living_worker_is_left_alone(recipe, trained, tmp_path):
    folder = run_arm(recipe, tmp_path, 2)
    optuna_study = reopen(folder, recipe)
    with orphans.working(optuna_study, folder, trials=3, shared=False) as worker:
        optuna_study.ask().set_user_attr("worker", worker)
        n_retired = orphans.retire(optuna_study, folder, names=["beta"], shared=False)
        run_arm(recipe, tmp_path, 3)

    assert n_retired == 0
    assert len(rows(folder)) == 2


def test_an_interrupted_trial_is_given_back_at_once(recipe, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("study.run.train.train_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_arm(recipe, tmp_path, 2)

    folder = search_folder(tmp_path, recipe.name, "orpo")
    states = [trial.state.name for trial in reopen(folder, recipe).get_trials()]
    assert states == ["FAIL", "WAITING"]
    assert not list(folder.glob(".worker-*"))


def test_two_workers_never_exceed_the_total_nor_repeat_published_settings(
    recipe, trained, monkeypatch, tmp_path
):
    """A second worker takes its turn inside each of the first one's trials."""
    from study.run import train

    train_alone, depth = train.train_run, []

    def train_run(*args, **kwargs):
        if not depth:
            depth.append(1)
            run_arm(recipe, tmp_path, 5)
        return train_alone(*args, **kwargs)

    monkeypatch.setattr("study.run.train.train_run", train_run)
    folder = run_arm(recipe, tmp_path, 5)

    assert len(rows(folder)) == 5
    assert sum(row["published"] is not None for row in rows(folder)) == 1
    assert (folder / "best.json").exists()


def test_a_trial_beyond_the_total_is_given_back(recipe, trained, monkeypatch, tmp_path):
    """Two workers saw the same last vacancy; the later trial has to go."""
    folder = run_arm(recipe, tmp_path, 1)
    optuna_study, views = reopen(folder, recipe), [[]]
    look = arm_module.in_state
    monkeypatch.setattr(arm_module, "in_state", lambda *args: views.pop() if views else look(*args))

    late = arm_module._next_trial(optuna_study, recipe, "orpo", 1, worker="late", folder=folder)

    assert late is None
    assert [trial.state.name for trial in optuna_study.get_trials()] == ["COMPLETE", "FAIL"]


def test_published_settings_that_two_workers_enqueued_are_tried_once(recipe, trained, tmp_path):
    folder = run_arm(recipe, tmp_path, 1)
    optuna_study = reopen(folder, recipe)
    optuna_study.enqueue_trial(rows(folder)[0]["settings"], user_attrs=rows(folder)[0])
    run_arm(recipe, tmp_path, 4)

    assert sum(row["published"] is not None for row in rows(folder)) == 1
    assert len(rows(folder)) == 4


def test_trials_that_run_side_by_side_never_draw_the_same(recipe, tmp_path):
    """The second takes its place after a repeated trial before the first was given up."""
    optuna_study = open_optuna_study(tmp_path, recipe, "orpo", "0" * 16, None)
    repeated, first = optuna_study.ask(), optuna_study.ask()
    arm_module.sample_from(optuna_study, recipe, "orpo", 0, first.number)
    drawn = [first.suggest_float("beta", 0.03, 2.0, log=True)]
    optuna_study.tell(repeated, state=orphans.TrialState.FAIL)
    second = optuna_study.ask()
    arm_module.sample_from(optuna_study, recipe, "orpo", 0, second.number)
    drawn.append(second.suggest_float("beta", 0.03, 2.0, log=True))

    places = [arm_module.place_of(optuna_study, n) for n in (first.number, second.number)]
    assert places == [0, 1]
    assert drawn[0] != drawn[1]


# Storages, and what is refused


def test_another_storage_holds_the_search(recipe, trained, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    folder = run_arm(recipe, tmp_path, 3, storage=storage)
    run_arm(recipe, tmp_path, 4, storage=storage)

    assert len(rows(folder)) == 4
    assert not (folder / "journal.log").exists()


def test_a_storage_that_is_lost_on_the_way_is_one_message(recipe, trained, tmp_path, monkeypatch):
    def lost(*_, **__):
        raise StorageInternalError("server closed the connection\nunexpectedly")

    storage = f"sqlite:///{tmp_path}/study.db"
    folder = run_arm(recipe, tmp_path, 2, storage=storage)
    monkeypatch.setattr("study.search.arm._next_trial", lost)

    with pytest.raises(RecordError, match=r"was lost \(server closed the connection\);"):
        run_arm(recipe, tmp_path, 4, storage=storage)
    assert len(rows(folder)) == 2


def test_a_storage_that_cannot_be_opened_is_one_message(recipe, trained, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot use the storage .*no URL"):
        run_arm(recipe, tmp_path, 1, storage="nonsense")


def test_a_changed_recipe_is_refused_with_the_field(recipe, trained, tmp_path):
    run_arm(recipe, tmp_path, 1)

    with pytest.raises(RecordError, match=r"recipe\.training\.max_steps: 160 .* 50"):
        run_arm(recipe.override(["training.max_steps=50"]), tmp_path, 1)


def test_a_search_in_which_everything_diverges_says_so(recipe, trained, tmp_path):
    hot = recipe.override(["search.space.sft.learning_rate=[9e-3, 1e-2]"])

    with pytest.raises(StudyError, match="none of the 3 trials"):
        run_arm(hot, tmp_path, 3, arm="sft")


def test_all_arms_of_all_recipes_are_searched_the_longest_first(trained, tmp_path):
    both = (load_recipe(name) for name in ("tiny-smollm2", "tiny-llama"))
    recipes = [narrowed(recipe, "sft", "orpo") for recipe in both]
    names = []

    def run_jobs(jobs):
        names.extend(job.name for job in jobs)
        for job in jobs:
            job.work(bench_of(job.recipe), lambda *_: None)
        return []

    ask = functools.partial(search, recipes, runs=tmp_path, seed=0, run_jobs=run_jobs)
    found = ask(trials=2)

    assert names == [
        "tiny-smollm2/orpo",
        "tiny-llama/orpo",
        "tiny-smollm2/sft",
        "tiny-llama/sft",
    ]
    assert {(best["recipe"], best["arm"]) for best in found} == {
        tuple(name.split("/")) for name in names
    }
    assert {best["n_trials"] for best in found} == {2}
    names.clear()
    assert ask(trials=2) == found
    assert names == []


def test_a_lock_goes_with_its_holder(tmp_path):
    with hold(tmp_path / "lock") as mine, hold(tmp_path / "lock") as second:
        assert (mine, second) == (True, False)
    with hold(tmp_path / "lock") as again:
        assert again


def test_the_search_leaves_other_loggers_quiet(recipe, trained, tmp_path, capsys):
    run_arm(recipe, tmp_path, 2)

    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR


# Interruptions


def test_an_interrupted_trial_goes_on_from_its_checkpoint(recipe, monkeypatch, tmp_path):
    began = []

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        """Log like the real loop, keep every validation as a checkpoint, stop once at 80."""
        from study.run.watch import Outcome

        done = [row["step"] for row in read_jsonl(folder / "steps.jsonl")]
        began.append((settings, done))
        scores = {}
        for step in STEPS[len(done) :]:
            if step == 80 and not done:
                raise KeyboardInterrupt
            scores = held_out(settings, seed, step / STEPS[-1])
            append_jsonl(folder / "steps.jsonl", {"split": "validation", "step": step, **scores})
            on_validation(step, scores)
        return Outcome(validation=scores)

    monkeypatch.setattr("study.run.train.train_run", train_run)
    folder = search_folder(tmp_path, recipe.name, "orpo")
    with pytest.raises(KeyboardInterrupt):
        run_arm(recipe, tmp_path, 1)
    kept = list(folder.glob(".trial-*"))
    with pytest.raises(KeyboardInterrupt):  # in the first repetition
        run_arm(recipe, tmp_path, 1)

    settings = rows(folder)[0]["settings"]
    assert began[:2] == [(settings, []), (settings, [0, 20, 40])]
    assert [row["step"] for row in rows(folder)[0]["intermediate"]] == list(STEPS)
    assert reopen(folder, recipe).trials[1].intermediate_values.keys() == set(STEPS[:-1])
    assert len(kept) == 1
    assert not kept[0].exists()
    for _ in range(5):
        with contextlib.suppress(KeyboardInterrupt):
            run_arm(recipe, tmp_path, 1)
    assert (folder / "best.json").exists()
    assert not list(folder.glob(".trial-*"))


@pytest.mark.parametrize("pruning", ["median", "halving"])
def test_a_search_that_was_interrupted_equals_an_undisturbed_one(
    recipe, monkeypatch, tmp_path, pruning
):
    """Among published settings that still wait, among random trials and guided ones."""
    near = [0.003, 0.0005, 0.00015, 0.004, 0.0002, 0.0011]
    published = tuple(
        PublishedSetting(arm="orpo", source=f"S{n}", settings={"learning_rate": rate, "beta": 0.3})
        for n, rate in enumerate(near)
    )
    recipe = recipe.override([f"search.pruning={pruning}"])
    recipe = dataclasses.replace(
        recipe, search=dataclasses.replace(recipe.search, published=published)
    )
    stops: list[tuple[int, int]] = []

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        n_done = len(in_state(reopen(runs, recipe), FINISHED))

        def hear(step, scores):
            if (n_done, step) in stops:
                stops.remove((n_done, step))
                raise KeyboardInterrupt
            return on_validation(step, scores)

        return follow(settings, seed, hear)

    monkeypatch.setattr("study.run.train.train_run", train_run)
    monkeypatch.setattr("study.search.arm.confirm", lambda *args, **how: None)
    found = []
    for name, planned in (
        ("whole", []),
        ("killed", [(0, 0), (0, 160), (2, 20), (3, 40), (8, 0), (17, 0)]),
    ):
        runs = search_folder(tmp_path / name, recipe.name, "orpo")
        stops = list(planned)
        for _ in range(len(planned) + 1):
            with contextlib.suppress(KeyboardInterrupt):
                run_arm(recipe, tmp_path / name, 20)
        found.append([drop(row, "seconds", "number") for row in rows(runs)])
        stopped = planned and not stops

    assert stopped
    assert "pruned" in {row["state"] for row in found[0]}
    assert found[0] == found[1]


def drop(row, *names):
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [4, "end"])
def test_a_real_trial_that_was_interrupted_ends_as_if_it_were_not(
    workbench, monkeypatch, tmp_path, stop_at
):
    import study.run.train

    def interrupt():
        raise KeyboardInterrupt

    def train(folder, stop_at=None):
        told = []

        def follow(step, scores):
            told.append((step, dict(scores)))
            if step == stop_at:
                raise KeyboardInterrupt
            return False

        settings = {"learning_rate": 3e-3, "beta": 0.1}
        options = {"arm": "orpo", "settings": settings, "seed": 1, "folder": folder}
        return score_trial(workbench, follow=follow, **options), told

    every = ["training.validate_every_steps=2", "training.checkpoint_every_steps=2"]
    workbench.recipe = workbench.recipe.override(every)
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        if stop_at == "end":  # after the last step's checkpoint
            save = study.run.train.save_adapter
            patch.setattr(
                "study.run.train.save_adapter",
                lambda model, where: interrupt() if where.name == "adapter" else save(model, where),
            )
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", stop_at)

    assert train(tmp_path / "parts") == whole
    assert [step for step, _ in whole[1]] == [0, 2, 4, 6, 8]
