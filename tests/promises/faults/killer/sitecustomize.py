"""Kill a process at a chosen write; Python imports this module when it starts.

What opens, renames, removes or makes a file below ``KILL_FOLDER`` raises an
audit event first. At event number ``KILL_AT`` of any one process, ``KILL_WHOM``
gets SIGKILL: the process itself, its parent, or all of them. Only once: the
first to come there makes the file ``KILL_MARK``.
"""

import multiprocessing
import os
import signal
import sys

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


def install(folder, at, whom, mark):
    n_writes = 0
    busy = False

    def watch(event, arguments):
        nonlocal n_writes, busy
        if busy or not is_write(event, arguments, folder):
            return
        n_writes += 1
        if n_writes == at:
            busy = True
            kill(whom, mark)
            busy = False

    sys.addaudithook(watch)


def is_write(event, arguments, folder):
    if event == "open":
        path, _, flags = arguments
        is_ours = isinstance(flags, int) and flags & WRITING
    else:
        path, is_ours = arguments[0] if arguments else None, event in WRITES
    return bool(is_ours) and isinstance(path, str | os.PathLike) and str(path).startswith(folder)


def kill(whom, mark):
    parent = multiprocessing.parent_process()
    if whom != "all" and parent is None:
        return
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    if whom == "all":
        os.killpg(0, signal.SIGKILL)
    os.kill(parent.pid if whom == "parent" else os.getpid(), signal.SIGKILL)


if "KILL_AT" in os.environ:
    install(
        os.environ["KILL_FOLDER"],
        int(os.environ["KILL_AT"]),
        os.environ["KILL_WHOM"],
        os.environ["KILL_MARK"],
    )
