"""Real servers from Debian, each in a temporary folder; skipped where they cannot run."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

PATHS = ("/usr/sbin", "/usr/local/sbin")
"""Where Debian keeps servers, which is not in every user's PATH."""

PASSWORD = "pass/w@rd:0815"


def programs_of(package, *names, places=()):
    """Find programs, or skip and say what to install."""
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", ""), *PATHS])
    found = [shutil.which(name, path=path) for name in names]
    if None in found:
        missing = [name for name, program in zip(names, found, strict=True) if program is None]
        pytest.skip(f"{' and '.join(missing)} not found: install the package {package}")
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def wait_for(is_there, server, patience_s=60):
    until = time.monotonic() + patience_s
    while not is_there():
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < until, "the server does not answer"
        time.sleep(0.1)


@contextlib.contextmanager
def folder_of(user):
    """Make a folder for a server that refuses to run as root; yield it and Popen's options."""
    folder = Path(tempfile.mkdtemp(prefix=f"{user}-"))
    options = {"user": user, "group": user, "extra_groups": []} if not os.getuid() else {}
    if options:
        shutil.chown(folder, user, user)
    try:
        yield folder, options
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def run_postgresql():
    """Yield the URL of a database on a free loopback port."""
    pytest.importorskip("psycopg", reason="install the extra `postgresql`")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    names = ("initdb", "postgres", "pg_isready")
    initdb, postgres, is_ready = programs_of("postgresql", *names, places=places)
    with folder_of("postgres") as (folder, user):
        port = str(free_port())
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
        words = [initdb, "-D", f"{folder}/data", "-U", "study", "-A", "trust", "--no-sync"]
        subprocess.run(words, check=True, **quiet)
        words = [postgres, "-D", f"{folder}/data", "-h", "127.0.0.1", "-p", port, "-k", folder]
        with subprocess.Popen([*words, "-F"], **quiet) as server:
            try:
                ask = [is_ready, "-h", "127.0.0.1", "-p", port]
                wait_for(lambda: not subprocess.run(ask, check=False, **quiet).returncode, server)
                yield f"postgresql+psycopg://study@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)  # without waiting for connections to close


@contextlib.contextmanager
def run_mariadb():
    """Yield the URLs of a database: for a user with PASSWORD, and for one without any."""
    pytest.importorskip("pymysql", reason="install the extra `mysql`")
    names = ("mariadb-install-db", "mariadbd", "mariadb")
    install, server, client = programs_of("mariadb-server", *names)
    with folder_of("mysql") as (folder, user):
        port = free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
        data = [f"--datadir={folder}/data"]
        how = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run([install, "--no-defaults", *data, *how], check=True, **quiet)
        where = [f"--socket={folder}/socket", f"--port={port}", "--bind-address=127.0.0.1"]
        fast = ["--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]
        words = [server, "--no-defaults", *data, *where, *fast, f"--pid-file={folder}/pid"]
        with subprocess.Popen(words, **quiet) as running:
            try:
                ask = [client, "--no-defaults", f"--socket={folder}/socket", "-u", "root", "-e"]

                def told(line):
                    return subprocess.run([*ask, line], check=False, **quiet).returncode == 0

                wait_for(lambda: told("select 1"), running)
                for line in (
                    "create database study",
                    "create database other",
                    "create user study@'127.0.0.1'",
                    f"create user keeper@'127.0.0.1' identified by '{PASSWORD}'",
                    "grant all on *.* to study@'127.0.0.1', keeper@'127.0.0.1'",
                ):
                    assert told(line), line
                yield SimpleNamespace(
                    open=f"mariadb+pymysql://study@127.0.0.1:{port}/study",
                    closed=f"mysql://keeper@127.0.0.1:{port}/other",
                )
            finally:
                running.terminate()


SLURM = """
ClusterName=study-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=5
MinJobAge=30
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
"""Without cgroups, so that it runs in a container; cred_expire is how long a task that
is put back into the queue waits there (120 s by default)."""


@contextlib.contextmanager
def run_slurm():
    """Yield the environment in which the commands of Slurm reach a cluster of this machine."""
    if os.getuid():
        pytest.skip("slurmd starts jobs as root alone")
    munged, controller, node, sinfo = programs_of(
        "slurmctld slurmd slurm-client munge", "munged", "slurmctld", "slurmd", "sinfo"
    )
    host = socket.gethostname().partition(".")[0]
    with folder_of("munge") as (folder, munge), contextlib.ExitStack() as running:
        folder.chmod(0o755)
        (folder / "munge").mkdir(mode=0o711)
        (folder / "munge" / "key").write_bytes(os.urandom(1024))
        (folder / "munge" / "key").chmod(0o400)
        for path in (folder / "munge", folder / "munge" / "key"):
            shutil.chown(path, "munge", "munge")
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        conf = folder / "slurm.conf"
        ports = {"controller": free_port(), "node": free_port(), "cores": os.cpu_count()}
        conf.write_text(SLURM.format(folder=folder, host=host, **ports))
        environment = {**os.environ, "SLURM_CONF": str(conf)}
        log = running.enter_context((folder / "servers.log").open("wb"))

        def begin(*words, **how):
            server = subprocess.Popen(words, stdout=log, stderr=log, env=environment, **how)
            running.callback(server.wait)
            running.callback(server.terminate)
            return server

        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        files = [f"--{name}={folder}/munge/{file}" for name, file in names.items()]
        begin(munged, "--foreground", "--force", *files, f"--log-file={folder}/munge/log", **munge)
        begin(controller, "-D", "-f", str(conf))
        begin(node, "-D", "-f", str(conf))
        until = time.monotonic() + 60
        while True:
            ask = [sinfo, "--noheader", "--format=%T"]
            found = subprocess.run(
                ask, env=environment, capture_output=True, text=True, check=False, timeout=60
            )
            if found.stdout.strip() == "idle":
                break
            if time.monotonic() > until:
                said = (folder / "servers.log").read_text(errors="replace").strip()
                pytest.skip(f"Slurm does not start here: {found.stderr} {said[-300:]}")
            time.sleep(0.2)
        yield environment
