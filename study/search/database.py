"""Databases that hold searches: their URLs, passwords and errors.

A password is taken out of a URL as soon as the URL is read and lives in the
environment from there on, so that no job, record, message or list of processes
holds it.
"""

import importlib.util
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from study.errors import ConfigError, first_line, require

PASSWORD = "STUDY_STORAGE_PASSWORD"
"""Variable of the environment that holds the password of ``--storage``."""


HIDDEN = ("password", "passwd")
"""Parameters behind a URL's ``?`` by which drivers take a password too."""


GRPC = "grpc"
"""Scheme of Optuna's proxy in front of a database: ``grpc://host:port``."""


GRPC_PORT = 13000


DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", GRPC: "grpc"}
"""Kind of storage -> the module that our extra of the same name installs."""


BETTER = (
    f"leave it out and set {PASSWORD}, name a file that holds the URL with --storage-file, or use "
    "the database's own file (~/.pgpass; ?read_default_file=~/.my.cnf for MySQL)"
)


def chosen_storage(
    storage: str | None, file: Path | None, say: Callable[[str], None]
) -> str | None:
    """Return a storage's URL without its password, which goes to the environment.

    Args:
        storage: the URL, as it was given on the command line.
        file: one that holds the URL instead.
        say: told how to keep the password out of sight.

    Raises:
        ConfigError: both are given, or the file cannot be used.
    """
    require(storage is None or file is None, "give --storage or --storage-file, not both")
    given = storage if file is None else _read_url(file, say)
    url = None if given is None else url_of(given)
    if url is None:
        return given
    query = {name: value for name, value in url.query.items() if name not in HIDDEN}
    hidden = [url.query[name] for name in HIDDEN if name in url.query]
    password = str(url.password) if url.password is not None else None
    for value in hidden:
        password = value if isinstance(value, str) else value[-1]
    if password is None:
        return given
    if file is None:
        say(
            "the password in --storage is in the list of processes and in the shell's history: "
            + BETTER
        )
    os.environ[PASSWORD] = password
    bare = URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database, query=query
    )
    return bare.render_as_string(hide_password=False)


def has_password(storage: str) -> bool:
    """Tell whether a storage's URL holds a password."""
    url = url_of(storage)
    return url is not None and (url.password is not None or any(n in url.query for n in HIDDEN))


def connect(storage: str) -> Any:
    """Return what `optuna.create_study` takes for a storage's URL, with its password.

    Raises:
        ConfigError: its driver is not installed, or it is no server that is fit for it.
    """
    url = url_of(storage)
    if url is None:
        return storage
    # Optuna knows MariaDB under the name of MySQL alone, and SQLAlchemy's own choices
    # of drivers are not the ones that our extras install.
    kind, _, driver = url.drivername.partition("+")
    kind = kind.replace("mariadb", "mysql")
    driver = driver or DRIVERS.get(kind, "")
    if driver == DRIVERS.get(kind):
        require_driver(kind)
    if kind == GRPC:
        return _proxy(url)
    url = url.set(drivername=f"{kind}+{driver}" if driver else kind)
    password = os.environ.get(PASSWORD)
    if password and url.password is None and url.host:
        url = url.set(password=password)
    return url.render_as_string(hide_password=False)


def opened(storage: str) -> Any:
    """Open a database whose searches others read or serve.

    Raises:
        ConfigError: it cannot be opened.
    """
    from optuna.storages import get_storage

    try:
        return get_storage(connect(storage))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the storage {without_secrets(storage)!r} cannot be opened ({told(error, storage)})"
        ) from error


def require_driver(kind: str) -> None:
    """Refuse a kind of storage whose package is not installed.

    Raises:
        ConfigError: it is not.
    """
    module = DRIVERS[kind]
    require(
        importlib.util.find_spec(module) is not None,
        f"a storage of the kind {kind} needs the package {module}: pip install "
        f"'orpo-study[{kind}]', in this project's folder pip install '.[{kind}]'",
    )


def check_behind(storage: Any) -> None:
    """Refuse a proxy that keeps searches in a journal, once there is a search in it.

    Databases number searches from 1, Optuna's journal and its memory from 0.

    Raises:
        ConfigError: it does.
    """
    from optuna.storages import GrpcStorageProxy

    if isinstance(storage, GrpcStorageProxy):
        numbers = [study._study_id for study in storage.get_all_studies()]  # noqa: SLF001
        require(0 not in numbers, f"behind this proxy is no database: {NO_JOURNAL}")


def lost() -> tuple[type[Exception], ...]:
    """Return the errors of a storage that cannot be reached."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    found: tuple[type[Exception], ...] = (DBAPIError, StorageInternalError)
    if importlib.util.find_spec("grpc") is not None:
        import grpc

        found = (*found, grpc.RpcError)
    return found


def without_secrets(storage: str) -> str:
    """Return a storage URL as it may be printed.

    What follows ``?`` may hold passwords under any name. Where a password holds
    an ``@`` that is not written as ``%40``, its end is taken for the host's beginning.
    """
    url = url_of(storage)
    if url is None:
        return "(an address that is no URL)"
    host = url.host and url.host.rpartition("@")[2]
    shown = url.set(host=host, query=dict.fromkeys(url.query, "..."))
    return shown.render_as_string(hide_password=True)


def told(error: Exception, storage: str) -> str:
    """Return the first line of a database's error, unless it may hold a password."""
    url = url_of(storage)
    if url is None:
        return type(error).__name__
    details = getattr(error, "details", None)  # grpc.RpcError says little by itself
    line = details() if callable(details) else first_line(error)
    values = [value for given in url.normalized_query.values() for value in given]
    secrets = (storage, str(url.password or ""), os.environ.get(PASSWORD, ""), *values)
    is_secret = "@" in (url.host or "") or any(part and part in line for part in secrets)
    return type(error).__name__ if is_secret else str(line).partition("\n")[0]


def url_of(storage: str) -> URL | None:
    """Return the parts of a storage's URL, None where it is no URL."""
    try:
        return make_url(storage)
    except (ArgumentError, ValueError):
        return None


def _read_url(file: Path, say: Callable[[str], None]) -> str:
    try:
        mode = file.stat().st_mode
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--storage-file {file} cannot be read ({first_line(error)})") from error
    given = [line for line in lines if line and not line.startswith("#")]
    require(
        len(given) == 1 and url_of(given[0]) is not None,
        f"--storage-file {file} must hold one line, a URL such as "
        "postgresql+psycopg://me:password@host/database",
    )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        say(f"others may read {file}: chmod 600 {file}")
    return given[0]


def _proxy(url: URL) -> Any:
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import GrpcStorageProxy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=url.host or "localhost", port=url.port or GRPC_PORT)
    proxy.wait_server_ready(timeout=READY_S)
    return proxy


READY_S = 10.0
"""How long a proxy may take to answer."""


NO_JOURNAL = (
    "Optuna does not support a journal behind its proxy, where trials are lost to two workers at "
    "once (github.com/optuna/optuna/issues/6084); put PostgreSQL, MySQL or MariaDB behind it: "
    "study proxy --storage URL"
)
