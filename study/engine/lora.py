"""A LoRA layer in the few products that it needs.

PEFT adds the adapter to the layer's output in three passes and, in the backward
pass, adds up two gradients of the input. Both sums fit inside a product:

    out = x W' + s (x A') B'      d x = g W + (s g B) A
    d A = (s g B)' x              d B = s g' (x A')

With dropout the adapter's x is without the values that it takes, and so is its part of
d x; s makes up for them. Which they are is drawn again in the backward pass. Where x was
computed from what is kept anyway (`study.engine.again`), it is computed again as well.

Adapters of float32 on a base of 16 bits without autocast see x in float32 and add to its
output in float32, as PEFT's do, a few rows at a time.

Shapes: N tokens, I inputs, O outputs, R rank.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from study.engine.again import Source, rows_of, source_of
from study.engine.dropout import draw_seed, drop, drop_, places
from study.engine.hooks import is_hooked
from study.engine.precision import compute_dtype, product_dtype

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


ONEDNN_FROM = 2**28
"""Multiplications of a product from which oneDNN is the faster: it prepares itself for
each new shape, some 0.4 ms, and batches differ in their tokens."""


ROWS_OF_PACKED = 64
"""Rows for which oneDNN lays out a weight; the layout for one row serves no other number."""

ROWS_AT_A_TIME = 256
"""Tokens whose inputs are copied at a time, without what dropout takes or in float32."""


class Drops(NamedTuple):
    """What dropout takes from an input."""

    share: float
    seed: int


def fuse_adapters(model: nn.Module) -> None:
    """Give a PEFT model's plain LoRA layers the fused forward pass, in place.

    PEFT's is kept by layers that are quantised, use DoRA, have a bias in their
    adapter, several active adapters, parts with hooks, a base that is trained,
    or dtypes that do not fit without autocast; and by any layer while its adapter
    is disabled or merged.
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
    """Let plain LoRA layers compute with base and adapter added up in float32, for a while.

    The weights themselves stay as they are. In 16 bits a merged weight would round most
    of its adapter away, and is left alone, as are adapters that PEFT's own forward pass
    serves.
    """
    waiting = []
    try:
        for layer in _plain_layers(model):
            names, base = layer.active_adapters, layer.base_layer
            if (
                len(names) == 1
                and names[0] in layer.lora_A
                and names[0] not in layer.lora_variant
                and not layer.lora_bias[names[0]]
                and not layer.disable_adapters
                and not layer.merged
                and not torch.is_autocast_enabled(base.weight.device.type)
                and base.weight.dtype == torch.float32
                and type(base.weight) is nn.Parameter  # not one process's part of it
                and "forward" not in vars(base)
            ):
                waiting.append(layer)
                both = base.weight.data + layer.get_delta_weight(names[0])
                base.forward = functools.partial(product_with(both), bias=base.bias)
                layer.merged_adapters.append(names[0])
        yield
    finally:
        for layer in waiting:
            vars(layer.base_layer).pop("forward", None)
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
        or is_hooked(base)
        or is_hooked(down)
        or is_hooked(up)
        or not _dtypes_fit(x, weight, down_weight, up_weight)
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
        source_of(x),
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
        source: Source | None,
    ) -> Tensor:
        dtype = compute_dtype(x)
        ctx.shape, ctx.dtypes, ctx.scaling = x.shape, (x.dtype, down.dtype), scaling
        ctx.drops, ctx.compute = drops, None if source is None else source.compute
        if torch.is_autocast_enabled(x.device.type):
            down, up = down.to(dtype), up.to(dtype)
        x, weight = x.to(dtype).flatten(0, -2), weight.to(dtype)
        with _without_autocast(x.device.type):
            out = product(x, weight, None if bias is None else bias.to(dtype))
            lows = []
            for rows in _parts(x, down, drops):
                seen, _ = _as_seen(x[rows], down.dtype, drops, rows)
                lows.append(seen @ down.T)
                _add_product(out, rows, lows[-1], up.T, scaling)
        given = (x,) if source is None else rows_of(source.given)
        ctx.save_for_backward(torch.cat(lows), weight, down, up, *given)
        return out.view(*ctx.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        low, weight, down, up, *given = ctx.saved_tensors
        x_dtype, adapter_dtype = ctx.dtypes
        dx, wide = None, torch.promote_types(low.dtype, torch.float32)
        ddown, dup = torch.zeros_like(down, dtype=wide), torch.zeros_like(up.T, dtype=wide)
        with _without_autocast(grad.device.type):
            grad = grad.flatten(0, -2)
            if ctx.needs_input_grad[0]:
                dx = product(grad, weight.T)
            for rows in _parts(grad, down, ctx.drops):
                part = [tensor[rows] for tensor in given]
                x = part[0] if ctx.compute is None else ctx.compute(*part).to(weight.dtype)
                x, where = _as_seen(x, down.dtype, ctx.drops, rows)
                g = grad[rows].to(up.dtype)
                dlow = (g @ up).mul_(ctx.scaling)
                ddown += dlow.T @ x
                dup += low[rows].T @ g  # faster than its transpose
                if dx is not None:
                    _add_product(dx, rows, dlow, down, 1, where)
        dx = None if dx is None else dx.view(ctx.shape).to(x_dtype)
        ddown, dup = ddown.to(adapter_dtype), dup.T.mul(ctx.scaling).to(adapter_dtype)
        return dx, None, None, ddown, dup, None, None, None


def _parts(x: Tensor, down: Tensor, drops: Drops | None) -> list[slice]:
    """Cut x (N, I), where copies of it are made, into rows that a CPU's cache holds.

    Copies of all of it, freed at once, would leave gaps in a CPU's memory.
    """
    copied = drops is not None or x.dtype != down.dtype
    step = ROWS_AT_A_TIME if copied and x.device.type == "cpu" else max(1, len(x))
    return [slice(start, start + step) for start in range(0, max(1, len(x)), step)]


def _as_seen(
    x: Tensor, dtype: torch.dtype, drops: Drops | None, rows: slice
) -> tuple[Tensor, Tensor | None]:
    """Return some rows as the adapter sees them, and where dropout took values."""
    x = x.to(dtype)
    if drops is None:
        return x, None
    where = places(x, drops.share, drops.seed + rows.start)
    return drop(x, where), where


def _add_product(  # noqa: PLR0917 - what addmm takes, and where
    total: Tensor, rows: slice, a: Tensor, b: Tensor, scaling: float, where: Tensor | None = None
) -> None:
    """Add scaling a b to some rows, but for values that dropout took; wide until they are added."""
    if where is None and total.dtype == a.dtype:
        total[rows].addmm_(a, b, alpha=scaling)
        return
    added = a @ b
    added = added if where is None else drop_(added, where)
    total[rows].add_(added, alpha=scaling)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight' + bias, (N, O).

    A large one in float32 on a CPU is oneDNN's, to which `torch.compile` sends
    such a product too: on AMD's processors it is an eighth faster than MKL's.
    One of 16 bits that the processor has no instructions for is taken in float32.
    """
    wide = product_dtype(x.dtype, x.device.type)
    if wide != x.dtype:
        bias = None if bias is None else bias.to(wide)
        return product(x.to(wide), weight.to(wide), bias).to(x.dtype)
    large = len(x) * weight.numel() >= ONEDNN_FROM
    if large and ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))  # noqa: SLF001
    return nn.functional.linear(x, weight, bias)


def product_with(weight: Tensor) -> Callable[..., Tensor]:
    """Return `product` with a weight that serves many small ones, without a gradient.

    For oneDNN it is laid out once: 45 rows then take a fifth less time than with MKL,
    and half as much where the output layer is that of 49,152 tokens.
    """
    if not ONEDNN or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return functools.partial(product, weight=weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_OF_PACKED)  # noqa: SLF001

    def packed_product(x: Tensor, bias: Tensor | None = None) -> Tensor:
        out = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")  # noqa: SLF001
        return cast(Tensor, out)

    return packed_product


def _without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()


def _dtypes_fit(x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> bool:
    """Tell whether autocast brings everything to one dtype, or adapters alone are wider."""
    if torch.is_autocast_enabled(x.device.type):
        return True
    wider = torch.promote_types(x.dtype, down.dtype) == down.dtype
    return x.dtype == weight.dtype and down.dtype == up.dtype and wider
