"""Rows of preference data as they stand in files, folders and Hub datasets."""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from study.config.recipe import DataConfig
from study.errors import DataError, first_line

PRINTED_TURNS = re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'")


WRITTEN_TURNS = re.compile(r'\s*(\[\s*)?\{\s*"(role|content|from|value)"')


def parse_turns(text: str) -> Any:
    """Return the turn or the turns that a text holds as JSON, or None."""
    if not WRITTEN_TURNS.match(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    turns = value if isinstance(value, list) else [value]
    are_turns = all(
        isinstance(turn, dict)
        and ({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys())
        for turn in turns
    )
    return value if are_turns else None


# Sources -> rows

SUFFIX = re.compile(r"\.(parquet|jsonl|json|csv)(\.gz)?$", re.IGNORECASE)


SHARD = re.compile(r"-\d+-of-(\d+)")


def read_rows(config: DataConfig) -> list[Any]:
    """Read all rows of a local file, a local folder or a Hub dataset.

    Raises:
        DataError: there is no such source, or it cannot be read; the message
            names the file and the line where one is known.
    """
    path = _local_path(config.name)
    try:
        is_folder, is_file = bool(config.name) and path.is_dir(), path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_folder = is_file = False
    if is_folder:
        saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
        return _read_saved(path, config) if saved else _read_folder(path, config.split)
    if is_file:
        return _read_file(path)
    if not re.fullmatch(r"[\w-][\w.-]{0,95}(/[\w.-]{1,96})?", config.name) or SUFFIX.search(
        config.name
    ):
        raise DataError(
            f"there is no file or folder {config.name[:200]!r}, and it is no Hub dataset id; "
            "data.name takes a path, an id such as mlabonne/orpo-dpo-mix-40k, or 'toy'"
        )
    return _read_hub(config)


def _read_hub(config: DataConfig) -> list[Any]:
    import datasets

    try:
        found = datasets.load_dataset(
            config.name, revision=config.revision or None, split=config.split or None
        )
    except Exception as error:  # a download fails in ways of many libraries
        raise DataError(
            f"cannot load {config.name} (revision {config.revision or 'newest'!r}, split "
            f"{config.split!r}) from the Hub: {type(error).__name__}: {error}; check id, revision, "
            "split and network, or give a local file with --set data.name=FILE"
        ) from error
    return _choose_split(found, config)


def _read_saved(path: Path, config: DataConfig) -> list[Any]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged folders fail in ways of many libraries
        raise DataError(
            f"cannot read the saved dataset {path}: {type(error).__name__}: {error}; save it again "
            "with save_to_disk"
        ) from error
    return _choose_split(found, config)


def _choose_split(found: Any, config: DataConfig) -> list[Any]:
    if not isinstance(found, dict):
        return list(found.to_list())
    return list(found[_pick(list(found), config.split, config.name)].to_list())


def _read_folder(folder: Path, split: str) -> list[Any]:
    """Read one split of a folder in the Hub's layout, in the order of its shards."""
    files = sorted(
        path
        for path in (*folder.iterdir(), *(folder / "data").glob("*"))
        if path.is_file() and SUFFIX.search(path.name) and path.name != "dataset_infos.json"
    )
    splits: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        splits[SUFFIX.sub("", path.name).split("-")[0]].append(path)
    shards = splits[_pick(list(splits), split, str(folder))]
    if (numbered := SHARD.search(shards[0].name)) and len(shards) != int(numbered[1]):
        raise DataError(
            f"{folder} has {len(shards)} of {numbered[1]} shards, the first being "
            f"{shards[0].name}; download the missing ones"
        )
    return [row for path in shards for row in _read_file(path)]


def _pick(available: Sequence[str], asked: str, name: str) -> str:
    if asked in available:
        return asked
    if not asked and len(available) == 1:
        return available[0]
    raise DataError(
        f"{name} has no split {asked!r}; it has {', '.join(available) or 'no data files'}; "
        "choose one with --set data.split=SPLIT"
    )


def _read_file(path: Path) -> list[Any]:
    suffix = SUFFIX.search(path.name)
    if suffix is None:
        raise DataError(
            f"{path} is of no known type; files end in .json, .jsonl, .csv or .parquet, "
            "each also with .gz"
        )
    return _READERS[suffix[1].lower()](path, _read_bytes(path))


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; copy or download it again") from error
    if content.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer, not the file; fetch it with 'git lfs pull'")
    return content


def _decode(path: Path, content: bytes) -> str:
    if content[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise DataError(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from error
    if (position := text.find("\0")) >= 0:
        line = text.count("\n", 0, position) + 1
        raise DataError(f"{path}, line {line}: a NUL byte; the file is damaged or not UTF-8 text")
    return text


def _read_json(path: Path, content: bytes) -> list[Any]:
    """Read a list of records; a file that is no list is taken as JSON Lines."""
    text = _decode(path, content)
    if not text.lstrip().startswith("["):
        return _read_jsonl(path, content)
    return list(_parse_json(path, text, first_line=1))


def _read_jsonl(path: Path, content: bytes) -> list[Any]:
    # Not str.splitlines: U+2028 and its like may stand inside a JSON string.
    lines = _decode(path, content).split("\n")
    return [
        _parse_json(path, line, first_line=number)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parse_json(path: Path, text: str, *, first_line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        what = getattr(error, "msg", str(error))
        raise DataError(
            f"{path}, line {line}: not JSON ({what}); a .json file is one list of records, "
            "a .jsonl file one record per line"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, but refuse one that gives a key two values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"key {twice!r} twice in one object")
    return made


def _read_csv(path: Path, content: bytes) -> list[Any]:
    """Read records under a header; a row of another width is kept as a list."""
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(_decode(path, content), newline=""), strict=True)
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV ({error}); fields with quotes, commas or "
            "line breaks must be quoted"
        ) from error
    finally:
        csv.field_size_limit(limit)
    _require_distinct(path, header)
    return [
        dict(zip(header, map(_csv_value, row), strict=True)) if len(row) == len(header) else row
        for row in rows
    ]


def _csv_value(field: str) -> Any:
    """Read a field that holds turns as JSON; any other is text."""
    turns = parse_turns(field)
    return field if turns is None else turns


def _read_parquet(path: Path, content: bytes) -> list[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(pa.BufferReader(content)).read()
        _require_distinct(path, table.column_names)
        return list(table.to_pylist())
    except DataError:
        raise
    except Exception as error:  # damaged files fail in many ways
        what = first_line(error)
        raise DataError(f"cannot read {path} as Parquet: {what}; write it again") from error


def _require_distinct(path: Path, columns: Sequence[str]) -> None:
    if len(set(columns)) < len(columns):
        raise DataError(f"{path} names a column twice; rename one of them")


_READERS: Mapping[str, Callable[[Path, bytes], list[Any]]] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}


def source_name(name: str) -> str:
    """Name a source without the folders of the machine it lies on."""
    path = _local_path(name)
    return path.resolve().name if path.exists() else name


def _local_path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # '~name' of no known user is an ordinary name
        return Path(name)
