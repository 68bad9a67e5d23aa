"""Folders of models that are made once and kept in the user's cache."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from study.config.environment import cache_folder
from study.errors import ModelError, RecordError
from study.records.files import follow_umask
from study.records.locks import hold

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


def unheard(what: str, done: int, total: int) -> None:
    """Take progress that nobody is told of."""


def keep(name: str, make: Callable[[Path], None], *, what: str) -> Path:
    """Return a folder of the cache, made by the first who asks for it.

    Two processes that ask at once make it once: the second waits.

    Args:
        name: of the folder; whatever decides its content is part of it.
        make: writes the content to the folder that it is given, which does not
            exist yet. What it leaves unfinished is thrown away.
        what: is kept there, for messages.

    Raises:
        ModelError: the cache folder cannot be written; or what ``make`` raises.
    """
    from safetensors import SafetensorError

    folder = cache_folder() / name
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold(Path(f"{folder}.lock"), wait=True):
            if not folder.is_dir():
                _make(folder, make)
    except (OSError, RecordError, SafetensorError) as error:
        raise ModelError(
            f"cannot keep {what} in {folder.parent}: {error}; make room there, or set "
            "ORPO_STUDY_CACHE to a folder that can be written"
        ) from error
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder under another name and rename it into place once it is whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as name:
        finished = Path(name) / folder.name
        make(finished)
        follow_umask(finished)
        with contextlib.suppress(FileExistsError):
            os.rename(finished, folder)
