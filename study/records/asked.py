"""How a command named its recipe, for the commands that a report prints.

A shipped recipe is told by its name, and what was set over it by comparing. Of a
file of the user's own the configuration of a run holds neither its path nor
which of its fields were set on the command line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.config.files import is_file
from study.records.files import read_json, write_sealed
from study.records.layout import ASKED


def keep_asked(
    runs: Path, recipe: str, part: str, *, name: str, assignments: Sequence[str]
) -> None:
    """Keep the path of a recipe file and what was set over it; forget an older one.

    Args:
        runs: folder of all records.
        recipe: name of the recipe.
        part: ``search``, ``compare`` or ``claims``.
        name: the recipe's name or file, as the command was given it.
        assignments: what followed each ``--set``.
    """
    path = runs / recipe / part / ASKED
    if is_file(name):
        write_sealed(path, {"file": name, "set": list(assignments)})
    else:
        path.unlink(missing_ok=True)


def read_asked(runs: Path, recipe: str, part: str) -> Mapping[str, Any] | None:
    """Return the file of a recipe and what was set over it, or None for a shipped one."""
    return read_json(runs / recipe / part / ASKED)
