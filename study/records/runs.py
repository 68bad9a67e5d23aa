"""What a run leaves behind, and whether it is sound.

A run's ``config.json`` is written first, ``record.json`` last and by rename: its
presence means that the run is complete. The record carries a checksum of itself
and of the files beside it; what does not match is damaged, and is regenerated,
never used. Nothing here imports torch, so the analysis can read records on any
machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.errors import RecordError, UnreadableError
from study.records.files import checksum, read_jsonl, unreadable, write_bytes, write_sealed
from study.records.folders import claim_folder, read_config
from study.records.layout import ADAPTER, CONFIG, RECORD, REPRODUCE, STEPS
from study.records.schema import Record, RunConfig, checked, read_as

PLACES = ("compare", "claims", REPRODUCE)
"""Folders of a recipe whose runs lie by their name and seed."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; a thin, typed view of its files."""

    path: Path

    def claim(self, config: Mapping[str, Any]) -> None:
        """Write ``config.json``, or check that it is the one already there.

        Raises:
            RecordError: the folder holds another configuration; the message
                lists the fields that differ.
        """
        claim_folder(self.path, config)

    def status(self) -> str:
        """Return ``missing``, ``unfinished``, ``ok``, ``diverged``, ``damaged``, ``unreadable``."""
        return self.look().status

    def is_finished(self) -> bool:
        """Tell whether the run has ended, with a record that is sound."""
        return self.status() in ("ok", "diverged")

    def record(self) -> Record | None:
        """Return the finished run's record, or None while there is none."""
        return read_as(self.path / RECORD, Record)

    def config(self) -> RunConfig | None:
        """Return the run's configuration, or None before it was claimed."""
        config = read_config(self.path)
        return None if config is None else checked(config, RunConfig, self.path / CONFIG)

    def steps(self) -> list[dict[str, Any]]:
        """Return the logged steps in the order they were written."""
        return list(read_jsonl(self.path / STEPS))

    def faults(self) -> list[str]:
        """Say what is damaged, one line each; nothing where the run is sound.

        Weights may be left out, as published records do, but not in part.

        Raises:
            UnreadableError: this user may not read them.
        """
        return self._read()[1]

    def look(self) -> "Look":
        """Read record and configuration once, for all that a status says of the run."""
        try:
            record, faults = self._read()
        except UnreadableError as error:
            return Look(status="unreadable", faults=[str(error)], record=None)
        if faults:
            return Look(status="damaged", faults=faults, record=None)
        if record is not None:
            return Look(status=str(record["status"]), faults=[], record=record)
        begun = (self.path / CONFIG).exists()
        return Look(status="unfinished" if begun else "missing", faults=[], record=None)

    def _read(self) -> tuple[Record | None, list[str]]:
        """Return the record, if the run has ended, and what is damaged."""
        try:
            record, config = self.record(), self.config()
        except UnreadableError:
            raise
        except RecordError as error:
            return None, [str(error)]
        if record is None:
            return None, []
        if config is None:
            return record, [f"{CONFIG} is missing"]
        if record.get("digest", config["digest"]) != config["digest"]:
            return record, [f"{RECORD} and {CONFIG} have different digests"]
        faults = _strayed(self.path, record, config)
        return record, faults or _changed_files(self.path, record["files"])

    def unusable(self) -> list[str]:
        """Say why a run can neither be taken as it is nor be gone on with."""
        faults = self.faults()
        if faults or self.record() is not None or self.can_resume():
            return faults
        return ["its logged steps cannot be read"]

    def can_resume(self) -> bool:
        """Tell whether the logged steps can be read, once a half-written last line is cut."""
        path = self.path / STEPS
        if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
            write_bytes(path, content[: content.rfind(b"\n") + 1])
        try:
            self.steps()
        except RecordError:
            return False
        return True

    def finish(self, record: Mapping[str, Any]) -> None:
        """Add checksums of the run's files and write ``record.json``, last.

        Files of trackers and what a killed writer left behind are no part of
        the record.
        """
        files = sorted(
            path
            for path in (*self.path.glob("*"), *(self.path / ADAPTER).rglob("*"))
            if path.is_file() and path.name not in (RECORD, CONFIG) and path.name[0] != "."
        )
        checksums = {path.relative_to(self.path).as_posix(): checksum(path) for path in files}
        write_sealed(self.path / RECORD, {**record, "files": checksums})


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a run's files say of it, at one time."""

    status: str
    """As of `RunFolder.status`."""
    faults: list[str]
    record: Record | None
    """None where the run is damaged or has not ended."""


def run_folder(runs: Path, recipe: str, arm: str, seed: int) -> RunFolder:
    """Return the folder of one run of a comparison."""
    return RunFolder(runs / recipe / "compare" / arm / f"seed-{seed}")


def compare_folders(runs: Path, recipe: str) -> list[tuple[str, int, RunFolder]]:
    """List (arm, seed, folder) of every run of a comparison, claimed or finished."""
    return _seed_folders(runs / recipe / "compare")


def setting_folder(runs: Path, recipe: str, setting: str, seed: int) -> RunFolder:
    """Return the folder of one run that decides claims."""
    return RunFolder(runs / recipe / "claims" / setting / f"seed-{seed}")


def claim_folders(runs: Path, recipe: str) -> list[tuple[str, int, RunFolder]]:
    """List (setting, seed, folder) of every run that decides claims."""
    return _seed_folders(runs / recipe / "claims")


def set_up_folder(runs: Path, recipe: str, set_up: str, seed: int) -> RunFolder:
    """Return the folder of one run of a reproduction."""
    return RunFolder(runs / recipe / REPRODUCE / set_up / f"seed-{seed}")


def reproduce_folders(runs: Path, recipe: str) -> list[tuple[str, int, RunFolder]]:
    """List (set-up, seed, folder) of every run of a reproduction."""
    return _seed_folders(runs / recipe / REPRODUCE)


def start_folder(runs: Path, recipe: str, digest: str) -> RunFolder:
    """Return the folder of a start, which its configuration's digest names."""
    return RunFolder(runs / recipe / "starts" / digest[:16])


def start_folders(runs: Path, recipe: str) -> list[RunFolder]:
    """List the folders of all starts, begun or finished; not those set aside."""
    paths = sorted((runs / recipe / "starts").glob(f"*/{CONFIG}"))
    return [RunFolder(path.parent) for path in paths if path.parent.suffix == ""]


def _seed_folders(parent: Path) -> list[tuple[str, int, RunFolder]]:
    found = []
    for path in parent.glob("*/seed-*"):
        number = path.name.removeprefix("seed-")
        if number.isdecimal() and (path / CONFIG).exists():
            found.append((path.parent.name, int(number), RunFolder(path)))
    return sorted(found, key=lambda item: item[:2])


def _strayed(folder: Path, record: Record, config: RunConfig) -> list[str]:
    """Say where a record names another run than its folder does: it was copied there."""
    path = folder.absolute()
    if path.parent.name == "starts" and path.name != config["digest"][:16]:
        return [f"{CONFIG} is of the start {config['digest'][:16]}, not of {path.name}"]
    if len(path.parents) < 3 or path.parents[1].name not in PLACES:
        return []
    place = {"recipe": path.parents[2].name, "seed": path.name.removeprefix("seed-")}
    if path.parents[1].name == "compare":  # elsewhere the folder names a setting or a set-up
        place["arm"] = path.parent.name
    of_config: dict[str, Any] = {**config, "recipe": config["recipe"].get("name", place["recipe"])}
    of_record: dict[str, Any] = {**record}
    return [
        f"{name} is of {part} {found[part]}, but lies in the folder of {part} {wanted}"
        for name, found in ((CONFIG, of_config), (RECORD, of_record))
        for part, wanted in place.items()
        if str(found[part]) != wanted
    ]


def _changed_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    found = []
    for name, expected in files.items():
        path, part = folder / name, folder / name.split("/")[0]
        try:
            if path.exists() and checksum(path) != expected:
                found.append(f"{name} was changed after the run ended")
            elif not path.exists() and ("/" not in name or part.exists()):
                found.append(f"{name} is missing")
        except PermissionError as error:
            raise unreadable(path) from error
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror}")
    return found


def lock_path(folder: RunFolder) -> Path:
    """Return the lock that a process holds while it makes a run.

    It stands beside the run's folder, whose files are all part of the record.
    """
    return folder.path.with_name(f".{folder.path.name}.lock")
