"""What runs and searches leave behind: plain files, written whole or not at all.

Layout below the folder that ``--runs`` names::

    <recipe>/search/<arm>/     config.json  journal.log  trials.jsonl
                               confirmations.jsonl  best.json
    <recipe>/compare/config.json
    <recipe>/compare/<arm>/seed-<n>/
                               config.json  steps.jsonl  examples.parquet
                               generations.jsonl  adapter/  record.json
    <recipe>/claims/config.json
    <recipe>/claims/<setting>/seed-<n>/
                               as in a comparison

A comparison's own ``config.json`` is its plan, that of the claims what they
predict. A run's ``config.json`` is
written first, ``record.json`` last and by rename: its presence means that the
run is complete. Nothing here imports torch, so the
analysis can read records on any machine.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.config import differences, digest
from study.errors import RecordError

CONFIG, RECORD, STEPS = "config.json", "record.json", "steps.jsonl"
EXAMPLES, GENERATIONS, ADAPTER = "examples.parquet", "generations.jsonl", "adapter"
TRIALS, CONFIRMATIONS, BEST, JOURNAL = (
    "trials.jsonl",
    "confirmations.jsonl",
    "best.json",
    "journal.log",
)


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
        """Return ``missing``, ``unfinished``, ``ok`` or ``diverged``."""
        record = self.record()
        if record is not None:
            return str(record["status"])
        return "unfinished" if (self.path / CONFIG).exists() else "missing"

    def record(self) -> dict[str, Any] | None:
        """Return the finished run's record, or None while there is none."""
        return read_json(self.path / RECORD)

    def config(self) -> dict[str, Any] | None:
        """Return the run's configuration, or None before it was claimed."""
        return read_json(self.path / CONFIG)

    def steps(self) -> list[dict[str, Any]]:
        """Return the logged steps in the order they were written."""
        return list(read_jsonl(self.path / STEPS))

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
        write_json(self.path / RECORD, {**record, "files": checksums})


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


def claims_path(runs: Path, recipe: str) -> Path:
    """Return the file that holds the claims that a recipe's records decide."""
    return runs / recipe / "claims" / CONFIG


def plan_path(runs: Path, recipe: str) -> Path:
    """Return the file that holds the plan of a comparison."""
    return runs / recipe / "compare" / CONFIG


def search_folder(runs: Path, recipe: str, arm: str) -> Path:
    """Return the folder of one arm's search."""
    return runs / recipe / "search" / arm


def recipes_in(runs: Path) -> list[str]:
    """List the recipes that have records below ``runs``, in alphabetical order."""
    if not runs.is_dir():
        return []
    return sorted(
        path.name
        for path in runs.iterdir()
        if any((path / part).is_dir() for part in ("search", "compare", "claims"))
    )


def _seed_folders(parent: Path) -> list[tuple[str, int, RunFolder]]:
    found = []
    for path in parent.glob("*/seed-*"):
        number = path.name.removeprefix("seed-")
        if number.isdecimal() and (path / CONFIG).exists():
            found.append((path.parent.name, int(number), RunFolder(path)))
    return sorted(found, key=lambda item: item[:2])


def claim_folder(path: Path, config: Mapping[str, Any]) -> None:
    """Write a folder's ``config.json`` once, and refuse any other afterwards.

    Raises:
        RecordError: the folder belongs to another configuration.
    """
    check_folder(path, config)
    if not (path / CONFIG).exists():
        write_json(path / CONFIG, {**config, "digest": digest(config)})


def check_folder(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder that belongs to another configuration; write nothing.

    Raises:
        RecordError: the folder belongs to another configuration.
    """
    wanted = {**config, "digest": digest(config)}
    found = read_json(path / CONFIG)
    if found is not None and found["digest"] != wanted["digest"]:
        lines = "\n  ".join(differences(_bare(found), _bare(wanted)))
        raise RecordError(
            f"{path} holds records of another configuration:\n  {lines}\n"
            "nothing was changed; name another folder with --runs, or move this one away, for "
            "example where untuned runs were made before a search"
        )


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "digest"}


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None where there is no file.

    Raises:
        RecordError: the file is not a whole JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error}); move it away and start again") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path} is damaged (not a JSON object); move it away and start again")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file by rename, so that no reader ever sees half of it."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; nothing where there is no file.

    Raises:
        RecordError: a line is not JSON; the message gives its number.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise RecordError(f"{path}, line {number} is damaged ({error})") from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON-lines file by rename."""
    write_bytes(path, "".join(_line(row) for row in rows).encode())


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line to a JSON-lines file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; make room or name another --runs"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file to a temporary neighbour, flush it to disk and rename it.

    Raises:
        RecordError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; make room or name another --runs"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; nothing was changed") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(source: Path, target: Path) -> list[Path]:
    """Copy finished records, without adapters, checkpoints and journals.

    Each recipe's records in ``target`` are replaced as a whole. Returns the
    copied files. What is unfinished is left behind.
    """
    copied = []
    for recipe in recipes_in(source):
        shutil.rmtree(target / recipe, ignore_errors=True)
        runs = [*compare_folders(source, recipe), *claim_folders(source, recipe)]
        folders = [folder.path for _, _, folder in runs if folder.record()]
        folders += [path.parent for path in (source / recipe / "search").glob(f"*/{BEST}")]
        folders += [plan_path(source, recipe).parent, claims_path(source, recipe).parent]
        for folder in sorted(filter(Path.is_dir, folders)):
            for path in sorted(folder.iterdir()):
                if path.is_file() and path.name != JOURNAL and not path.name.startswith("."):
                    copy = target / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
                    copied.append(copy)
    return copied


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
