"""The dashboard on real journals: all searches under one address, to look at only."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from servers import free_port

from study.config.recipe import load_recipe
from study.errors import ConfigError, RecordError
from study.records.layout import search_folder
from study.search import dashboard
from study.search.dashboard import AllSearches, serving
from study.search.storage import open_optuna_study


def search(runs, arm, n_trials):
    folder = search_folder(runs, "tiny-llama", arm)
    folder.mkdir(parents=True)
    study = open_optuna_study(folder, load_recipe("tiny-llama"), arm, "0" * 16, None)
    for number in range(n_trials):
        trial = study.ask()
        trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        study.tell(trial, float(number))
    return study


def test_searches_of_many_journals_have_numbers_of_their_own(tmp_path):
    search(tmp_path, "sft", 2)
    everything = AllSearches(tmp_path, [])
    before = len(everything.get_all_studies())
    search(tmp_path, "orpo", 3)  # while the dashboard is open
    found = {
        study.study_name.split("/")[1]: study._study_id for study in everything.get_all_studies()
    }
    trials = {arm: everything.get_all_trials(number) for arm, number in found.items()}
    numbers = [trial._trial_id for of_arm in trials.values() for trial in of_arm]

    assert before == 1
    assert {arm: len(of_arm) for arm, of_arm in trials.items()} == {"sft": 2, "orpo": 3}
    assert len(set(numbers)) == 5
    assert all(everything.get_trial(n)._trial_id == n for n in numbers)
    for arm, number in found.items():
        name = everything.get_study_name_from_id(number)
        assert everything.get_study_id_from_name(name) == number
        assert everything.get_best_trial(number) == trials[arm][0]
    with pytest.raises(Exception, match="shown here, not changed"):
        everything.set_study_user_attr(found["sft"], "key", "value")
    with pytest.raises(KeyError):
        everything.get_study_id_from_name("another")


def test_a_folder_without_searches_is_said(tmp_path):
    pytest.importorskip("optuna_dashboard", reason="install the extra `dashboard`")
    with (
        pytest.raises(RecordError, match="there is no search in"),
        serving(tmp_path, [], host="127.0.0.1", port=0),
    ):
        pass


def test_without_the_dashboard_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda _: None)
    with (
        pytest.raises(ConfigError, match=r"pip install '\.\[dashboard\]'"),
        serving(tmp_path, [], host="127.0.0.1", port=0),
    ):
        pass


@pytest.mark.slow
def test_the_command_serves_pages_changes_nothing_and_ends_with_ctrl_c(tmp_path):
    pytest.importorskip("optuna_dashboard", reason="install the extra `dashboard`")
    search(tmp_path, "sft", 2)
    search(tmp_path, "orpo", 3)
    port = free_port()
    words = [sys.executable, "-m", "study.cli", "dashboard", "--runs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    address = f"http://127.0.0.1:{port}"

    def get(path, method="GET"):
        asked = urllib.request.Request(address + path, method=method)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.read().decode()

    with subprocess.Popen(
        [*words, "--port", str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert f"shown at {address}/ until Ctrl-C" in server.stdout.readline()
            page = get("/dashboard")
            script = get("/static/bundle.js")
            studies = json.loads(get("/api/studies"))["study_summaries"]
            counts = {
                study["study_name"].split("/")[1]: len(
                    json.loads(get(f"/api/studies/{study['study_id']}?after=0"))["trials"]
                )
                for study in studies
            }
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(f"/api/studies/{studies[0]['study_id']}", method="DELETE")
            refused.value.close()
            taken = subprocess.run(
                [*words, "--port", str(port)],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
        finally:
            server.send_signal(signal.SIGINT)
        said = server.stderr.read()

    assert "<title>Optuna Dashboard</title>" in page
    assert len(script) > 10_000
    assert counts == {"sft": 2, "orpo": 3}
    assert refused.value.code == 405
    assert (taken.returncode, server.returncode) == (1, 0)
    assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr
    assert said.strip() == "the dashboard is closed"
