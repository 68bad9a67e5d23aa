"""What a search does for a trial beside its training, counted: earlier trials add nothing to it."""

import math
import os
from collections import Counter
from types import SimpleNamespace

import optuna
import pytest

from study.config.canonical import digest
from study.config.recipe import load_recipe
from study.errors import RecordError
from study.records.files import read_jsonl
from study.records.layout import TRIALS
from study.records.searches import mend_search, search_faults
from study.run.watch import Outcome
from study.search import sampling
from study.search import trials as trials_module
from study.search.arm import search_arm
from study.search.sampling import sample_from, startup
from study.search.storage import open_optuna_study
from study.search.trials import GrowingFile, write_trials

STEPS = (0, 40, 80, 160)
SPACE = {
    "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "beta": optuna.distributions.FloatDistribution(1e-2, 1.0, log=True),
}


@pytest.fixture
def recipe():
    space = ("search.space.orpo.learning_rate=[1e-4, 1e-1]", "search.space.orpo.beta=[1e-2, 1.0]")
    return load_recipe("tiny-llama").override(["training.max_steps=160", *space])


def trained(workbench, *, arm, settings, seed, folder, on_validation, start):
    """Stand in for a training: scores follow from the settings."""
    scores = {}
    for step in STEPS:
        off = abs(math.log(settings["learning_rate"] / 1e-2)) + 1 / (1 + step)
        scores = dict.fromkeys(("nll", "ranking", "lor", "log_odds", "margin", "accuracy"), off)
        if on_validation(step, scores):
            return Outcome(status="stopped", validation=scores)
    return Outcome(validation=scores)


def finished(number: int, **attributes) -> optuna.trial.FrozenTrial:
    """Return a trial as a search tells it."""
    params = {"learning_rate": 1e-3 * (1 + number % 7), "beta": 0.1 + number % 5 / 10}
    told = {"status": "complete", "intermediate": [], "seconds": 1.0, "seed": 1} | attributes
    return optuna.trial.create_trial(
        value=float(number), params=params, distributions=SPACE, user_attrs=told
    )


def in_memory(n_trials: int) -> optuna.Study:
    study = optuna.create_study()
    for number in range(n_trials):
        study.add_trial(finished(number))
    return study


def numbers(folder) -> list[int]:
    return [row["number"] for row in read_jsonl(folder / TRIALS)]


def test_a_search_makes_the_row_of_a_trial_once_as_it_goes_and_once_at_its_end(
    recipe, monkeypatch, tmp_path
):
    made = Counter()
    original = trials_module._trial_row

    def count(trial):
        made[trial.number] += 1
        return original(trial)

    monkeypatch.setattr(trials_module, "_trial_row", count)
    monkeypatch.setattr("study.run.train.train_run", trained)
    base = SimpleNamespace(resolved={}, checked=None)
    workbench = SimpleNamespace(recipe=recipe, device="cpu", data_summary={}, base=base)
    search_arm(workbench, lambda *_: None, arm="orpo", runs=tmp_path, trials=12, seed=0)

    assert made == dict.fromkeys(range(12), 2)


def test_a_worker_reads_of_the_file_what_others_appended_alone(tmp_path, monkeypatch):
    study, mine, theirs = in_memory(40), GrowingFile(tmp_path), GrowingFile(tmp_path)
    mine.add(study)
    read = []
    original = trials_module.read_jsonl
    monkeypatch.setattr(
        trials_module,
        "read_jsonl",
        lambda *given, **how: (read.append(row) or row for row in original(*given, **how)),
    )
    for number in range(40, 45):
        study.add_trial(finished(number))
        mine.add(study)
    theirs.add(study)

    assert numbers(tmp_path) == list(range(45))
    assert len(read) == 5 + 45  # its own five new rows, and all of them once by the other


def test_trials_that_several_workers_append_stand_there_once(tmp_path):
    study, workers = in_memory(1), [GrowingFile(tmp_path) for _ in range(3)]
    for number in range(1, 30):
        study.add_trial(finished(number))
        workers[number % 3].add(study)

    assert numbers(tmp_path) == list(range(30))


def test_half_a_line_of_a_crash_counts_for_nothing_and_is_written_again(tmp_path):
    study = in_memory(3)
    GrowingFile(tmp_path).add(study)
    path = tmp_path / TRIALS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])

    assert search_faults(tmp_path) == []
    assert [row["number"] for row in mend_search(tmp_path)] == [0, 1]
    GrowingFile(tmp_path).add(study)
    assert path.read_bytes() == whole


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    study, growing = in_memory(5), GrowingFile(tmp_path)
    growing.add(study)
    (tmp_path / TRIALS).unlink()
    growing.add(study)
    assert numbers(tmp_path) == list(range(5))

    study.add_trial(finished(5))
    write_trials(study, tmp_path)
    growing.add(study)
    assert numbers(tmp_path) == list(range(6))


def test_a_damaged_row_is_said_so_where_others_would_be_added(tmp_path):
    (tmp_path / TRIALS).write_bytes(b'{"number": \n')

    with pytest.raises(RecordError, match="damaged"):
        GrowingFile(tmp_path).add(in_memory(1))


def test_the_sampler_suggests_what_optunas_own_would_have(recipe):
    study = in_memory(60)
    ours, theirs = [], []
    for number in range(60, 66):
        sample_from(study, recipe, "orpo", 0, number)
        seed = int(digest([0, "orpo", number])[:8], 16)
        own = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup(recipe, "orpo"), multivariate=True
        )
        trial = study.ask(SPACE)
        ours.append(trial.params)
        again = optuna.create_study(sampler=own)
        again.add_trials([one for one in study.trials if one.number < number])
        theirs.append(again.ask(SPACE).params)
        study.tell(trial, 1.0)

    assert ours == theirs


def test_the_sampler_looks_at_each_earlier_trial_once(recipe, monkeypatch):
    study, compared = in_memory(200), []
    original = optuna.distributions.FloatDistribution.__eq__
    monkeypatch.setattr(
        optuna.distributions.FloatDistribution,
        "__eq__",
        lambda self, other: compared.append(1) or original(self, other),
    )
    counts = []
    for number in range(200, 203):
        sample_from(study, recipe, "orpo", 0, number)
        compared.clear()
        study.sampler.infer_relative_search_space(study, study.trials[-1])
        counts.append(len(compared))
        study.add_trial(finished(number))

    assert counts[0] >= 2 * 199  # the first one has to see them all
    assert max(counts[1:]) <= 2 * 2
    assert isinstance(study.sampler, sampling._Sampler)


def test_a_journal_is_flushed_where_a_trial_begins_and_ends(recipe, tmp_path, monkeypatch):
    study = open_optuna_study(tmp_path, recipe, "orpo", "0" * 64, None)
    flushed = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(1) or original(number))
    trial = study.ask()
    begun = len(flushed)
    trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    for step in range(20):
        trial.report(1.0, step)
        trial.set_user_attr(f"seen-{step}", step)
    going = len(flushed)
    study.tell(trial, 1.0)

    assert begun == going == 1
    assert len(flushed) == 2
    again = open_optuna_study(tmp_path, recipe, "orpo", "0" * 64, None)
    assert again.trials[0].user_attrs == {f"seen-{step}": step for step in range(20)}
