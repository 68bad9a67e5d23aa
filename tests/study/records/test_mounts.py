"""Folders whose locks end at the host: known by their mounts, by trying, by signs of life."""

import contextlib
import fcntl
import json
import os
import threading

import pytest

from study.config.recipe import load_recipe
from study.errors import RecordError
from study.records import mounts, sharing
from study.records.mounts import mount_of, reach_of, try_locks
from study.records.sharing import present

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 22 0:40 / /nfs3 rw,relatime - nfs s:/a rw,vers=3,proto=tcp,local_lock=none,addr=10.0.0.1
31 22 0:41 / /nfs3/private rw,relatime - nfs s:/b rw,vers=3,nolock,local_lock=all,addr=10.0.0.1
32 22 0:42 / /nfs4 rw,relatime - nfs4 s:/c rw,vers=4.2,local_lock=none
33 22 0:43 / /nfs4-flock rw,relatime - nfs4 s:/c rw,vers=4.2,local_lock=flock
34 22 0:44 / /lustre rw - lustre m@tcp:/fs rw,checksum,flock,user_xattr
35 22 0:45 / /lustre-local rw - lustre m@tcp:/fs rw,checksum,localflock
36 22 0:46 / /home/me/ssh\\040here rw,nosuid - fuse.sshfs me@host:/ rw,user_id=0
37 22 0:47 / /guest rw - 9p share rw,trans=virtio,version=9p2000.L
38 22 0:48 / /smb rw - cifs //s/d rw,vers=3.1.1,nobrl
39 22 0:49 / /beegfs rw - beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/beegfs-client.conf
40 22 0:50 / /gpfs rw - gpfs fs1 rw
41 22 0:51 / /twice rw - tmpfs tmpfs rw
42 22 0:52 / /twice rw - nfs4 s:/d rw,local_lock=none
43 22 0:53 / /nfs3more rw - tmpfs tmpfs rw
"""

REACH = {
    "/somewhere/runs": ("own disk", "file system of this host (ext4)"),
    "/nfs3/runs": ("all hosts", ""),
    "/nfs3/private/runs": ("one host", "(nfs, local_lock=all, nolock) end at this host"),
    "/nfs3more": ("own disk", "name a folder on a shared one with --runs"),
    "/nfs4/runs": ("all hosts", ""),
    "/nfs4-flock/runs": ("one host", "mount it with local_lock=none; or let one host alone"),
    "/lustre/runs": ("all hosts", ""),
    "/lustre-local/runs": ("one host", "mount it with flock; or"),
    "/home/me/ssh here/runs": ("unclear", "(fuse.sshfs) may end at this host"),
    "/guest": ("unclear", "(9p) may end"),
    "/smb/x": ("one host", "without nobrl"),
    "/beegfs/x": ("unclear", "tuneUseGlobalFileLocks = true"),
    "/gpfs/x": ("all hosts", ""),
    "/twice": ("all hosts", ""),
}


@pytest.mark.parametrize("folder", REACH)
def test_the_table_of_mounts_tells_how_far_locks_reach(tmp_path, folder):
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    known, said = REACH[folder]
    reach = reach_of(mounts.Path(folder), table)

    assert reach.known == known
    assert said in str(reach)
    if known in ("one host", "unclear"):
        assert "--storage, a database that all of them reach" in str(reach)


def test_without_a_table_of_mounts_nothing_is_claimed(tmp_path):
    assert reach_of(tmp_path, tmp_path / "none") is None


@pytest.mark.skipif(not mounts.MOUNTS.exists(), reason="reads /proc")
def test_the_real_table_is_read(tmp_path):
    assert mount_of(tmp_path).options
    assert tmp_path.is_relative_to(mount_of(tmp_path).place)


def test_locks_that_hold_pass_and_leave_nothing_behind(tmp_path):
    try_locks(tmp_path / "runs")

    assert list((tmp_path / "runs").iterdir()) == []


def test_a_lock_that_lies_is_found_by_a_second_process(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(RecordError, match="keep nobody out: two processes held the same one"):
        try_locks(tmp_path)

    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def foreign_lease(folder, *, alive):
    """Show a command of another host, as it looks where its lock does not reach this one."""
    folder.mkdir(parents=True)
    path = folder / f".{sharing.COMMAND}-{'f' * 32}"
    content = {"command": "search", "host": "far", "boot": "another", "pid": 7, "parts": []}
    path.write_text(json.dumps({**content, "config": {}}))
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    if alive:
        thread.start()
    yield path
    ended.set()
    if alive:
        thread.join()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(sharing, "BEAT_S", 0.1)
    monkeypatch.setattr(sharing, "WATCH_S", 0.5)


def test_a_living_host_whose_locks_are_not_seen_is_refused(tmp_path, quick):
    recipe = load_recipe("tiny-llama")
    with foreign_lease(tmp_path / recipe.name, alive=True) as path:
        with (
            pytest.raises(RecordError, match="process 7 on far, whose locks are not seen here"),
            present(tmp_path, "search", [(recipe, "sft", None)]),
        ):
            pass

        assert path.exists()
        assert list(path.parent.glob(".command-*")) == [path]


def test_a_host_that_crashed_is_forgotten(tmp_path, quick):
    recipe = load_recipe("tiny-llama")
    with (
        foreign_lease(tmp_path / recipe.name, alive=False) as path,
        present(tmp_path, "search", [(recipe, "sft", None)]),
    ):
        assert not path.exists()


def test_a_command_shows_that_it_lives(tmp_path, quick):
    recipe = load_recipe("tiny-llama")
    with present(tmp_path, "search", [(recipe, "sft", None)]):
        (path,) = (tmp_path / recipe.name).glob(".command-*")
        first = path.stat().st_mtime_ns
        moved = threading.Event()
        for _ in range(50):
            moved.wait(0.1)
            if path.stat().st_mtime_ns != first:
                break

        assert path.stat().st_mtime_ns != first
