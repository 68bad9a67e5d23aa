"""The files of a released folder beside its weights: tokenizer, generation, configuration."""

import copy
import json
from pathlib import Path
from typing import Any

import torch

from study.config.recipe import ModelConfig
from study.data.tokens import end_of_turn
from study.errors import ModelError
from study.model.locate import locate
from study.model.workbench import Workbench

DTYPES = {"bfloat16": torch.bfloat16, "base": None}
"""What ``--dtype`` names; None keeps each tensor's own."""


def base_files(config: ModelConfig, commit: str) -> Path:
    """Return the folder of a base model's own files, from the Hub's cache where it is there.

    Raises:
        ModelError: they cannot be had.
    """
    name = locate(config.name).path
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    revision = config.revision or "main" if commit.startswith("sha256:") else commit
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=["*.safetensors", "*.safetensors.index.json", "*.json"],
            )
        )
    except Exception as error:
        raise ModelError(
            f"cannot find the files of {name} at {revision}: {type(error).__name__}; connect, or "
            "name a local folder with --set model.name=FOLDER"
        ) from error


def read_config(source: Path) -> dict[str, Any]:
    """Return the base's ``config.json``."""
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    return config


def refuse_quantised(config: dict[str, Any], source: Path) -> None:
    """Refuse a base whose own files are quantised: nothing can be added to them.

    Raises:
        ModelError: its ``config.json`` says so.
    """
    if config.get("quantization_config"):
        raise ModelError(
            f"the weights in {source} are quantised; an update cannot be added to them: export the "
            "adapter alone"
        )


def write_config(
    config: dict[str, Any], target: Path, *, n_rows: int, dtype: str | None, tokenizer: Any
) -> None:
    """Write a merged model's ``config.json``: the base's, with its new rows and tokens."""
    config = {k: v for k, v in config.items() if k not in ("quantization_config", "torch_dtype")}
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "vocab_size" in part:
            part["vocab_size"] = n_rows
    if dtype is not None:
        config["dtype"] = dtype
    config["pad_token_id"] = tokenizer.pad_token_id
    _write(target / "config.json", config)


def write_tokenizer(workbench: Workbench, target: Path) -> None:
    """Write the tokenizer and a generation config that ends where answers do.

    Where the tokenizer puts BOS before every text and the template does not write it,
    the template is made to: ``apply_chat_template`` adds none.
    """
    tokenizer = copy.deepcopy(workbench.base.tokenizer)
    first = workbench.test[0]
    turns = [
        {"role": turn.role, "content": turn.content}
        for turn in workbench.pairs[first.example_id].prompt
    ]
    bos = tokenizer.bos_token_id
    plain = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    if bos is not None and first.prompt_ids[:1] == (bos,) and list(plain[:1]) != [bos]:
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.save_pretrained(target)


def write_generation(workbench: Workbench, source: Path, target: Path) -> None:
    """Write ``generation_config.json``: the base's, ended by the end of turn, padded apart."""
    path = source / "generation_config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tokenizer = workbench.base.tokenizer
    own = found.get("eos_token_id")
    ends = own if isinstance(own, list) else [own]
    found["eos_token_id"] = list(
        dict.fromkeys([end_of_turn(tokenizer), *(end for end in ends if end is not None)])
    )
    found["pad_token_id"] = tokenizer.pad_token_id
    if tokenizer.bos_token_id is not None:
        found["bos_token_id"] = tokenizer.bos_token_id
    _write(target / "generation_config.json", found)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
