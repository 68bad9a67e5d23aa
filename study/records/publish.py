"""Copy finished records to the folder that is published."""

import shutil
from pathlib import Path

from study.errors import RecordError
from study.records.files import (
    RESOLVED,
    checksum,
    read_json,
    read_jsonl,
    write_jsonl,
    write_sealed,
)
from study.records.layout import (
    BENCH,
    BENCHMARKS,
    BEST,
    GENERATIONS,
    HISTORY,
    JOURNAL,
    JUDGED,
    JUDGES,
    RECORD,
    REPRODUCE,
    SEARCH,
    answers_name,
    recipes_in,
)
from study.records.runs import (
    RunFolder,
    claim_folders,
    compare_folders,
    reproduce_folders,
    start_folders,
)
from study.records.texts import withhold


def _is_aside(path: Path) -> bool:
    """Tell whether a file is hidden, a lock, or was set aside as damaged."""
    return path.name.startswith(".") or ".damaged-" in path.name


def publish(source: Path, target: Path) -> list[Path]:
    """Copy finished records, without adapters, checkpoints and journals.

    Each recipe's records in ``target`` are replaced as a whole, and so are the files
    of the benchmark and of the study's history where ``source`` has them. Returns the
    copied files. What is unfinished is left behind.

    Where ``data.publish_texts`` is false, prompts and reference answers are copied as
    hashes of their text, and the record is sealed anew over that file.

    Raises:
        RecordError: source and target are one folder.
    """
    if source.resolve() == target.resolve():
        raise RecordError(f"{source} cannot be published to itself; name another target")
    copied = []
    for name in (BENCH, HISTORY):
        if (source / name).is_file():
            target.mkdir(parents=True, exist_ok=True)
            copied.append(Path(shutil.copyfile(source / name, target / name)))
    for recipe in recipes_in(source):
        shutil.rmtree(target / recipe, ignore_errors=True)
        runs = [
            *compare_folders(source, recipe),
            *claim_folders(source, recipe),
            *reproduce_folders(source, recipe),
        ]
        runs_and_starts = [*(run for _, _, run in runs), *start_folders(source, recipe)]
        folders = [folder.path for folder in runs_and_starts if folder.is_finished()]
        folders += [path.parent for path in (source / recipe / "search").glob(f"*/{BEST}")]
        parts = (SEARCH, "compare", "claims", REPRODUCE, JUDGES)
        folders += [source / recipe / part for part in parts]
        folders += [path.parent for path in (source / recipe / REPRODUCE).glob(f"*/{RESOLVED}")]
        for folder in sorted(filter(Path.is_dir, folders)):
            scored = (*folder.glob(f"{BENCHMARKS}/*/*.json"), *folder.glob(f"{JUDGED}/*.json"))
            for path in sorted((*folder.iterdir(), *scored)):
                if path.is_file() and path.name != JOURNAL and not _is_aside(path):
                    copy = target / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
                    copied.append(copy)
            if (folder / GENERATIONS).is_file() and not _may_publish_texts(folder):
                _withhold_texts(target / folder.relative_to(source))
    return copied


def _may_publish_texts(folder: Path) -> bool:
    """Read from a run's configuration whether texts of its data may be passed on."""
    config = RunFolder(folder).config()
    return config is None or bool(config["recipe"]["data"].get("publish_texts", True))


def _withhold_texts(folder: Path) -> None:
    """Leave texts out of a published run, and put the file's new checksum into its record."""
    record = read_json(folder / RECORD)
    assert record is not None
    files = dict(record["files"])
    for path in (folder / GENERATIONS, *folder.glob(answers_name("*"))):
        write_jsonl(path, [withhold(row) for row in read_jsonl(path)])
        files[path.name] = checksum(path)
    write_sealed(folder / RECORD, {**record, "files": files})
