"""The trials behind the choice of objective and sampler: their plan, resuming, replays."""

import itertools
import math

import pytest

from study.config.recipe import load_recipe
from study.records.files import append_jsonl, read_jsonl
from study.search import evidence, replay

SPACE = {"learning_rate": (1e-4, 1e-2)}


@pytest.fixture
def recipe():
    return load_recipe("tiny-llama")


def test_settings_fill_every_range_evenly_and_more_of_them_begin_the_same(recipe, monkeypatch):
    settings = evidence.spread(recipe, "orpo")
    low, high = recipe.search.space["orpo"]["beta"]
    places = sorted(math.log(s["beta"] / low) / math.log(high / low) for s in settings)
    monkeypatch.setattr(evidence, "TRIALS_PER_HYPERPARAMETER", 30)

    assert max(b - a for a, b in itertools.pairwise(places)) < 4 / len(settings)
    assert 0 < places[0] < places[-1] < 1
    assert evidence.spread(recipe, "orpo")[: len(settings)] == settings


def test_trials_on_file_are_not_made_again(recipe, monkeypatch, tmp_path):
    path, made = tmp_path / "objectives.jsonl", []
    monkeypatch.setattr(evidence, "TRIALS_PER_HYPERPARAMETER", 2)
    monkeypatch.setattr("study.model.workbench.open_workbench", lambda recipe, device: None)

    def measure(_, arm, settings):
        made.append((arm, settings))
        return {"key": evidence.trial_key(recipe, arm, settings)}

    monkeypatch.setattr(evidence, "measure", measure)
    first, *rest = evidence.planned(recipe)
    append_jsonl(path, {"key": evidence.trial_key(recipe, *first)})
    evidence.collect(recipe, path)
    evidence.collect(recipe, path)

    assert made == rest
    assert len(list(read_jsonl(path))) == 6


def row(rate, loss, status="ok"):
    steps = [{"step": 0, "nll": loss, "ranking": 0.5}]
    return {"settings": {"learning_rate": rate}, "status": status, "steps": steps}


ROWS = [row(1e-4, 3.0), row(1e-3, 1.0), row(5e-3, 2.0), row(1e-2, 9.0, "diverged")]


def test_the_surrogate_repeats_the_recorded_trials():
    value = replay.surrogate_of(ROWS, SPACE)
    found = [value(one["settings"]) for one in ROWS]

    assert found[:3] == pytest.approx([2.0, 0.0, 1.0], abs=1e-6)
    assert found[3] is None
    assert 0 < value({"learning_rate": 5e-4}) < 2


@pytest.mark.parametrize("name", replay.SAMPLERS)
def test_seed_is_honoured_in_replays(name, monkeypatch):
    monkeypatch.setattr(replay, "SHOWN", (12,))
    value = replay.surrogate_of(ROWS, SPACE)
    first, again, other = (
        replay.replay(value, SPACE, replay.SAMPLERS[name], seed) for seed in (1, 1, 2)
    )

    assert first == again != other
    assert first == sorted(first, reverse=True)
