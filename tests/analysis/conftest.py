"""Synthetic studies on disk: whole ones to read, a small one to damage."""

import shutil
from pathlib import Path

import made_records
import pytest


@pytest.fixture(scope="session")
def claim_study(tmp_path_factory) -> Path:
    """A finished study of two recipes with the runs of claims; read only."""
    return made_records.make_whole_study(tmp_path_factory.mktemp("claims") / "runs")


@pytest.fixture(scope="session")
def study_runs(tmp_path_factory) -> Path:
    """A finished study of two recipes; read only."""
    return made_records.make_study(tmp_path_factory.mktemp("study") / "runs")


@pytest.fixture
def small_runs(tmp_path) -> Path:
    """A finished study of one recipe, to be damaged."""
    return made_records.make_study(tmp_path / "runs", recipes=("tiny-llama",))


@pytest.fixture
def builders():
    """The functions that write records, for tests that need other ones."""
    return {
        "run": made_records.make_run,
        "plan": made_records.make_plan,
        "claims": made_records.make_claims,
        "search": made_records.make_search,
        "study": made_records.make_study,
        "examples": made_records.make_examples,
        "scores": made_records.scores_of,
        "settings": made_records.METHOD_SETTINGS,
        "recipe": made_records.load_recipe,
        "remove": shutil.rmtree,
    }
