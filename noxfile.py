"""What can be done with this project: `nox --list`.

Sessions that need torch share one environment, `.nox/study`, because it is
large; it is brought up to date whenever pyproject.toml or constraints.txt
change.
"""

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
# Not uv: pip alone reads a user's pip configuration, such as local torch wheels.
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = "constraints.txt"
ENVIRONMENT = Path(".nox/study").resolve()
PUBLISH = """
import sys
from pathlib import Path
from study.records.publish import publish

source, target = map(Path, sys.argv[1:])
print(f"{len(publish(source, target))} files copied to {target}")
"""


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff; `nox -s lint -- --fix` mends."""
    session.install("--quiet", "-c", CONSTRAINTS, *nox.project.dependency_groups(PROJECT, "lint"))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", "--output-format=concise", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Check types with mypy."""
    _run(session, "mypy", *session.posargs)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Run the tests, each file in one of several processes; what follows `--` goes to pytest."""
    n = (os.cpu_count() or 1) + 1  # one more than cores: tests that start servers wait for them
    # In the order of tests/conftest.py, the slow files first:
    spread = (f"--numprocesses={n}", "--dist=loadfile", "--no-loadscope-reorder")
    _run(session, "pytest", *spread, *session.posargs)
    if not session.posargs:
        _run(session, "pytest", "tests/study/cli/test_memory.py")  # with nothing beside it


@nox.session(python=False)
def faults(session: nox.Session) -> None:
    """Kill searches and comparisons sixty times, fill their disks, look for what is lost."""
    env = {
        "ORPO_STUDY_KILLS": "60",
        "ORPO_STUDY_SEARCH_DISKS_KB": "150 300 600 1000",
        "ORPO_STUDY_COMPARE_DISKS_KB": "400 900 1500",
    }
    _run(session, "pytest", "tests/promises/faults", *session.posargs, env=env)


@nox.session(python=False)
def calibration(session: nox.Session) -> None:
    """Simulate studies and check error rates, coverage and power."""
    _run(session, "python", "-m", "analysis.statistics.calibration", *session.posargs)


@nox.session(python=False)
def report(session: nox.Session) -> None:
    """Write paper/build/report.html, .tex and .pdf from finished runs."""
    _run(session, "study", "report", *session.posargs)


@nox.session(python=False)
def demo(session: nox.Session) -> None:
    """Search, compare and write up SFT, ORPO and DPO on the embedded study, on a small budget."""
    tiny = ("--recipe", "tiny-smollm2", "--recipe", "tiny-llama", "--runs", "runs/demo")
    tiny += ("--arm", "sft", "--arm", "orpo", "--arm", "dpo")
    short = ("--trials", "4", "--set", "search.confirm_top=2", "--set", "search.confirm_seeds=1")
    _run(session, "study", "search", *tiny, *short)
    _run(session, "study", "compare", *tiny, "--seeds", "3")
    _run(session, "study", "report", "--runs", "runs/demo", "--out", "paper/build/demo")


@nox.session(python=False)
def objectives(session: nox.Session) -> None:
    """Train trials to their end; say which search objective and sampler to trust."""
    for module in (
        "study.search.evidence",
        "analysis.statistics.objectives",
        "study.search.replay",
    ):
        _run(session, "python", "-m", module, *session.posargs)


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Time steps, evaluation and search beside TRL's; `-- --only steps`, `-- --quick`."""
    _run(session, "study", "bench", *session.posargs)


@nox.session(python=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz the loaders and the renderers; `-- 300` is seconds for each of four targets."""
    atheris = nox.project.dependency_groups(PROJECT, "fuzz")
    _run(session, "python", "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, *atheris)
    seconds = session.posargs[0] if session.posargs else "75"
    for target in ("loader", "rows", "escapes", "templates"):
        _run(session, "python", "tests/promises/fuzz/run.py", target, "--seconds", seconds)


@nox.session(python=False)
def publish(session: nox.Session) -> None:
    """Copy finished records, `-- runs/local runs/published` unless other folders are named."""
    source, target = session.posargs or ("runs/local", "runs/published")
    _run(session, "python", "-c", PUBLISH, source, target)


def _run(
    session: nox.Session, program: str, *arguments: str, env: dict[str, str] | None = None
) -> None:
    """Run a program of the shared environment."""
    session.run(str(_programs(session) / program), *arguments, external=True, env=env)


def _programs(session: nox.Session) -> Path:
    """Return the shared environment's programs, made or brought up to date."""
    programs = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
    wanted = b"".join(Path(name).read_bytes() for name in ("pyproject.toml", CONSTRAINTS))
    stamp, content = ENVIRONMENT / "installed", hashlib.sha256(wanted).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != content:
        install = (str(programs / "python"), "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS)
        groups = nox.project.dependency_groups(PROJECT, "test", "types")
        session.run(sys.executable, "-m", "virtualenv", str(ENVIRONMENT), external=True)
        session.run(
            *install,
            "-e",
            ".[benchmarks,cluster,dashboard,grpc,judge,mysql,postgresql,tracking]",
            *groups,
            external=True,
        )
        stamp.write_text(content, encoding="utf-8")
    return programs
