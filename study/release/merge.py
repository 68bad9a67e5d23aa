"""An adapter merged into its base, one tensor at a time, straight from file to file.

What is added to: the base's own weights, or, for a base that was trained in NF4, what
NF4 made of them; a merge into NF4 itself would round a second time. Sums are made in
float32 on the CPU. In memory are one tensor in float32, its update, and the shard that
is being filled.

Shapes: O output and I input features, R rank of the adapter, V vocabulary, H hidden size.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import ModelError
from study.model.base import Base
from study.model.folder import INDEX

SHARD_BYTES = 2 * 2**30

STEM = "base_model.model."
"""What PEFT puts before the name of every module."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a merge must know of the model in memory that its files do not say."""

    n_rows: int
    """V, with the rows that were added for the tokens of a chat."""
    tied: bool
    """Whether the output layer is the embedding."""
    embedding: str
    head: str
    quantised: frozenset[str]
    """Names of the layers that are kept in NF4."""
    transposed: frozenset[str]
    """Names of the layers whose weights are (I, O), as GPT-2's."""
    prefix: str
    """What names in the model may have before names in the files."""
    dtype: torch.dtype
    """In which the weights were loaded for training."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an adapter does to one layer's weight."""

    a: Tensor
    """``(R, I)``."""
    b: Tensor
    """``(O, R)``."""
    scale: float
    magnitude: Tensor | None
    """``(O,)``; of DoRA alone."""


def describe(base: Base) -> Parts:
    """Note what a merge needs of a base, with or without an adapter on it."""
    causal = base.causal
    names = {module: _plain(name) for name, module in causal.named_modules()}
    kinds = {name: type(_inner(module)).__name__ for module, name in names.items()}
    embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    text = causal.config.get_text_config()
    return Parts(
        n_rows=_inner(embedding).weight.shape[0],
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        embedding=names[embedding],
        head=names[head],
        quantised=frozenset(name for name, kind in kinds.items() if kind == "Linear4bit"),
        transposed=frozenset(name for name, kind in kinds.items() if kind == "Conv1D"),
        prefix=f"{causal.base_model_prefix}.",
        dtype=base.dtype,
    )


def merge(
    source: Path,
    adapter: Path | None,
    target: Path,
    parts: Parts,
    *,
    dtype: torch.dtype | None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the base's weights with the adapter's updates as safetensors.

    Args:
        source: folder of the base's own files.
        adapter: folder of the adapter; None merges nothing.
        target: folder to write into.
        parts: what `describe` noted.
        dtype: of the floating-point weights written; None keeps each tensor's own.
        shard_bytes: size from which a new file is begun.

    Raises:
        ModelError: the base's files hold no weight for a layer of the adapter.
    """
    updates, rows = read_adapter(adapter)
    left = {*updates, *rows}
    target.mkdir(parents=True, exist_ok=True)
    writer = _Shards(target, shard_bytes)
    for key, stored in tensors_of(source):
        layer = layer_in_model(key, parts, frozenset(updates))
        if parts.tied and layer == parts.head:
            continue  # it is the embedding
        left.discard(layer)
        tensor = stored
        if layer in (parts.embedding, parts.head):
            tensor = _with_rows(_grown(tensor, parts), rows.get(layer))
        elif key.endswith(f"{parts.head}.bias"):
            tensor = nn.functional.pad(tensor, (0, parts.n_rows - len(tensor)))
        if layer in parts.quantised:
            tensor = _through_nf4(tensor, parts.dtype)
        if layer in updates:
            turned = layer in parts.transposed
            merged = add_update(tensor.float().T if turned else tensor.float(), updates[layer])
            tensor = merged.T if turned else merged
        kept = dtype if dtype is not None and stored.is_floating_point() else stored.dtype
        writer.add(key, tensor.to(kept).contiguous())
    writer.close()
    if left:
        raise ModelError(
            f"the files of {source} hold no {min(left)}.weight, which the adapter was trained on: "
            "they name their weights otherwise than transformers does; export the adapter alone"
        )


def add_update(weight: Tensor, update: Update) -> Tensor:
    """Return ``W + s B A``, its rows brought to DoRA's magnitudes where there are any.

    Args:
        weight: ``(O, I)`` in float32.
        update: what is added. Hu et al. (2022), eq. 3; Liu et al. (2024), eq. 5.
    """
    merged = weight + update.scale * (update.b @ update.a)
    if update.magnitude is None:
        return merged
    lengths: Tensor = torch.linalg.vector_norm(merged, dim=1)
    return merged * (update.magnitude / lengths)[:, None]


def read_adapter(folder: Path | None) -> tuple[dict[str, Update], dict[str, tuple[Any, Tensor]]]:
    """Return layer -> update, and layer -> (ids, rows) of trained tokens."""
    if folder is None:
        return {}, {}
    from safetensors.torch import load_file

    config: dict[str, Any] = json.loads(
        (folder / "adapter_config.json").read_text(encoding="utf-8")
    )
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    tensors = {
        key.removeprefix(STEM): tensor.float()
        for key, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    layers = [key.removesuffix(".lora_A.weight") for key in tensors if ".lora_A." in key]
    updates = {
        layer: Update(
            a=tensors[f"{layer}.lora_A.weight"],
            b=tensors[f"{layer}.lora_B.weight"],
            scale=config["lora_alpha"] / root,
            magnitude=next(
                (t for key, t in tensors.items() if key.startswith(f"{layer}.lora_magnitude")),
                None,
            ),
        )
        for layer in layers
    }
    ids = config.get("trainable_token_indices") or {}
    marker = ".token_adapter.trainable_tokens_delta"
    rows = {
        name: (ids[name.rpartition(".")[2]], tensor)
        for key, tensor in tensors.items()
        if (name := key.removesuffix(marker)) != key
    }
    return updates, rows


def tensors_of(source: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model's files one by one, in a fixed order."""
    from safetensors import safe_open

    if (source / INDEX).exists():
        index = json.loads((source / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    for file in files:
        with safe_open(source / file, framework="pt") as opened:
            for key in sorted(opened.keys()):
                yield key, opened.get_tensor(key)


def layer_in_model(key: str, parts: Parts, wanted: frozenset[str] = frozenset()) -> str:
    """Return the layer whose weight a tensor is; files may leave the first part out or add it.

    Args:
        key: the tensor's name in the files.
        parts: names that the model has.
        wanted: further layers to look for.

    Returns:
        The layer's name in the model, or the key where it is no such layer's weight.
    """
    known = {parts.embedding, parts.head, *parts.quantised, *wanted}
    for name in (key, parts.prefix + key, key.removeprefix(parts.prefix)):
        if (layer := name.removesuffix(".weight")) != name and layer in known:
            return layer
    return key


def _grown(weight: Tensor, parts: Parts) -> Tensor:
    """Add rows for new tokens as the base did when it was loaded: each the mean of the old."""
    if parts.n_rows <= len(weight):
        return weight
    mean = weight.to(parts.dtype).mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(parts.n_rows - len(weight), -1)])


def _with_rows(weight: Tensor, trained: tuple[Any, Tensor] | None) -> Tensor:
    if trained is None:
        return weight
    ids, rows = trained
    whole = weight.float().clone()
    whole[torch.tensor(ids)] = rows
    return whole


def _through_nf4(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a weight is after NF4 with double quantisation, as training saw it."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(
        weight.to(dtype).contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    unpacked: Tensor = dequantize_4bit(packed, state)
    return unpacked


def _plain(name: str) -> str:
    """Return a module's name without what PEFT put into it."""
    return name.replace(".token_adapter.base_layer", "").replace(".base_layer", "")


def _inner(module: Any) -> Any:
    """Return the model's own layer below PEFT's."""
    while hasattr(module, "base_layer") or hasattr(module, "original_module"):
        module = module.base_layer if hasattr(module, "base_layer") else module.original_module
    return module


class _Shards:
    """Safetensors files that are filled one after another."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.waiting: dict[str, Tensor] = {}
        self.places: dict[str, int] = {}
        self.n_files = self.n_bytes = self.total = 0

    def add(self, key: str, tensor: Tensor) -> None:
        """Take a tensor; write a file where the shard would become too large."""
        size = tensor.numel() * tensor.element_size()
        if self.waiting and self.n_bytes + size > self.shard_bytes:
            self._write()
        self.waiting[key] = tensor.clone()  # of a mapped file
        self.places[key] = self.n_files
        self.n_bytes += size
        self.total += size

    def close(self) -> None:
        """Write the last file, and the index where there are several."""
        self._write()
        names = {
            number: "model.safetensors"
            if self.n_files == 1
            else f"model-{number + 1:05}-of-{self.n_files:05}.safetensors"
            for number in range(self.n_files)
        }
        for number, name in names.items():
            (self.folder / f"part-{number}").rename(self.folder / name)
        if self.n_files > 1:
            index = {
                "metadata": {"total_size": self.total},
                "weight_map": {key: names[place] for key, place in self.places.items()},
            }
            (self.folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")

    def _write(self) -> None:
        from safetensors.torch import save_file

        save_file(self.waiting, self.folder / f"part-{self.n_files}", metadata={"format": "pt"})
        self.waiting, self.n_bytes = {}, 0
        self.n_files += 1
