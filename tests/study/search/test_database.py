"""Databases of searches: passwords stay out of sight, drivers and proxies are checked."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import PASSWORD as SECRET
from servers import free_port

from study.config.recipe import load_recipe
from study.errors import ConfigError
from study.search import database
from study.search.database import PASSWORD, chosen_storage, connect
from study.search.proxy import serve
from study.search.storage import open_optuna_study

DIGEST = "0" * 16
GIVEN = {
    "postgresql+psycopg://me:secret@host:5432/db": "postgresql+psycopg://me@host:5432/db",
    "mysql://me:se%40cret@host/db?charset=utf8": "mysql://me@host/db?charset=utf8",
    "postgresql://me@host/db?password=secret&sslmode=require": (
        "postgresql://me@host/db?sslmode=require"
    ),
    "mysql://me@host/db?passwd=secret": "mysql://me@host/db",
    "postgresql://me@host/db": "postgresql://me@host/db",
    "sqlite:///study.db": "sqlite:///study.db",
    "grpc://host:13000": "grpc://host:13000",
}


@pytest.fixture(autouse=True)
def no_password(monkeypatch):
    monkeypatch.setenv(PASSWORD, "")  # so that it is taken back, whatever a test sets
    monkeypatch.delenv(PASSWORD)


@pytest.mark.parametrize("url", GIVEN)
def test_a_password_on_the_command_line_goes_to_the_environment_with_a_warning(url):
    said = []
    has_one = "cret" in url

    assert chosen_storage(url, None, said.append) == GIVEN[url]
    assert os.environ.get(PASSWORD) == (
        None if not has_one else "se@cret" if "%" in url else "secret"
    )
    assert len(said) == has_one
    assert all("list of processes" in line and "--storage-file" in line for line in said)
    assert "cret" not in " ".join(said)


def test_a_file_holds_the_url_and_is_said_to_be_open_to_others(tmp_path):
    file, said = tmp_path / "storage", []
    file.write_text("# the lab's\n\nmysql://me:secret@host/db\n")
    file.chmod(0o600)
    closed = chosen_storage(None, file, said.append)
    file.chmod(0o644)
    opened = chosen_storage(None, file, said.append)

    assert closed == opened == "mysql://me@host/db"
    assert os.environ[PASSWORD] == "secret"
    assert said == [f"others may read {file}: chmod 600 {file}"]


@pytest.mark.parametrize(
    "content", ["", "secret\n", "mysql://me@host/a\nmysql://me:secret@host/b\n"]
)
def test_a_file_without_one_url_is_refused_and_not_quoted(tmp_path, content):
    file = tmp_path / "storage"
    file.write_text(content)
    with pytest.raises(ConfigError, match="must hold one line, a URL") as refused:
        chosen_storage(None, file, print)

    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_there_or_not_alone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        chosen_storage(None, tmp_path / "none", print)
    with pytest.raises(ConfigError, match="not both"):
        chosen_storage("sqlite:///a", tmp_path / "none", print)


CONNECTED = {
    "mariadb://me@host/db": "mysql+pymysql://me:a%2Fb%40c@host/db",
    "mysql://me@host/db": "mysql+pymysql://me:a%2Fb%40c@host/db",
    "postgresql://me@host/db": "postgresql+psycopg://me:a%2Fb%40c@host/db",
    "postgresql+pg8000://me:own@host/db": "postgresql+pg8000://me:own@host/db",
    "sqlite:///study.db": "sqlite:///study.db",
}


@pytest.mark.parametrize("url", CONNECTED)
def test_the_password_is_put_in_where_the_database_is_opened(monkeypatch, url):
    monkeypatch.setattr(database.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setenv(PASSWORD, "a/b@c")

    assert connect(url) == CONNECTED[url]


@pytest.mark.parametrize("kind", ["postgresql", "mysql", "grpc"])
def test_a_driver_that_is_not_installed_is_named_with_its_extra(monkeypatch, kind):
    monkeypatch.setattr(database.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"pip install '\.\[{kind}\]'"):
        connect(f"{kind}://host:1/db")


def test_errors_of_a_database_do_not_show_the_password_of_the_environment(monkeypatch):
    monkeypatch.setenv(PASSWORD, SECRET)
    error = RuntimeError(f"cannot log in with {SECRET}")

    assert database.told(error, "mysql://me@host/db") == "RuntimeError"
    assert database.told(RuntimeError("no route"), "mysql://me@host/db") == "no route"


UNFIT = {
    "sqlite:///study.db": "for which sqlite is not made",
    "secret": "is no URL",
    __file__: "is a file, maybe a journal: Optuna does not support a journal behind its proxy",
}


@pytest.mark.parametrize("storage", UNFIT)
def test_a_proxy_is_for_servers_of_databases_alone(storage):
    pytest.importorskip("grpc", reason="install the extra `grpc`")
    with pytest.raises(ConfigError, match=UNFIT[storage]) as refused:
        serve(storage, host="localhost", port=free_port(), say=print)

    assert "secret" not in str(refused.value)


def test_a_journal_behind_somebody_elses_proxy_is_found_and_refused(tmp_path):
    pytest.importorskip("grpc", reason="install the extra `grpc`")
    from optuna.storages import JournalStorage
    from optuna.storages._grpc.server import make_server
    from optuna.storages.journal import JournalFileBackend

    port = free_port()
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    with ThreadPoolExecutor(2) as threads:
        server = make_server(journal, "localhost", port, threads)
        server.start()
        try:
            with pytest.raises(ConfigError, match=r"behind this proxy is no database.*6084"):
                open_optuna_study(
                    tmp_path, load_recipe("tiny-llama"), "orpo", DIGEST, f"grpc://localhost:{port}"
                )
        finally:
            server.stop(0).wait()


def test_a_proxy_that_does_not_answer_is_one_message(tmp_path, monkeypatch):
    pytest.importorskip("grpc", reason="install the extra `grpc`")
    monkeypatch.setattr(database, "READY_S", 0.2)
    storage = f"grpc://localhost:{free_port()}"
    with pytest.raises(ConfigError, match=r"cannot use the storage 'grpc.*timeout"):
        open_optuna_study(tmp_path, load_recipe("tiny-llama"), "orpo", DIGEST, storage)
