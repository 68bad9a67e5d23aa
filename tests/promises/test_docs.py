"""What the documents promise: every command has help and stands in the README."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from study.cli.commands import main
from study.config.files import recipe_names


def commands(group: click.Group, prefix: str = "study") -> Iterator[tuple[str, click.Command]]:
    """Yield every command of the command line with its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    options = [p for p in command.params if isinstance(p, click.Option)]

    assert command.help
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name: str, root: Path) -> None:
    assert name in (root / "README.md").read_text(encoding="utf-8")


def test_every_recipe_stands_in_the_readme(root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")

    assert [name for name in recipe_names() if name not in readme] == []


def test_every_session_of_nox_in_the_readme_exists(root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"nox -s (\w+)", readme))
    defined = set(
        re.findall(r"^def ([a-z]\w*)\(session", (root / "noxfile.py").read_text(), re.MULTILINE)
    )

    assert named
    assert named <= defined


def test_every_direct_dependency_is_pinned(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    required = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(
            item
            for extra, items in project["project"]["optional-dependencies"].items()
            if extra != "gpu"  # built against the torch that it finds
            for item in items
        ),
        *(item for group in project["dependency-groups"].values() for item in group),
    ]
    names = {re.split(r"[>=<;\[ ]", item)[0] for item in required if isinstance(item, str)}
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if not line.startswith("#")}

    assert names == pinned
