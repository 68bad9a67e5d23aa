"""The arrows between packages, read from the syntax trees; every module imports."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("study", "analysis", "paper")
FORBIDDEN = {
    "study": ("analysis", "paper"),
    "analysis": ("paper", "study", "torch", "transformers", "datasets", "trl", "peft"),
    "paper": ("study", "torch", "transformers", "datasets", "optuna", "trl", "peft"),
}
ALLOWED = {"analysis": ("study.config", "study.records", "study.errors")}
LIGHT = ("study.cli", "study.config", "study.records", "study.errors", "analysis.load")
HEAVY = {"torch", "transformers", "trl", "datasets", "optuna", "peft"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = [module_name(path) for path in FILES if path.name != "__main__.py"]


def imports(source: str) -> Iterator[str]:
    """Yield the full name of everything imported anywhere, also in functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def crossings(package: str, source: str) -> list[str]:
    return [
        name
        for name in imports(source)
        if any(within(name, other) for other in FORBIDDEN[package])
        and not any(within(name, allowed) for allowed in ALLOWED.get(package, ()))
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_follow_the_arrows(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]

    assert crossings(package, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("study", "from analysis import load"),
        ("study", "def f():\n    import paper.build"),
        ("analysis", "from study.train import train_run"),
        ("analysis", "from study import train"),
        ("analysis", "import torch.nn"),
        ("paper", "from study.records import read_json"),
    ],
)
def test_forbidden_imports_are_found(package: str, source: str) -> None:
    assert crossings(package, source)


def test_allowed_imports_are_let_through() -> None:
    assert (
        crossings("analysis", "from study.records import read_json\nfrom study import config") == []
    )
    assert crossings("paper", "from analysis.findings import Findings") == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_is(module: str) -> None:
    assert importlib.import_module(module).__doc__


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_leave_heavy_ones_alone(module: str) -> None:
    code = f"import sys, {module}; print(*(set({sorted(HEAVY)!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == ""
