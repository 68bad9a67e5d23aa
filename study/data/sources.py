"""Where rows come from: a file, a folder, an archive, a glob, a saved or a Hub dataset.

Which split a file belongs to is read from its path, as the `datasets` library
does (https://huggingface.co/docs/datasets/repository_structure), so that files of
train and test are never read as one set.
"""

import functools
import glob
import os
import re
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from study.config.recipe import DataConfig
from study.data.files import ROW_BYTES, UNREADABLE, Budget, File, decompressed
from study.data.kinds import SUFFIX, read_file
from study.errors import DataError, first_line

TOY = "toy"
"""Names the embedded toy language, which is written anew."""

HUB_ID = re.compile(r"[\w-][\w.-]{0,95}(/[\w.-]{1,96})?")


ARCHIVE = re.compile(r"\.(zip|t(ar\.)?(gz|bz2?|xz|zst)|tar)$", re.IGNORECASE)


MAGIC = re.compile(r"[*?\[]")


KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split -> words for it, between separators, as `datasets` knows them."""


SHARD = re.compile(r"(?:^|.*/)([^/]+?)-\d{5}-of-(\d{5})[^/]*$")


SUSPICIOUS = re.compile(r"train|test|valid|eval|held.?out|hold.?out|dev", re.IGNORECASE)


NOT_ROWS = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
"""JSON files that stand beside data in the Hub's layout."""


def require_source(config: DataConfig) -> None:
    """Look whether a file, a folder or an id is named, and read nothing.

    Raises:
        DataError: there is no such source.
    """
    if config.name != TOY:
        _find(config)


class _Found(NamedTuple):
    path: Path
    is_folder: bool
    is_file: bool
    matches: Sequence[File]


def _find(config: DataConfig) -> _Found:
    path = _local_path(config.name)
    try:
        path = path / config.data_dir if path.is_dir() else path
        is_folder, is_file = bool(config.name) and path.is_dir(), path.is_file()
        found = _Found(path, is_folder, is_file, () if is_folder or is_file else _matches(path))
    except (OSError, ValueError):  # a name that no file can have
        found = _Found(path, is_folder=False, is_file=False, matches=())
    is_local = found.is_folder or found.is_file or found.matches
    if is_local and config.subset:
        raise DataError(
            f"data.subset is {config.subset!r}, but {config.name} is no Hub dataset; read a "
            "folder of it with data.data_dir"
        )
    if not is_local and (not HUB_ID.fullmatch(config.name) or SUFFIX.search(config.name)):
        raise DataError(
            f"there is no file or folder {config.name[:200]!r}{_where(path)}, and it is no Hub "
            "dataset id; data.name takes a path, an id such as mlabonne/orpo-dpo-mix-40k, or 'toy'"
        )
    return found


def read_rows(config: DataConfig) -> list[Any]:
    """Read all rows of the source that the recipe names.

    Raises:
        DataError: there is no such source, it cannot be read, or it is larger
            than ``max_bytes``; the message names the file and the line where one
            is known.
    """
    budget = Budget(config.max_bytes, config.name[:200])
    path, is_folder, is_file, matches = _find(config)
    if is_folder:
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return _read_saved(path, config, budget)
        return _read_split(_in_folder(path), config, budget)
    if is_file and ARCHIVE.search(path.name):
        return _read_split(_in_archive(path, config), config, budget)
    if is_file:
        return read_file(_on_disk(path, path.parent), budget)
    if matches:
        return _read_split(matches, config, budget, is_glob=True)
    return _read_hub(config, budget)


def source_name(name: str) -> str:
    """Name a source without the folders of the machine it lies on."""
    path = _local_path(name)
    return path.resolve().name if path.exists() else path.name if MAGIC.search(name) else name


def _local_path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # '~name' of no known user is an ordinary name
        return Path(name)


def _where(path: Path) -> str:
    return "" if path.is_absolute() else f" in {Path.cwd()}, where the command runs"


# Files


def _on_disk(path: Path, folder: Path) -> File:
    name = path.relative_to(folder).as_posix()
    return File(name=name, label=str(path), open=lambda: path.open("rb"))


def _in_folder(folder: Path) -> list[File]:
    """List the files of rows in a folder and the folders in it, hidden ones apart."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [Path(place, name) for name in names if _is_data(name)]
    return [_on_disk(path, folder) for path in sorted(found) if path.is_file()]


def _is_data(name: str) -> bool:
    return bool(SUFFIX.search(name)) and not name.startswith(".") and name not in NOT_ROWS


def _matches(path: Path) -> list[File]:
    """List the files that a glob names."""
    if not MAGIC.search(str(path)):
        return []
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    folder = next(parent for parent in path.parents if not MAGIC.search(str(parent)))
    return [_on_disk(one, folder) for one in found if one.is_file() and _is_data(one.name)]


def _in_archive(path: Path, config: DataConfig) -> list[File]:
    """Read the files of rows in an archive; nothing is unpacked to disk.

    Raises:
        DataError: the archive is damaged, or holds more than ``max_bytes``.
    """
    budget = Budget(config.max_bytes, str(path))
    inside = config.data_dir.strip("/")
    members = _zipped if path.suffix.lower() == ".zip" else _tarred
    try:
        with decompressed(_on_disk(path, path.parent)) as stream:
            return [
                File(
                    name=name,
                    label=f"{path}, {name}",
                    open=functools.partial(BytesIO, content),
                )
                for name, content in sorted(members(stream, budget))
                if not inside or name.startswith(f"{inside}/")
            ]
    except (*UNREADABLE, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(
            f"cannot read {path}: {first_line(error)}; copy or download it again"
        ) from error


def _tarred(stream: BinaryIO, budget: Budget) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            budget.take(max(member.size, ROW_BYTES))
            name = member.name.removeprefix("./")
            if member.isreg() and _is_data_inside(name) and (opened := archive.extractfile(member)):
                yield name, opened.read()


def _zipped(stream: BinaryIO, budget: Budget) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            budget.take(max(member.file_size, ROW_BYTES))
            if not member.is_dir() and _is_data_inside(member.filename):
                with archive.open(member) as opened:  # never more than the size it states
                    yield member.filename, opened.read(member.file_size)


def _is_data_inside(name: str) -> bool:
    *folders, last = name.split("/")
    return _is_data(last) and not any(folder.startswith((".", "__")) for folder in folders)


# Splits


def splits_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Deal paths to splits: by shards, by names of folders, by names of files, else to train.

    Raises:
        ValueError: a path names two splits, or names differ in what may be a split.
    """
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        if shard := SHARD.match(name):
            splits[shard[1]].append(name)
    if splits:
        return dict(splits)
    for part in ("folders", "name"):
        for name in names:
            *folders, last = name.split("/")
            of_path = {word for one in (*folders, last) for word in _splits_named(one)}
            of_part = folders if part == "folders" else [last]
            if not any(_splits_named(one) for one in of_part):
                continue
            if len(of_path) > 1:
                raise ValueError(f"{name} names the splits {' and '.join(sorted(of_path))}")
            splits[of_path.pop()].append(name)
        if splits:
            return dict(splits)
    if len({tuple(SUSPICIOUS.findall(name)) for name in names}) > 1:
        doubtful = next(name for name in names if SUSPICIOUS.search(name))
        raise ValueError(f"{doubtful} may be of another split than the others")
    return {"train": list(names)} if names else {}


def _splits_named(part: str) -> set[str]:
    return {
        split
        for split, words in KEYWORDS.items()
        if re.search(rf"(?i)(?:^|[-._ 0-9])(?:{'|'.join(words)})(?:[-._ 0-9]|$)", part)
    }


def _read_split(
    files: Sequence[File], config: DataConfig, budget: Budget, *, is_glob: bool = False
) -> list[Any]:
    """Read the one split asked for, in the order of its files."""
    named = {file.name: file for file in files}
    try:
        splits = splits_of(list(named))
    except ValueError as error:
        raise DataError(
            f"{config.name}: {error}; name the files of one split, e.g. with a glob, or put each "
            "split into a folder of its name (train, validation, test)"
        ) from error
    if config.split and config.split not in splits:
        stems = {name: SUFFIX.sub("", name.rpartition("/")[2]) for name in named}
        asked = [name for name, stem in stems.items() if stem.split("-")[0] == config.split]
        splits |= {config.split: asked} if asked else {}
    alone = is_glob and len(splits) == 1
    chosen = next(iter(splits)) if alone else _pick(list(splits), config.split, config.name)
    _check_whole(splits[chosen], config)
    return [row for name in splits[chosen] for row in read_file(named[name], budget)]


def _check_whole(names: Sequence[str], config: DataConfig) -> None:
    """Refuse a split with missing shards, of several folders of shards, or of several kinds."""
    shards = [match for name in names if (match := SHARD.match(name))]
    if shards and len({name.rpartition("/")[0] for name in names}) > 1:
        folders = ", ".join(sorted({name.rpartition("/")[0] or "." for name in names})[:8])
        raise DataError(
            f"{config.name} has shards of {shards[0][1]} in several folders ({folders}); choose "
            "one with --set data.data_dir=FOLDER"
        )
    if shards and len(names) != int(shards[0][2]):
        raise DataError(
            f"{config.name} has {len(names)} of {shards[0][2]} shards, the first being {names[0]}; "
            "download the missing ones"
        )
    kinds = sorted({found[1].lower() for name in names if (found := SUFFIX.search(name))})
    if len(kinds) > 1:
        raise DataError(
            f"{config.name} has files of several kinds ({', '.join(kinds)}); name one of them, or "
            "all of one kind with a glob"
        )


def _pick(available: Sequence[str], asked: str, name: str) -> str:
    if asked in available:
        return asked
    if not asked and len(available) == 1:
        return available[0]
    raise DataError(
        f"{name} has no split {asked!r}; it has {', '.join(available) or 'no data files'}; "
        "choose one with --set data.split=SPLIT"
    )


# Datasets


def _read_hub(config: DataConfig, budget: Budget) -> list[Any]:
    import datasets

    asked = {
        "name": config.subset,
        "data_dir": config.data_dir,
        "revision": config.revision,
        "split": config.split,
    }
    try:
        found = datasets.load_dataset(
            config.name, **{name: value for name, value in asked.items() if value}
        )
    except Exception as error:  # a download fails in ways of many libraries
        raise DataError(
            f"cannot load {config.name} (revision {config.revision or 'newest'!r}, split "
            f"{config.split!r}{f', subset {config.subset!r}' if config.subset else ''}) from the "
            f"Hub: {type(error).__name__}: {error}; check id, revision, split and network, name "
            "a configuration with --set data.subset=NAME or a folder with data.data_dir, or give "
            "a local file with --set data.name=FILE"
        ) from error
    return _choose_split(found, config, budget)


def _read_saved(path: Path, config: DataConfig, budget: Budget) -> list[Any]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged folders fail in ways of many libraries
        raise DataError(
            f"cannot read the saved dataset {path}: {type(error).__name__}: {error}; save it again "
            "with save_to_disk"
        ) from error
    return _choose_split(found, config, budget)


def _choose_split(found: Any, config: DataConfig, budget: Budget) -> list[Any]:
    chosen = (
        found[_pick(list(found), config.split, config.name)] if isinstance(found, dict) else found
    )
    budget.take(max(chosen.data.nbytes, ROW_BYTES * len(chosen)))
    return list(chosen.to_list())
