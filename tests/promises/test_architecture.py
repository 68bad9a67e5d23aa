"""Arrows, circles, floors and sizes, read from the syntax trees; every module imports."""

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("study", "analysis", "paper")
FORBIDDEN = {
    "study": ("analysis", "paper"),
    "analysis": ("paper", "study", "torch", "transformers", "datasets", "trl", "peft"),
    "paper": ("study", "torch", "transformers", "datasets", "optuna", "trl", "peft"),
}
ALLOWED = {"analysis": ("study.arms", "study.config", "study.errors", "study.records")}
LIGHT = (
    "study.arms",
    "study.cli",
    "study.compare",
    "study.config.recipe",
    "study.records.runs",
    "study.errors",
    "analysis.records.load",
)
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
        ("analysis", "from study.run.train import train_run"),
        ("analysis", "from study import train"),
        ("analysis", "import torch.nn"),
        ("paper", "from study.records.runs import read_json"),
    ],
)
def test_forbidden_imports_are_found(package: str, source: str) -> None:
    assert crossings(package, source)


def test_allowed_imports_are_let_through() -> None:
    assert (
        crossings("analysis", "from study.records.runs import read_json\nfrom study import config")
        == []
    )
    assert crossings("paper", "from analysis.findings import Findings") == []


MOST_ENTRIES, MOST_FLOORS, MOST_LINES = 14, 9, 400


def arrows(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Return module -> modules that it imports, of one package and at any depth."""
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in paths}

    def home(name: str) -> str:
        while name and name not in sources:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {home(name) for name in imports(source)} - {"", module, module.partition(".")[0]}
        for module, source in sources.items()
    }


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Merge modules into what stands at the top of their package: files and folders."""
    merged: dict[str, set[str]] = {}
    for module, targets in graph.items():
        room = ".".join(module.split(".")[:2])
        others = {".".join(target.split(".")[:2]) for target in targets}
        merged.setdefault(room, set()).update(others - {room})
    return {room: targets for room, targets in merged.items() if "." in room}


def floors(graph: dict[str, set[str]]) -> int:
    """Return the longest chain of imports.

    Raises:
        graphlib.CycleError: some import each other in a circle.
    """
    height: dict[str, int] = {}
    for node in graphlib.TopologicalSorter(graph).static_order():
        height[node] = 1 + max((height[target] for target in graph.get(node, ())), default=0)
    return max(height.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_imports_in_a_circle(package: str) -> None:
    graph = arrows(path for path in FILES if path.is_relative_to(ROOT / package))

    assert floors(graph) >= floors(rooms(graph)) > 1


def test_study_has_few_rooms_on_few_floors() -> None:
    graph = rooms(arrows(path for path in FILES if path.is_relative_to(ROOT / "study")))

    assert len(graph) <= MOST_ENTRIES
    assert floors(graph) <= MOST_FLOORS


def test_circles_and_floors_are_found() -> None:
    chain = {"study.a": {"study.b"}, "study.b": {"study.c.d"}, "study.c.d": set()}
    circle = chain | {"study.c.e": {"study.a"}}

    assert floors(rooms(chain)) == 3
    assert floors(circle) == 4
    with pytest.raises(graphlib.CycleError):
        floors(rooms(circle))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


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
