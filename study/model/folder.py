"""A model's folder in the Hub's layout: is it whole, and what stands for its content."""

import json
from pathlib import Path
from typing import Any

from study.config.canonical import digest
from study.errors import ModelError, first_line
from study.records.files import checksum

OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
)
"""Files that hold one JSON object each."""

DECIDING = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Endings of the files that change what a model computes: weights, configurations, templates,
tokenizers, code."""

INDEX = "model.safetensors.index.json"

ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2")
"""What a configuration may name as attention; model.attention decides."""

NARROW = ("I8", "F8_E4M3", "F8_E5M2")
"""Types of quantised weights, whose scales stand elsewhere."""

AGAIN = "download the model again, or name another one"


def check_folder(folder: Path) -> None:
    """Refuse a folder with a file that cannot be what its name says.

    Raises:
        ModelError: the message names the file.
    """
    quantised = False
    for name in OBJECTS:
        if (folder / name).exists():
            content = _check_object(folder / name)
            if name == "config.json":
                _check_attention(folder / name, content)
                quantised = bool(content.get("quantization_config"))
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).exists():
        weights = _indexed(folder)
    for path in weights:
        _check_weights(path, quantised=quantised)


def fingerprint(folder: Path, *, weights_only: bool = False) -> str:
    """Stand in for the commit of a local folder: a SHA-256 of all that decides results.

    Args:
        folder: where the files are, at any depth.
        weights_only: leave out all but weights: of a toy base, whose other files
            are part of this package's code.
    """
    kinds = DECIDING[:1] if weights_only else DECIDING
    files = sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())
    listed = [[path.relative_to(folder).as_posix(), checksum(path)] for path in files]
    return f"sha256:{digest(listed)[:16]}"


def _check_object(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({first_line(error)}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a JSON {type(content).__name__}, not an object; {AGAIN}")
    return content


def _check_attention(path: Path, content: dict[str, Any]) -> None:
    """Refuse attention kernels, which transformers would fetch from the Hub and run."""
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        if content.get(key) not in ATTENTIONS:
            raise ModelError(
                f"{path} names the attention kernel {content[key]!r}; this study chooses attention "
                f"by model.attention: remove {key} from the file"
            )


def _indexed(folder: Path) -> list[Path]:
    """Return the files that an index names, all of which must be there."""
    places = _check_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{folder / INDEX} has no weight_map from tensors to files; {AGAIN}")
    paths = [folder / name for name in sorted(set(places.values()))]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise ModelError(f"{folder / INDEX} names {', '.join(absent)}, which is absent; {AGAIN}")
    return paths


def _check_weights(path: Path, *, quantised: bool) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} is no safetensors file: {what_it_is(path) or first_line(error)}; {AGAIN}"
        ) from error

    if not quantised and (narrow := sorted(kinds & set(NARROW))):
        raise ModelError(
            f"{path} holds {', '.join(narrow)} numbers, which mean nothing without the "
            "quantization_config that its config.json lacks; take the model's original weights"
        )


def what_it_is(path: Path) -> str:
    """Say what stands in a file's place, where that can be told from its beginning."""
    if not path.is_file():
        return "it is a folder"
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS (fetch the file itself with `git lfs pull`)"
    return "it is a web page" if start.lstrip()[:1] == b"<" else ""
