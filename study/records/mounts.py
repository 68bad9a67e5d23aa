"""File systems whose locks end at the host: found in the table of mounts, and by trying.

Everything that keeps processes out of each other's way is ``flock``. Some file systems
answer that a lock was granted when no other host hears of it; of most, the table of
mounts tells.
"""

import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from study.errors import RecordError
from study.records.locks import hold

MOUNTS = Path("/proc/self/mountinfo")


LOCAL = frozenset(
    "ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs jfs reiserfs tmpfs ramfs overlay vfat exfat "
    "ntfs3 hfsplus".split()
)
"""Of one host; another host sees other files under the same name."""


SHARING = frozenset(
    "nfs nfs4 lustre ceph gpfs gfs2 ocfs2 cifs smb3 afs fuse.ceph-fuse fuse.ceph "
    "fuse.glusterfs fuse.juicefs fuse.mfs".split()
)
"""Locks of these reach other hosts, unless an option says otherwise."""


ONE_HOST: Mapping[str, frozenset[str]] = {
    "nfs": frozenset({"nolock", "local_lock=all", "local_lock=flock"}),
    "nfs4": frozenset({"local_lock=all", "local_lock=flock"}),
    "lustre": frozenset({"localflock"}),
    "cifs": frozenset({"nobrl"}),
    "smb3": frozenset({"nobrl"}),
    "gfs2": frozenset({"localflocks"}),
    "ocfs2": frozenset({"localflocks"}),
    "afs": frozenset({"flock=local"}),
}
"""Options by which locks end at the host: nfs(5), mount.lustre(8), mount.cifs(8), and
Documentation/filesystems of Linux for the others."""


REMEDY: Mapping[str, str] = {
    "nfs": "mount it without nolock and local_lock (the server needs lockd), or as NFS 4",
    "nfs4": "mount it with local_lock=none",
    "lustre": "mount it with flock",
    "cifs": "mount it without nobrl",
    "smb3": "mount it without nobrl",
    "gfs2": "mount it without localflocks",
    "ocfs2": "mount it without localflocks",
    "afs": "mount it with flock=openafs",
    "beegfs": "set tuneUseGlobalFileLocks = true in beegfs-client.conf",
}


INSTEAD = (
    "let one host alone use the folder; or give every host a --runs of its own and search with "
    "one --storage, a database that all of them reach"
)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A mounted file system."""

    place: str
    kind: str
    options: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far the locks in a folder reach."""

    known: Literal["all hosts", "one host", "own disk", "unclear"]
    mount: Mount

    def __str__(self) -> str:
        """Say what follows for several hosts, and what to do about it."""
        kind, place = self.mount.kind, self.mount.place
        if self.known == "own disk":
            return (
                f"{place} is a file system of this host ({kind}); other hosts do not see it: name "
                "a folder on a shared one with --runs"
            )
        where = f"locks on {place} ({kind}"
        found = sorted(ONE_HOST.get(kind, frozenset()) & self.mount.options)
        where += f", {', '.join(found)})" if found else ")"
        how = "end at this host" if self.known == "one host" else "may end at this host"
        mend = f"{REMEDY[kind]}; or " if kind in REMEDY else ""
        return f"{where} {how}, so hosts could write the same records at once: {mend}{INSTEAD}"


def reach_of(folder: Path, table: Path | None = None) -> Reach | None:
    """Tell how far the locks in a folder reach; None where the mounts are unknown.

    Args:
        folder: need not exist yet.
        table: in the form of proc(5), ``/proc/[pid]/mountinfo``; None is that of this process.
    """
    mount = mount_of(folder, table)
    if mount is None:
        return None
    if mount.options & ONE_HOST.get(mount.kind, frozenset()):
        return Reach(known="one host", mount=mount)
    if mount.kind in LOCAL:
        return Reach(known="own disk", mount=mount)
    return Reach(known="all hosts" if mount.kind in SHARING else "unclear", mount=mount)


def mount_of(folder: Path, table: Path | None = None) -> Mount | None:
    """Return the file system that a folder is on, or would be."""
    try:
        lines = (table or MOUNTS).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return None
    path, found = folder.resolve(), None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, more) = before.split(" "), after.split(" ", 2)
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        # The later of two mounts at one place hides the earlier.
        if path.is_relative_to(place) and (found is None or len(place) >= len(found.place)):
            options = frozenset((*fields[5].split(","), *more.split(",")))
            found = Mount(place=place, kind=kind, options=options)
    return found


TRY = """
import fcntl, sys
with open(sys.argv[1], "ab") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("kept out")
"""


def try_locks(folder: Path) -> None:
    """Hold a lock in a folder and let a second process ask for it.

    Raises:
        RecordError: it got the lock too, or the folder has none.
    """
    path = folder / f".try-{uuid.uuid4().hex}"
    try:
        with hold(path):
            done = subprocess.run(  # noqa: S603 - our own words
                [sys.executable, "-I", "-S", "-c", TRY, str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
    finally:
        path.unlink(missing_ok=True)
    if done.returncode == 0 and "kept out" not in done.stdout:
        raise RecordError(
            f"locks in {folder} keep nobody out: two processes held the same one. Without them "
            "processes write the same records at once; name a folder on another file system with "
            "--runs, or let its administrator mount it with locks"
        )
