"""Texts that a publication left out, found again in the user's own copy of the data."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from study.config.recipe import DataConfig
from study.errors import RecordError
from study.records.files import read_jsonl
from study.records.layout import GENERATIONS, recipes_in
from study.records.runs import RunFolder, claim_folders, compare_folders
from study.records.texts import WITHHELD, keep_texts, known_texts, sha256


def remember_texts(
    folders: Sequence[Path], data: str | None, *, say: Callable[[str], None]
) -> None:
    """Keep texts that records name by their hashes, for reports on this machine.

    Args:
        folders: of records.
        data: the pairs; None takes what a recipe names, where it is a file here.
        say: told what was found.

    Raises:
        DataError: the pairs cannot be read.
    """
    for runs in filter(Path.is_dir, folders):
        for recipe in recipes_in(runs):
            with contextlib.suppress(RecordError):  # the report itself names what is damaged
                _remember(runs, recipe, data, say)


def _remember(runs: Path, recipe: str, data: str | None, say: Callable[[str], None]) -> None:
    listed = [*compare_folders(runs, recipe), *claim_folders(runs, recipe)]
    finished = [folder for _, _, folder in listed if folder.record() is not None]
    wanted = {folder.path: set(_hashes(folder)) for folder in finished}
    named: set[str] = set().union(*wanted.values())
    if not named:
        return
    first = next(folder for folder in finished if wanted[folder.path])
    record, config = first.record(), first.config()
    assert record is not None
    assert config is not None
    fingerprint = record["data"]["test"]["fingerprint"]
    known = known_texts(fingerprint)
    source = data or config["recipe"]["data"]["name"]
    if named <= known.keys() or not (data or Path(source).exists()):
        return
    from study.data.load import load_pairs
    from study.run.prompts import prompt_text, text_of

    found = {
        text
        for pair in load_pairs(_data_config(config["recipe"]["data"], source)).pairs
        for text in (prompt_text(pair.prompt), text_of(pair.chosen))
        if sha256(text) in named
    }
    keep_texts(fingerprint, [*known.values(), *found])
    say(
        f"{recipe}: {source} has {len(found)} of the {len(named)} prompts and references that were "
        "not published; this machine's reports show them"
    )


def _hashes(folder: RunFolder) -> Iterator[str]:
    for row in read_jsonl(folder.path / GENERATIONS):
        for found in row.get(WITHHELD, {}).values():
            yield from [found] if isinstance(found, str) else found


def _data_config(recorded: dict[str, Any], name: str) -> DataConfig:
    return dataclasses.replace(DataConfig(**recorded), name=name)
