"""Folders that belong to one configuration: claimed, checked, set aside, never mixed."""

import datetime as dt
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from study.config.canonical import differences, digest
from study.errors import RecordError
from study.records.files import RESOLVED, read_json, write_json, write_sealed
from study.records.layout import CONFIG, SEARCH
from study.records.schema import upgraded


def facts_of(model: Any, data: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return the facts that all runs of a folder must share."""
    fingerprints = {
        name: part["fingerprint"]
        for name, part in data.items()
        if isinstance(part, Mapping) and "fingerprint" in part
    }
    kind = "cpu" if device.casefold().startswith("cpu") else "gpu"
    tokens = {"tokens": dict(data["tokens"])} if "tokens" in data else {}
    return {"model": dict(model), "data": fingerprints, "device": kind, **tokens}


RESTORE = "restore it, or set the old records aside with --fresh"


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
    """Set a folder of searches or runs, or one arm's search, aside; None where there is none.

    Raises:
        RecordError: a living process works in it, or it cannot be moved.
    """
    check_idle(folder)
    return set_aside(folder, "old") if folder.exists() else None


def check_idle(folder: Path) -> None:
    """Refuse a folder, of what `begin_afresh` takes, that a living process works in.

    Raises:
        RecordError: one does, or nobody can be seen there.
    """
    from study.records.locks import hold, is_held, leases
    from study.records.sharing import COMMAND

    if not folder.exists():
        return
    with hold(folder.with_name(f".{folder.name}.lock")):  # refused where nobody can be seen
        pass
    part = folder.parent if folder.parent.name == SEARCH else folder
    begun = [one for one in leases(part.parent, COMMAND) if one.held]
    if any(one.content["command"] == part.name for one in begun) or any(
        is_held(path) for path in folder.rglob(".*") if path.is_file()
    ):
        raise RecordError(f"another process works in {folder}; stop it before --fresh")


def claim_folder(path: Path, config: Mapping[str, Any]) -> None:
    """Write a folder's ``config.json`` once, and refuse any other afterwards.

    Raises:
        RecordError: the folder belongs to another configuration.
    """
    from study.records.locks import hold

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
    folder: Path,
    facts: Mapping[str, Any],
    earlier: Callable[[], Iterable[Mapping[str, Any]]] = tuple,
) -> None:
    """Write what a folder's runs are made with, once, and refuse anything else.

    Args:
        folder: of one comparison or one search.
        facts: what configuration alone does not say: resolved dtype, commit
            and quantisation of the model, fingerprints of the data, kind of device.
            A kind of fact that older records lack decides nothing about them.
        earlier: reads the facts of runs that are finished in it; asked where they
            were not written, as each run was held against what was.

    Raises:
        RecordError: the folder's runs were made with other facts.
    """
    from study.records.locks import hold

    with hold(folder / f".{RESOLVED}.lock", wait=True):
        try:
            written = read_json(folder / RESOLVED)
        except RecordError as error:
            raise RecordError(f"{error}; {RESTORE}") from error
        for found in [written] if written else earlier():
            known = {name: value for name, value in facts.items() if name in found}
            lines = "\n  ".join(differences(found, known))
            if lines:
                raise RecordError(
                    f"{folder} holds records that were made with something else:\n  {lines}\n"
                    "nothing was changed; go on with what they were made with, name another folder "
                    "with --runs, or set the old records aside with --fresh"
                )
        if written is None or written.keys() < facts.keys():
            write_sealed(folder / RESOLVED, {**facts, **(written or {})})


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "digest"}


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return a folder's configuration with its digest, or None where there is none.

    Raises:
        RecordError: it was changed after it was written.
    """
    config = read_json(folder / CONFIG)
    if config is not None:
        config = upgraded(config, folder / CONFIG)
    if config is not None and config.get("digest") != digest(_bare(config)):
        raise RecordError(f"{folder / CONFIG} is damaged (its digest is not that of its content)")
    return config
