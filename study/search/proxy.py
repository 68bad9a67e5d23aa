"""Optuna's gRPC proxy: one client of a database, which serves the searches of many machines."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import run_grpc_proxy_server

from study.errors import ConfigError, require
from study.search.database import (
    GRPC,
    NO_JOURNAL,
    opened,
    require_driver,
    url_of,
)

THREADS = 16
"""Requests that are answered at once."""


def serve(storage: str, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Run the proxy in front of a database until it is interrupted.

    Args:
        storage: URL of the database.
        host: address to listen on.
        port: must be free.
        say: told once it listens.

    Raises:
        ConfigError: grpcio is not installed, this is no database fit for it, or the
            address cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    require_driver(GRPC)
    url = url_of(storage)
    require(not Path(storage).is_file(), f"{storage} is a file, maybe a journal: {NO_JOURNAL}")
    if url is None:
        raise ConfigError(
            "--storage is no URL; it is that of a database, such as "
            "postgresql+psycopg://me@host/database"
        )
    require(
        url.get_backend_name() in ("postgresql", "mysql", "mariadb"),
        f"a proxy serves many machines, for which {url.get_backend_name()} is not made; put "
        "PostgreSQL, MySQL or MariaDB behind it",
    )
    behind = opened(storage)
    say(f"machines search with --storage {GRPC}://{host}:{port} until Ctrl-C ends this proxy")
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as threads:
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            run_grpc_proxy_server(behind, host=host, port=port, thread_pool=threads)
        except KeyboardInterrupt:
            say("the proxy is closed; searches that used it go on from there with the same command")
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error}); give another --port or --host"
            ) from error
