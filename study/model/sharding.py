"""A base whose blocks are shared out over the processes of a launch (PyTorch's FSDP2).

Each process keeps one part of every weight of a block, and gathers the whole for as long as
the block computes. Embeddings, last norm and output layer stay whole: every pass needs all of
them, and the engine reads their weights without calling the layers. So do adapters, whose
gradients `torch.nn.parallel.DistributedDataParallel` averages as it does without shards:
checkpoints, clipping and what is saved are the same.

accelerate starts the processes, and its plugin tells which layers are blocks. Its own wrapping
(``fsdp2_prepare_model``) is not used: it shards the output layer and hands adapters to FSDP.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from study.errors import ModelError

OF_NF4 = ("compress_statistics", "quant_type")
"""What PEFT reads of a bitsandbytes weight when it attaches an adapter."""


def shard(causal: Any, device: torch.device) -> None:
    """Share a frozen model's blocks out, in place, and bring all of it to a device.

    Blocks go there one by one, so that a device never holds the whole model. NF4 weights are
    split as the bytes that they are: FSDP2 splits each parameter alone and gathers bytes,
    so that ``bnb_4bit_quant_storage``, which flat parameters need, is left as it was. Scales
    of NF4, a thirty-second of a weight's bytes, stay whole.

    Args:
        causal: The causal language model, without an adapter, prepared by `install`.
        device: Of this process.

    Raises:
        ModelError: transformers does not say what its blocks are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from study.records.processes import join

    n_processes = join().num_processes
    mesh = init_device_mesh(device.type, (n_processes,))
    for block in blocks_of(causal):
        kept = _as_bytes(block, device)
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
        for layer, facts in kept:
            vars(layer.weight).update(facts)
    decoder = causal.get_decoder()
    whole = {parameter for parameter in decoder.parameters() if not is_shard(parameter)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)  # it holds nothing: it sets the order
    _bring_rest(causal, device)
    causal.agreed, causal.is_shared = _first_ones, True


def blocks_of(causal: Any) -> list[nn.Module]:
    """Return a decoder's blocks, as accelerate's plugin for FSDP2 finds them.

    Raises:
        ModelError: there are none.
    """
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

    name = type(causal).__name__
    try:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )
        plugin.set_auto_wrap_policy(causal)
        is_block = fsdp2_prepare_auto_wrap_policy(plugin, causal)
    except Exception as error:  # any architecture may be met here
        raise ModelError(_no_blocks(name)) from error
    found = [module for module in causal.get_decoder().modules() if is_block and is_block(module)]
    inner = {id(part) for block in found for part in block.modules() if part is not block}
    outer = [block for block in found if id(block) not in inner]
    if not outer:
        raise ModelError(_no_blocks(name))
    return outer


def _no_blocks(name: str) -> str:
    return (
        f"training.sharding is 'fsdp', and transformers does not name the blocks of {name}, by "
        "which it is shared out; set training.sharding=none, or choose another base model"
    )


def is_shard(parameter: Tensor) -> bool:
    """Tell whether a parameter is this process's part of a weight."""
    return hasattr(parameter, "to_local")


def bytes_here(model: nn.Module) -> int:
    """Return the bytes of memory behind a model's weights here, scales of NF4 among them."""
    held = [p.to_local() if is_shard(p) else p for p in cast(Any, model).parameters()]
    scales = [
        tensor
        for module in model.modules()
        if (state := _quant_state(module)) is not None
        for tensor in _tensors_of(state)
    ]
    storages = {t.data_ptr(): t.untyped_storage().nbytes() for t in [*held, *scales]}
    return sum(storages.values())


def keep_from_averaging(model: nn.Module) -> None:
    """Tell DistributedDataParallel which weights are parts, which differ between processes."""
    shards = [name for name, parameter in model.named_parameters() if is_shard(parameter)]
    if shards:
        wrapper = cast(Any, torch.nn.parallel.DistributedDataParallel)
        wrapper._set_params_and_buffers_to_ignore_for_model(model, shards)  # noqa: SLF001


def _as_bytes(block: nn.Module, device: torch.device) -> list[tuple[Any, dict[str, Any]]]:
    """Make a block's NF4 weights plain parameters; return the layers and what PEFT asks of them.

    Their layers find the scales again by ``quant_state`` (bitsandbytes,
    ``fix_4bit_weight_quant_state_from_module``).
    """
    kept = []
    layers: list[Any] = list(block.modules())
    for layer in layers:
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None:
            kept.append((layer, {name: getattr(layer.weight, name) for name in OF_NF4}))
            state.to(device)
            layer.quant_state = state
            layer.weight = nn.Parameter(layer.weight.data, requires_grad=False)
    return kept


def _quant_state(module: Any) -> Any:
    weight = getattr(module, "weight", None)
    return getattr(weight, "quant_state", None) or getattr(module, "quant_state", None)


def _tensors_of(state: Any) -> list[Tensor]:
    """Return an NF4 weight's own scales; the code is the same for all."""
    nested = getattr(state, "state2", None)
    return [state.absmax, *([] if nested is None else [nested.absmax])]


def _bring_rest(causal: Any, device: torch.device) -> None:
    """Bring what is not shared out to a device; devices that libraries noted follow."""
    for tensor in (*causal.parameters(), *causal.buffers()):
        if not is_shard(tensor):
            tensor.data = tensor.data.to(device)
    if hasattr(causal, "hf_device_map"):
        causal.hf_device_map = {"": device}


def _first_ones(tokens: Tensor) -> Tensor:
    """Return the first process's tokens in all of them, so that none waits for another's pass."""
    torch.distributed.broadcast(tokens, src=0)
    return tokens
