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
    <recipe>/{compare,claims,search/<arm>}/resolved.json
    bench.json                 what `study bench` measured

A comparison's own ``config.json`` is its plan, that of the claims what they
predict. A run's ``config.json`` is
written first, ``record.json`` last and by rename: its presence means that the
run is complete. ``record.json`` and ``best.json`` carry a checksum of
themselves and of the files beside them; what does not match is damaged, and
is made again, never used. Nothing here imports torch, so the
analysis can read records on any machine.
"""

import contextlib
import datetime as dt
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
RESOLVED, CHECKSUM = "resolved.json", "checksum"
RESTORE = "restore it, or set the old records aside with --fresh"


BENCH = "bench.json"
"""What `study bench` measured, beside the recipes' folders."""


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
        """Return ``missing``, ``unfinished``, ``ok``, ``diverged`` or ``damaged``."""
        if self.faults():
            return "damaged"
        record = self.record()
        if record is not None:
            return str(record["status"])
        return "unfinished" if (self.path / CONFIG).exists() else "missing"

    def is_finished(self) -> bool:
        """Tell whether the run has ended, with a record that is sound."""
        return self.status() in ("ok", "diverged")

    def record(self) -> dict[str, Any] | None:
        """Return the finished run's record, or None while there is none."""
        return read_json(self.path / RECORD)

    def config(self) -> dict[str, Any] | None:
        """Return the run's configuration, or None before it was claimed."""
        return read_config(self.path)

    def steps(self) -> list[dict[str, Any]]:
        """Return the logged steps in the order they were written."""
        return list(read_jsonl(self.path / STEPS))

    def faults(self) -> list[str]:
        """Say what is damaged, one line each; nothing where the run is sound.

        Weights may be left out, as published records do, but not in part.
        """
        try:
            record, config = self.record(), self.config()
            if record is None:
                return []
        except RecordError as error:
            return [str(error)]
        if config is None:
            return [f"{CONFIG} is missing"]
        if record.get("digest", config["digest"]) != config["digest"]:
            return [f"{RECORD} and {CONFIG} have different digests"]
        return _changed_files(self.path, record["files"])

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


def search_faults(folder: Path) -> list[str]:
    """Say what is damaged in one arm's search; nothing where it is sound.

    ``best.json`` knows the trials and repetitions that it was chosen from; a
    search that goes on adds rows to them and changes none.
    """
    found = []
    rows: dict[str, list[dict[str, Any]]] = {}
    best = None
    try:
        read_config(folder)
        best = read_json(folder / BEST)
    except RecordError as error:
        found.append(str(error))
    for name in (TRIALS, CONFIRMATIONS):
        try:
            rows[name] = list(read_jsonl(folder / name))
        except RecordError as error:
            found.append(str(error))
    for name, (n_rows, expected) in (best or {}).get("rows", {}).items():
        if name in rows and digest(rows[name][:n_rows]) != expected:
            found.append(f"{folder / name} was changed after {BEST} was chosen from it")
    return found


def mend_search(folder: Path) -> list[dict[str, Any]]:
    """Set damaged files of a search aside, which it makes again; return the known trials."""
    from study.locks import hold

    with hold(folder / ".mend.lock", wait=True):
        faults = "\n".join(search_faults(folder))
        for name in (TRIALS, CONFIRMATIONS, BEST):
            if f"{folder / name}" in faults and (folder / name).exists():
                set_aside(folder / name, "damaged")
        return list(read_jsonl(folder / TRIALS))


def check_journal(
    folder: Path, known: Iterable[Mapping[str, Any]], trials: Iterable[Mapping[str, Any]]
) -> None:
    """Check that a search's storage still has every trial that was once finished.

    Raises:
        RecordError: it lost or changed some.
    """
    parts = ("state", "settings", "value")
    found = {row["number"]: [row[part] for part in parts] for row in trials}
    lost = [
        str(row["number"])
        for row in known
        if found.get(row["number"]) != [row[part] for part in parts]
    ]
    if lost:
        raise RecordError(
            f"{folder / JOURNAL} or {TRIALS} beside it is damaged: they differ in trial "
            f"{', '.join(lost)}; restore them, or set the old search aside with --fresh"
        )


def set_aside(path: Path, why: str) -> Path:
    """Rename a file or folder to ``<name>.<why>-<time>`` beside it; delete nothing."""
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S")
    target = path.with_name(f"{path.name}.{why}-{now}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{why}-{now}-{number}")
    try:
        os.rename(path, target)
    except OSError as error:
        raise RecordError(f"cannot move {path} aside: {error.strerror}") from error
    return target


def begin_afresh(folder: Path) -> Path | None:
    """Set a folder of searches or runs aside; None where there is none.

    Raises:
        RecordError: a living process works in it, or it cannot be moved.
    """
    from study.locks import is_held, leases
    from study.sharing import COMMAND

    if not folder.exists():
        return None
    begun = [one for one in leases(folder.parent, COMMAND) if one.held]
    if any(one.content["command"] == folder.name for one in begun) or any(
        is_held(path) for path in folder.rglob(".*") if path.is_file()
    ):
        raise RecordError(f"another process works in {folder}; stop it before --fresh")
    return set_aside(folder, "old")


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
    from study.locks import hold

    with hold(path / f".{CONFIG}.lock", wait=True):  # two studies may begin at once
        check_folder(path, config)
        if not (path / CONFIG).exists():
            write_json(path / CONFIG, {**config, "digest": digest(config)})


def check_folder(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder that belongs to another configuration; write nothing.

    Raises:
        RecordError: the folder belongs to another configuration.
    """
    wanted = {**config, "digest": digest(config)}
    try:
        found = read_config(path)
    except RecordError as error:
        raise RecordError(f"{error}; {RESTORE}") from None
    if found is not None and found["digest"] != wanted["digest"]:
        lines = "\n  ".join(differences(_bare(found), _bare(wanted)))
        raise RecordError(
            f"{path} holds records of another configuration:\n  {lines}\n"
            "nothing was changed; name another folder with --runs, or set the old records aside "
            "with --fresh, for example where untuned runs were made before a search"
        )


def claim_resolved(
    folder: Path, facts: Mapping[str, Any], earlier: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Write what a folder's runs are made with, once, and refuse anything else.

    Args:
        folder: of one comparison or one search.
        facts: what configuration alone does not say: resolved dtype, commit
            and quantisation of the model, fingerprints of the data, kind of device.
        earlier: the facts of runs that are finished in it.

    Raises:
        RecordError: the folder's runs were made with other facts.
    """
    from study.locks import hold

    with hold(folder / f".{RESOLVED}.lock", wait=True):
        try:
            written = read_json(folder / RESOLVED)
        except RecordError as error:
            raise RecordError(f"{error}; {RESTORE}") from error
        for found in (*earlier, *([written] if written else [])):
            lines = "\n  ".join(differences(found, dict(facts)))
            if lines:
                raise RecordError(
                    f"{folder} holds records that were made with something else:\n  {lines}\n"
                    "nothing was changed; go on with what they were made with, name another folder "
                    "with --runs, or set the old records aside with --fresh"
                )
        if written is None:
            write_sealed(folder / RESOLVED, facts)


def _changed_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    found = []
    for name, expected in files.items():
        path, part = folder / name, folder / name.split("/")[0]
        try:
            if path.exists() and checksum(path) != expected:
                found.append(f"{name} was changed after the run ended")
            elif not path.exists() and ("/" not in name or part.exists()):
                found.append(f"{name} is missing")
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror}")
    return found


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "digest"}


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return a folder's configuration with its digest, or None where there is none.

    Raises:
        RecordError: it was changed after it was written.
    """
    config = read_json(folder / CONFIG)
    if config is not None and config.get("digest") != digest(_bare(config)):
        raise RecordError(f"{folder / CONFIG} is damaged (its digest is not that of its content)")
    return config


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None where there is no file.

    A checksum that `write_sealed` added is checked and left out.

    Raises:
        RecordError: the file is not a whole JSON object, or was changed.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; name another --runs") from error
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error})") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path} is damaged (not a JSON object)")
    if CHECKSUM in value and value.pop(CHECKSUM) != digest(value):
        raise RecordError(f"{path} is damaged (changed since it was written)")
    return value


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file with a checksum of its content, by rename."""
    write_json(path, {**value, CHECKSUM: digest(value)})


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
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line.decode())
            except ValueError as error:
                raise RecordError(f"{path}, line {number} is damaged ({error})") from error
            if not isinstance(row, dict):
                raise RecordError(f"{path}, line {number} is damaged (not a JSON object)")
            yield row


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON-lines file by rename."""
    write_bytes(path, "".join(_line(row) for row in rows).encode())


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line to a JSON-lines file, or leave the file as it is.

    Raises:
        RecordError: the line cannot be written.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
    except OSError as error:
        with contextlib.suppress(OSError):  # a full disk may have taken half of the line
            os.truncate(path, size)
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
        raise RecordError(
            f"cannot write {path}: {error.strerror}; nothing was changed; make room or name "
            "another --runs"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _is_aside(path: Path) -> bool:
    """Tell whether a file is hidden, a lock, or was set aside as damaged."""
    return path.name.startswith(".") or ".damaged-" in path.name


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(source: Path, target: Path) -> list[Path]:
    """Copy finished records, without adapters, checkpoints and journals.

    Each recipe's records in ``target`` are replaced as a whole, and so is the
    benchmark's file. Returns the copied files. What is unfinished is left behind.

    Raises:
        RecordError: source and target are one folder.
    """
    if source.resolve() == target.resolve():
        raise RecordError(f"{source} cannot be published to itself; name another target")
    copied = []
    if (source / BENCH).is_file():
        target.mkdir(parents=True, exist_ok=True)
        copied.append(Path(shutil.copyfile(source / BENCH, target / BENCH)))
    for recipe in recipes_in(source):
        shutil.rmtree(target / recipe, ignore_errors=True)
        runs = [*compare_folders(source, recipe), *claim_folders(source, recipe)]
        folders = [folder.path for _, _, folder in runs if folder.is_finished()]
        folders += [path.parent for path in (source / recipe / "search").glob(f"*/{BEST}")]
        folders += [plan_path(source, recipe).parent, claims_path(source, recipe).parent]
        for folder in sorted(filter(Path.is_dir, folders)):
            for path in sorted(folder.iterdir()):
                if path.is_file() and path.name != JOURNAL and not _is_aside(path):
                    copy = target / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
                    copied.append(copy)
    return copied


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
