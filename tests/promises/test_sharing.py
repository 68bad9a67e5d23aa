"""Many processes on one study: searches that share a storage, comparisons that share runs."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from servers import PASSWORD, free_port, run_mariadb, run_postgresql

from study.config.recipe import load_recipe
from study.records.files import read_json, read_jsonl
from study.records.layout import search_folder
from study.records.locks import hold
from study.records.runs import compare_folders
from study.search import orphans
from study.search.search import search
from study.search.storage import _JournalLock, open_optuna_study
from study.workers.devices import Slot
from study.workers.jobs import run_jobs

STAND_IN = '''
"""Stands in for model, data and training, so that a trial takes milliseconds."""

import math
import os
import sys
import time
from dataclasses import make_dataclass
from types import SimpleNamespace

from study.records.files import write_bytes

SCORES = dict.fromkeys(("margin", "accuracy", "log_odds", "chosen_logps", "rejected_logps"), 0.5)


def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
    with open(os.environ["TRAINED"], "a") as file:
        file.write(f"{os.getpid()} {arm} {seed}\\n")
    wait_for_others()
    write_bytes(folder / "steps.jsonl", b"")
    for step in (0, 60, 120):
        time.sleep(0.01)
        distance = math.log10(settings["learning_rate"] / 2e-3) ** 2
        scores = {"nll": 3 + distance - step / 100, "ranking": distance, **SCORES}
        if on_validation(step, scores):
            return SimpleNamespace(status="stopped", validation=scores)
    return outcome(scores)


def wait_for_others():
    """Wait until as many processes train as the test asks for."""
    until = time.monotonic() + 60
    while len({line.split()[0] for line in open(os.environ["TRAINED"])}) < int(os.environ["GATE"]):
        assert time.monotonic() < until
        time.sleep(0.02)


OUTCOME = ("status", "validation", "cost", "parameters", "divergence", "out_of_memory")
OUTCOME += ("budget", "start")


def outcome(scores):
    return make_dataclass("Outcome", OUTCOME)(
        status="ok",
        validation=scores,
        cost={},
        parameters={},
        divergence=None,
        out_of_memory=[],
        budget=None,
        start=None,
    )


def discard_checkpoints(folder):
    pass


def open_workbench(recipe, device, report):
    sys.modules["study.run.train"] = sys.modules[__name__]
    sys.modules["study.run.evaluate"] = SimpleNamespace(evaluate_run=lambda *a, **b: {"nll": 1.0})
    import study.compare

    study.run.make._untrained = lambda workbench, run: outcome({})
    base = SimpleNamespace(resolved={}, checked=None)
    return SimpleNamespace(recipe=recipe, device="cpu", data_summary={}, base=base)
'''

COMPARE = """
import sys
from pathlib import Path

import stand_in
from made_records import narrowed

from study.compare import compare
from study.config.recipe import load_recipe
from study.workers.devices import Slot
from study.workers.jobs import run_jobs

if __name__ == "__main__":
    def here(jobs):
        slots = [Slot(device="cpu")]
        return run_jobs(jobs, slots=slots, quiet=True, open_workbench=stand_in.open_workbench)

    recipe, runs = narrowed(load_recipe("tiny-llama"), "sft", "orpo"), Path(sys.argv[1])
    compare([recipe], runs=runs, seeds=6, seed=0, run_jobs=here)
"""

SEARCH = """
import sys
from pathlib import Path

import stand_in
from made_records import narrowed

from study.config.recipe import load_recipe
from study.search.search import search
from study.workers import jobs as workers
from study.workers.devices import Slot

if __name__ == "__main__":
    workers.PRELOADED = ()  # these train nothing

    def here(jobs):
        slots, opened = [Slot(device="cpu")] * 2, stand_in.open_workbench
        return workers.run_jobs(jobs, slots=slots, quiet=True, open_workbench=opened)

    runs, storage = sys.argv[1:]
    ask = {"trials": 12, "seed": 0, "storage": storage, "say": print}
    recipe = narrowed(load_recipe("tiny-llama"), "sft", "orpo")
    search([recipe], runs=Path(runs), run_jobs=here, **ask)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a module that worker processes can import too."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("TRAINED", str(tmp_path / "trained"))
    monkeypatch.setenv("GATE", "1")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.syspath_prepend(folder)
    import stand_in

    yield stand_in
    del sys.modules["stand_in"]


@pytest.fixture(scope="session")
def postgresql():
    with run_postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def mariadbs():
    with run_mariadb() as urls:
        yield urls


@pytest.fixture
def mariadb(mariadbs):
    return mariadbs.open


@pytest.fixture
def grpc(mariadb):
    """Optuna's proxy in front of MariaDB."""
    pytest.importorskip("grpc", reason="install the extra `grpc`")
    port = free_port()
    words = [sys.executable, "-m", "study.cli", "proxy", "--storage", mariadb, "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as proxy:
        assert "until Ctrl-C" in proxy.stdout.readline()
        yield f"grpc://localhost:{port}"
        proxy.send_signal(signal.SIGINT)
        assert "the proxy is closed" in proxy.stdout.read()
    assert proxy.returncode == 0


@pytest.fixture
def recipe():
    published = ["search.space.orpo.learning_rate=[1e-6, 2e-2]", "search.space.orpo.beta=[0.05, 2]"]
    return load_recipe("tiny-llama").override([*published, "training.max_steps=120"])


def arms(recipe, *names):
    """Leave only some arms in a recipe's search space."""
    space = {name: recipe.search.space[name] for name in names}
    return dataclasses.replace(recipe, search=dataclasses.replace(recipe.search, space=space))


def search_with_four(stand_in, recipe, runs, storage):
    def workers(jobs):
        slots = [Slot(device="cpu")] * 4
        return run_jobs(jobs, slots=slots, quiet=True, open_workbench=stand_in.open_workbench)

    ask = {"trials": 40, "seed": 0, "storage": storage, "workers": 4}
    said = []
    (best,) = search([recipe], runs=runs, run_jobs=workers, say=said.append, **ask)

    assert said == []
    return best


def check_forty(best, recipe, runs, storage):
    from study.search.sampling import published_settings

    folder = search_folder(runs, recipe.name, "orpo")
    rows = list(read_jsonl(folder / "trials.jsonl"))
    digest = read_json(folder / "config.json")["digest"]
    with opened(folder, recipe, storage, digest) as study:
        everything = study.get_trials()
    finished = [t.number for t in everything if t.state.name in ("COMPLETE", "PRUNED")]
    published = [row["published"] for row in rows if row["published"]]

    assert best["n_trials"] == len(rows) == len(finished) == 40
    assert [row["number"] for row in rows] == finished
    assert not [t for t in everything if t.state.name == "RUNNING"]
    assert sorted(published) == sorted(source for _, source in published_settings(recipe, "orpo"))
    assert len(published) > 4
    assert len({json.dumps(row["settings"]) for row in rows}) == 40
    assert len({t.user_attrs["worker"] for t in everything if t.number in finished}) > 1
    assert not list(folder.glob(".trial-*")) + list(folder.glob(".worker-*"))


@contextmanager
def opened(folder, recipe, storage, digest="0" * 16):
    """Open a search; give the database its connections back."""
    study = open_optuna_study(folder, recipe, "orpo", digest, storage)
    try:
        yield study
    finally:
        if storage and storage.startswith("grpc"):
            study._storage.close()
        elif storage:
            study._storage.remove_session()
            study._storage._backend.engine.dispose()


@pytest.mark.slow
def test_four_workers_share_forty_trials_in_a_journal(stand_in, recipe, tmp_path):
    recipe = arms(recipe, "orpo")
    best = search_with_four(stand_in, recipe, tmp_path, None)

    check_forty(best, recipe, tmp_path, None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "grpc"])
def test_four_workers_share_forty_trials_in_a_database(stand_in, recipe, tmp_path, request, kind):
    storage = request.getfixturevalue(kind)
    recipe = dataclasses.replace(arms(recipe, "orpo"), name=f"by-{kind}")
    best = search_with_four(stand_in, recipe, tmp_path, storage)

    check_forty(best, recipe, tmp_path, storage)


@pytest.mark.slow
def test_two_machines_share_a_search_in_one_storage(stand_in, tmp_path, monkeypatch, postgresql):
    """Each has a folder of its own; who is not the last to finish says so, and freezes later."""
    monkeypatch.setenv("GATE", "4")
    # An empty database: all workers want to make its tables at once.
    storage = postgresql.replace("/postgres", "/template1")
    script = tmp_path / "modules" / "search_here.py"
    script.write_text(SEARCH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [
        [sys.executable, str(script), str(tmp_path / name), storage] for name in ("one", "two")
    ]
    both = [subprocess.Popen(w, env=environment, stdout=subprocess.PIPE, text=True) for w in words]
    said = [process.communicate(timeout=300)[0] for process in both]
    frozen = [[(tmp_path / name / best(arm)).exists() for arm in ARMS] for name in ("one", "two")]
    again = [subprocess.run(w, env=environment, check=True, capture_output=True) for w in words]

    assert [process.returncode for process in both] == [0, 0]
    assert [text.count("is not finished here") for text in said] == [f.count(False) for f in frozen]
    assert sum(map(sum, frozen)) >= len(ARMS)
    assert [done.stdout for done in again] == [b"", b""]
    for arm in ARMS:
        found = [read_json(tmp_path / name / best(arm)) for name in ("one", "two")]
        assert found[0] == found[1]
        assert found[0]["n_trials"] == 12


ARMS = ("sft", "orpo")


def best(arm):
    return f"tiny-llama/search/{arm}/best.json"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb", "grpc"])
def test_another_machines_trial_is_taken_when_its_heart_stands_still(
    recipe, tmp_path, monkeypatch, request, kind
):
    monkeypatch.setattr(orphans, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(orphans, "DEAD_AFTER_S", 3.0)
    monkeypatch.setattr(orphans, "LOOK_EVERY_S", 0.05)
    storage = f"sqlite:///{tmp_path}/study.db"
    if kind != "sqlite":
        storage = request.getfixturevalue(kind)
    recipe = dataclasses.replace(recipe, name=f"of-{kind}")
    here, there, names = tmp_path / "here", tmp_path / "there", ("learning_rate", "beta")
    settings = {"learning_rate": 1e-3, "beta": 0.1}
    with opened(here, recipe, storage) as study:
        retire = functools.partial(orphans.retire, study, here, names=names, shared=True)
        study.enqueue_trial(settings)
        trial = study.ask()
        with orphans.working(study, there, trials=2, shared=True) as worker:
            trial.set_user_attr("worker", worker)
            began = time.monotonic()

            assert retire() == 0
            assert time.monotonic() - began < 2
        assert (retire(), retire()) == (1, 0)
        failed, waiting = study.get_trials()
        assert not orphans.tell(study, 0, 1.0)
    assert (failed.state.name, waiting.state.name) == ("FAIL", "WAITING")
    assert waiting.system_attrs["fixed_params"] == settings


def test_a_trial_given_back_by_half_is_queued_by_the_next_process(recipe, tmp_path):
    study = open_optuna_study(tmp_path, recipe, "orpo", "0" * 16, None)
    study.enqueue_trial({"learning_rate": 1e-3, "beta": 0.1}, user_attrs={"published": "TRL"})
    study.enqueue_trial({"learning_rate": 1e-4})
    for _ in range(2):
        number = study.ask().number
        study.set_user_attr(f"given-back-{number}", True)
        study.tell(number, state=orphans.TrialState.FAIL)
    for _ in range(2):
        orphans.retire(study, tmp_path, names=("learning_rate", "beta"), shared=False)

    states = [t.state.name for t in study.get_trials()]
    assert states == ["FAIL", "FAIL", "WAITING"]
    assert study.get_trials()[2].user_attrs == {"published": "TRL", "retry_of": 0}


def test_half_a_line_in_the_journal_is_cut_off_by_the_next_writer(recipe, tmp_path):
    study = open_optuna_study(tmp_path, recipe, "orpo", "0" * 16, None)
    study.tell(study.ask(), 1.0)
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write('{"op_code": 4, "worker')
    open_optuna_study(tmp_path, recipe, "orpo", "0" * 16, None).ask()

    again = open_optuna_study(tmp_path, recipe, "orpo", "0" * 16, None)
    states = [t.state.name for t in again.get_trials()]
    assert states == ["COMPLETE", "RUNNING"]
    assert all(json.loads(line) for line in (tmp_path / "journal.log").read_text().splitlines())


def test_a_writer_that_is_killed_does_not_hold_up_the_journal(recipe, tmp_path):
    code = """
        import os, pathlib, sys
        from study.search.storage import _JournalLock
        _JournalLock(pathlib.Path(sys.argv[1])).acquire()
        os.kill(os.getpid(), 9)
    """
    study = open_optuna_study(tmp_path, recipe, "orpo", "0" * 16, None)
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "journal.log"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    began = time.monotonic()
    study.ask()

    assert time.monotonic() - began < 2
    lock = _JournalLock(tmp_path / "journal.log")
    lock.acquire()
    with hold(tmp_path / ".journal.log.lock") as free:
        assert not free
    lock.release()


URLS = {
    "nothing://me:secret@host/db": "nothing://me:***@host/db",
    "nothing://me:pass@secret@host/db": "nothing://me:***@host/db",
    "nothing://me:a/secret@host/db": "nothing://me:***@host/db",
    "nothing://me@host/db?password=secret": "nothing://me@host/db?password=...",
    "nothing://me@host/db?sslpassword=secret&x=1": "nothing://me@host/db?sslpassword=...&x=...",
    "nothing:/me:secret@host": "(an address that is no URL)",
    "nothing://me:p@host:secret/db": "(an address that is no URL)",
    "secret": "(an address that is no URL)",
    "sqlite:///no/folder/study.db": "sqlite:///no/folder/study.db",
}


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_not_shown(recipe, tmp_path, monkeypatch, url):
    from optuna.exceptions import StorageInternalError

    from study.errors import ConfigError, RecordError
    from study.search.storage import reachable

    monkeypatch.setattr("study.search.storage.OPENINGS", 1)
    with pytest.raises(ConfigError) as refused:
        open_optuna_study(tmp_path, recipe, "orpo", "0" * 16, url)
    with pytest.raises(RecordError) as lost, reachable(url):
        raise StorageInternalError(f"no answer from {url}")

    for said in (str(refused.value), str(lost.value)):
        assert f"{URLS[url]!r}" in said
        assert "secret" not in said


SHORT = (
    "data.train_pairs=64",
    "data.validation_pairs=12",
    "data.test_pairs=12",
    "training.max_steps=4",
    "training.batch_pairs=8",
    "training.warmup_steps=1",
    "training.validate_every_steps=4",
    "search.pruning=none",
    "search.confirm_top=1",
    "search.confirm_seeds=1",
)


@pytest.mark.slow
def test_a_database_s_password_is_in_no_record_message_or_list_of_processes(tmp_path, mariadbs):
    name, _, rest = mariadbs.closed.partition("@")
    secret = quote_plus(PASSWORD)
    (tmp_path / "storage").write_text(f"{name}:{secret}@{rest}\n")
    (tmp_path / "storage").chmod(0o600)
    runs = tmp_path / "runs"
    words = [sys.executable, "-m", "study.cli", "search", "--recipe", "tiny-llama", "--arm", "sft"]
    words += ["--trials", "1", "--device", "cpu", "--runs", str(runs)]
    words += [word for change in SHORT for word in ("--set", change)]
    seen = set()
    with subprocess.Popen(
        [*words, "--storage-file", str(tmp_path / "storage")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(path.read_text(errors="replace"))
            time.sleep(0.1)
        said = process.stdout.read()

    assert process.returncode == 0, said
    assert (runs / "tiny-llama" / "search" / "sft" / "best.json").exists()
    assert any("forkserver" in words for words in seen), "no worker was seen"
    written = [said, *seen, *(path.read_text(errors="replace") for path in files_in(runs))]
    assert not [text for text in written if PASSWORD in text or secret in text]


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_two_comparisons_at_once_divide_the_runs(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("GATE", "2")
    script = tmp_path / "modules" / "compare_here.py"
    script.write_text(COMPARE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, str(script), str(tmp_path / "runs")]
    both = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.communicate(timeout=300)

    lines = (tmp_path / "trained").read_text().splitlines()
    trained = [line.partition(" ")[2] for line in lines]
    assert len({line.partition(" ")[0] for line in lines}) == 2
    assert [process.returncode for process in both] == [0, 0]
    assert len(trained) == len(set(trained)) == 12
    assert len(compare_folders(tmp_path / "runs", "tiny-llama")) == 13
    assert all(f.record() for _, _, f in compare_folders(tmp_path / "runs", "tiny-llama"))


def test_a_held_lock_waits_for_a_look_at_it(tmp_path, monkeypatch):
    """Another process that only asks whether a lock is held must not seem to hold it."""
    import fcntl

    calls = []
    flock = fcntl.flock

    def looked_at_twice(file, how):
        calls.append(how)
        if len(calls) <= 2:
            raise BlockingIOError
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", looked_at_twice)
    with hold(tmp_path / "lock") as mine:
        assert mine
