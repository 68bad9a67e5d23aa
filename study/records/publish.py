"""Copy finished records to the folder that is published."""

import shutil
from pathlib import Path

from study.errors import RecordError
from study.records.layout import (
    BENCH,
    BENCHMARKS,
    BEST,
    JOURNAL,
    claims_path,
    plan_path,
    recipes_in,
)
from study.records.runs import claim_folders, compare_folders


def _is_aside(path: Path) -> bool:
    """Tell whether a file is hidden, a lock, or was set aside as damaged."""
    return path.name.startswith(".") or ".damaged-" in path.name


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
            for path in sorted((*folder.iterdir(), *folder.glob(f"{BENCHMARKS}/*/*.json"))):
                if path.is_file() and path.name != JOURNAL and not _is_aside(path):
                    copy = target / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
                    copied.append(copy)
    return copied
