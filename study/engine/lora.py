"""A LoRA layer in the few products that it needs.

PEFT adds the adapter to the layer's output in three passes and, in the backward
pass, adds up two gradients of the input. Both sums fit inside a product:

    out = x W' + s (x A') B'      d x = g W + (s g B) A
    d A = (s g B)' x              d B = s g' (x A')

With dropout the adapter's x is without the values that it takes, and so is its part of
d x; s makes up for them. Which they are is drawn again in the backward pass.

Shapes: N tokens, I inputs, O outputs, R rank.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from study.engine.dropout import draw_seed, drop, drop_, places
from study.engine.precision import compute_dtype

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


ONEDNN_FROM = 2**28
"""Multiplications of a product from which oneDNN is the faster: it prepares itself for
each new shape, some 0.4 ms, and batches differ in their tokens."""


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


ROWS_OF_DROPOUT = 256
"""Tokens whose inputs are copied at a time, without what dropout takes."""


class Drops(NamedTuple):
    """What dropout takes from an input."""

    share: float
    seed: int


def fuse_adapters(model: nn.Module) -> None:
    """Give a PEFT model's plain LoRA layers the fused forward pass, in place.

    PEFT's is kept by layers that are quantised, use DoRA, have a bias in their
    adapter, several active adapters, parts with hooks, a base that is trained,
    or another dtype than their input without autocast; and by any layer while
    its adapter is disabled or merged.
    """
    for layer in _plain_layers(model):
        if "forward" not in vars(layer):
            layer.forward = functools.partial(_forward, layer, layer.forward)


def restore_adapters(model: nn.Module) -> None:
    """Give a model's LoRA layers PEFT's own forward pass again."""
    for layer in _plain_layers(model):
        vars(layer).pop("forward", None)


@contextlib.contextmanager
def merged_adapters(model: nn.Module) -> Iterator[None]:
    """Add plain LoRA layers' adapters to their weights in float32, and take them out again.

    The weights themselves wait meanwhile, so that they come back bit for bit. In 16
    bits a merged weight would round most of its adapter away, and is left alone, as
    are adapters that PEFT's own forward pass serves.
    """
    waiting = []
    try:
        for layer in _plain_layers(model):
            names, weight = layer.active_adapters, layer.base_layer.weight
            if (
                len(names) == 1
                and names[0] in layer.lora_A
                and names[0] not in layer.lora_variant
                and not layer.lora_bias[names[0]]
                and not layer.disable_adapters
                and not layer.merged
                and not torch.is_autocast_enabled(weight.device.type)
                and weight.dtype == torch.float32
            ):
                waiting.append((layer, weight.data))
                weight.data = weight.data + layer.get_delta_weight(names[0])
                layer.merged_adapters.append(names[0])
        yield
    finally:
        for layer, weight in waiting:
            layer.base_layer.weight.data = weight
            layer.merged_adapters.clear()


def _plain_layers(model: nn.Module) -> list[Any]:
    from peft.tuners import lora

    return [
        layer
        for layer in model.modules()
        if type(layer) is lora.Linear and type(layer.base_layer) is nn.Linear
    ]


def _forward(layer: Any, original: Callable[..., Tensor], x: Tensor, **kwargs: Any) -> Tensor:
    """Take the fused way where the layer's state allows it."""
    names, base = layer.active_adapters, layer.base_layer
    name = names[0] if len(names) == 1 else None
    if (
        kwargs
        or layer.disable_adapters
        or layer.merged
        or name not in layer.lora_A
        or name in layer.lora_variant
        or layer.lora_bias[name]
    ):
        return original(x, **kwargs)
    down, up = layer.lora_A[name], layer.lora_B[name]
    weight, bias, down_weight, up_weight = base.weight, base.bias, down.weight, up.weight
    if (
        weight.requires_grad
        or (bias is not None and bias.requires_grad)
        or _is_hooked(base)
        or _is_hooked(down)
        or _is_hooked(up)
        or not _one_dtype(x, weight, down_weight, up_weight)
    ):
        return original(x)
    dropout = layer.lora_dropout[name]
    share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    out = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        x,
        weight,
        bias,
        down_weight,
        up_weight,
        layer.scaling[name] / (1 - share),
        Drops(share, draw_seed()) if share else None,
    )
    return cast(Tensor, out)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - apply() takes its inputs by position
        ctx: Any,
        x: Tensor,  # (..., I)
        weight: Tensor,  # (O, I), frozen
        bias: Tensor | None,  # (O,), frozen
        down: Tensor,  # (R, I): A
        up: Tensor,  # (O, R): B
        scaling: float,  # of what dropout leaves, too
        drops: Drops | None,
    ) -> Tensor:
        dtype = compute_dtype(x)
        ctx.shape, ctx.dtypes, ctx.scaling = x.shape, (x.dtype, down.dtype), scaling
        x, weight, down, up = (tensor.to(dtype) for tensor in (x, weight, down, up))
        x = x.flatten(0, -2)
        with _without_autocast(x.device.type):
            out = product(x, weight, None if bias is None else bias.to(dtype))
            if drops is None:
                low = x @ down.T
            else:
                parts = (drop(x[rows], where) for rows, where in parts_of(x, drops))
                low = torch.cat([part @ down.T for part in parts])
            out.addmm_(low, up.T, alpha=scaling)
        ctx.save_for_backward(x, low, weight, down, up)
        ctx.drops = drops
        return out.view(*ctx.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, down, up = ctx.saved_tensors
        x_dtype, adapter_dtype = ctx.dtypes
        dx = None
        with _without_autocast(grad.device.type):
            grad = grad.flatten(0, -2)
            dlow = (grad @ up).mul_(ctx.scaling)
            if ctx.needs_input_grad[0]:
                dx = product(grad, weight.T)
            if ctx.drops is None:
                ddown = dlow.T @ x
                if dx is not None:
                    dx.addmm_(dlow, down)
            else:
                wide = torch.promote_types(x.dtype, torch.float32)
                ddown = torch.zeros_like(down, dtype=wide)
                for rows, where in parts_of(x, ctx.drops):
                    ddown += dlow[rows].T @ drop(x[rows], where)
                    if dx is not None:
                        dx[rows] += drop_(dlow[rows] @ down, where)
            dup = (low.T @ grad).T.mul(ctx.scaling).to(adapter_dtype)  # faster than grad.T @ low
        dx = None if dx is None else dx.view(ctx.shape).to(x_dtype)
        return dx, None, None, ddown.to(adapter_dtype), dup, None, None


def parts_of(x: Tensor, drops: Drops) -> Iterator[tuple[slice, Tensor]]:
    """Cut x (N, I) into rows that a CPU's cache holds, and say what is dropped of each.

    Copies of all of it, freed at once, would leave gaps in a CPU's memory.
    """
    step = ROWS_OF_DROPOUT if x.device.type == "cpu" else max(1, len(x))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        yield rows, places(x[rows], drops.share, drops.seed + start)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight' + bias, (N, O).

    A large one in float32 on a CPU is oneDNN's, to which `torch.compile` sends
    such a product too: on AMD's processors it is an eighth faster than MKL's.
    """
    large = len(x) * weight.numel() >= ONEDNN_FROM
    if large and ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))  # noqa: SLF001
    return nn.functional.linear(x, weight, bias)


def _is_hooked(module: nn.Module) -> bool:
    """Tell whether something is to happen when a module is called, such as offloading."""
    state = vars(module)
    return any(state[kind] for kind in HOOKS) or "_hf_hook" in state


def _without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()


def _one_dtype(x: Tensor, *weights: Tensor) -> bool:
    """Tell whether autocast brings everything to one dtype, or all have the same."""
    return torch.is_autocast_enabled(x.device.type) or all(w.dtype == x.dtype for w in weights)
