"""GGUF files, as llama.cpp reads them, turned into folders in the Hub's layout.

transformers reads the file; nothing in it is run. Its weights are dequantised to
float32, which holds every value that a GGUF file can name, and written as safetensors
once, so that a study loads them as it loads any other model.
"""

import contextlib
import functools
import io
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.errors import ModelError, first_line
from study.model.cache import Progress
from study.model.fit import refuse_other_weights
from study.model.folder import AGAIN, what_it_is
from study.records.files import checksum

ORIGIN = "origin.json"
"""What a converted folder was made from."""

MAGIC = b"GGUF"

TEXT_FIELDS = {"licence": "general.license", "called": "general.name"}
"""Facts that a file states about itself -> where they stand in it."""


UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading metadata that may hold anything can end in."""


def read_header(path: Path) -> Any:
    """Read what a GGUF file holds but its weights.

    Raises:
        ModelError: there is no such file, or it is not a whole GGUF file.
    """
    from gguf import GGUFReader

    if not path.is_file():
        raise ModelError(f"there is no file {path}; model.name takes the path of a .gguf file")
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    if start != MAGIC:
        found = what_it_is(path) or f"it begins with {start!r}"
        raise ModelError(f"{path} is no GGUF file: {found}; {AGAIN}")
    try:
        return GGUFReader(path)
    except Exception as error:  # it maps the file and reads on wherever that leads
        raise ModelError(
            f"{path} is damaged or not whole ({first_line(error)}); {AGAIN}"
        ) from error


def convert(path: Path, folder: Path, *, origin: Mapping[str, str], progress: Progress) -> None:
    """Write a GGUF file's model, tokenizer and chat template as a folder.

    Args:
        path: the file; its name and the files beside it decide nothing.
        folder: where the model goes; it does not exist yet.
        origin: what the record is to say of where the file is from.
        progress: told of each part.

    Raises:
        ModelError: it is not a whole GGUF file, or transformers does not know its
            architecture.
    """
    what = f"converting {path.name} to safetensors"
    progress(what, 0, 3)
    header = read_header(path)
    facts = {**_facts(header, path), **origin}
    try:
        with tempfile.TemporaryDirectory() as alone, contextlib.redirect_stderr(io.StringIO()):
            (Path(alone) / "model.gguf").symlink_to(path.absolute())
            tokenizer = _tokenizer(alone)
            progress(what, 1, 3)
            model = _model(alone, path.name)
    except UNREADABLE as error:
        if _is_of_machine(error):
            raise
        raise ModelError(
            f"cannot read the model in {path}: {first_line(error)}; {AGAIN}"
        ) from error
    progress(what, 2, 3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _drop_invented_tokens(folder / "tokenizer.json", header)
    (folder / ORIGIN).write_text(json.dumps(facts, indent=2), encoding="utf-8")
    progress(what, 3, 3)


def _is_of_machine(error: Exception) -> bool:
    """Tell whether memory or a disk failed, and not the file that was read."""
    import torch

    failed = isinstance(error, OSError) and error.errno is not None  # transformers' own have none
    return failed or isinstance(error, torch.OutOfMemoryError)


def sha256_of(path: Path) -> str:
    """Return the checksum of a file, worked out once for as long as it stays as it is."""
    found = path.stat()
    return _sha256(path.absolute(), found.st_size, found.st_mtime_ns, found.st_ino)


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, *_: int) -> str:
    return checksum(path)


def origin_of(folder: Path) -> dict[str, str]:
    """Return what a converted folder says of where it is from, for records."""
    return dict(json.loads((folder / ORIGIN).read_text(encoding="utf-8")))


def _facts(header: Any, path: Path) -> dict[str, str]:
    """Name the file's content: its hash, how its weights are stored, and its licence."""
    kinds = Counter(tensor.tensor_type.name for tensor in header.tensors)
    stored = ", ".join(f"{kind} ({n})" for kind, n in kinds.most_common())
    told = {
        fact: str(header.fields[name].contents())
        for fact, name in TEXT_FIELDS.items()
        if name in header.fields
    }
    return {
        **told,
        "source": path.name,
        "source_sha256": sha256_of(path),
        "stored_as": f"{stored}; dequantised to float32",
    }


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")


def _drop_invented_tokens(path: Path, header: Any) -> None:
    """Leave out tokens that the file does not have, such as GPT-2's end of text.

    transformers adds those that the class of a tokenizer has by default; the model has
    no embeddings for them.
    """
    n_tokens = len(header.fields["tokenizer.ggml.tokens"].data)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [one for one in content["added_tokens"] if one["id"] < n_tokens]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _model(folder: str, name: str) -> Any:
    import torch
    import transformers

    # From 5.23 on, transformers can leave weights in their blocks, which nothing here trains on.
    config = getattr(transformers, "GgufConfig", None)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file="model.gguf",
        dtype=torch.float32,
        output_loading_info=True,
        **({} if config is None else {"quantization_config": config(dequantize=True)}),
    )
    model, loading = loaded
    refuse_other_weights(name, model, loading)
    vars(model.config).pop("quantization_config", None)  # it would be asked for again
    return model
