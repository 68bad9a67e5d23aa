"""RMSNorm in the few passes that its gradient needs, for layers whose weight is frozen.

With r = (mean(x²) + ε)^-½ over the hidden size H, and w the frozen weight:

    out = x r w      d x = r g w - x r³ mean(g w x)

Only x and r wait for the backward pass, from which layers that need the result for their
own gradient compute it again (`study.engine.again`). Zhang and Sennrich 2019 (arXiv 1910.07467).
On a CPU alone: passes over memory are what a norm costs there.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from study.engine.again import Source, note
from study.engine.precision import compute_dtype

BEFORE_LINEAR = ("input_layernorm", "post_attention_layernorm")
"""Norms of a layer whose result linear layers alone take, unless it has a third norm."""


def fuse_norms(model: nn.Module) -> None:
    """Give RMSNorm layers on a CPU this forward pass where it is the same.

    Under autocast a norm before linear layers gives autocast's dtype at once,
    to which each of them would round its result; their gradients are added up
    in that dtype.
    """
    before_linear = {id(norm) for block in model.modules() for norm in _before_linear(block)}
    for layer in model.modules():
        if type(layer).__name__.endswith("RMSNorm") and _agrees(layer):
            low = id(layer) in before_linear
            layer.forward = functools.partial(_norm, layer, layer.forward, low)


def _before_linear(block: nn.Module) -> list[Any]:
    if hasattr(block, "post_feedforward_layernorm"):  # its norms end what they follow
        return []
    return [getattr(block, name) for name in BEFORE_LINEAR if hasattr(block, name)]


def _norm(layer: Any, original: Callable[[Tensor], Tensor], low: bool, x: Tensor) -> Tensor:
    if layer.weight.requires_grad:
        return original(x)
    return _apply(layer, x, low=low)


def _apply(layer: Any, x: Tensor, *, low: bool) -> Tensor:
    given = x, layer.weight, _epsilon(layer), low
    out, scale = _RMSNorm.apply(*given)  # type: ignore[no-untyped-call]
    again = functools.partial(_scaled, weight=layer.weight)
    return note(cast(Tensor, out), Source(again, (x, scale)))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, epsilon: float, low: bool
    ) -> tuple[Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        out = _scaled(x, scale, weight=weight)
        return out.to(compute_dtype(out)) if low else out, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        weighted, wide = grad * weight, x.to(scale.dtype)
        weighted = weighted.to(scale.dtype)
        shared = torch.linalg.vecdot(weighted, wide)[..., None]
        shared.mul_(scale**3).div_(-x.shape[-1])
        return weighted.mul_(scale).addcmul_(wide, shared).to(x.dtype), None, None, None


def _scaled(x: Tensor, scale: Tensor, *, weight: Tensor) -> Tensor:
    """Return the norm's result, rounded as transformers rounds it."""
    scaled = (x.to(scale.dtype) * scale).to(x.dtype)
    return scaled.mul_(weight) if scaled.dtype == weight.dtype else scaled * weight


def _agrees(layer: Any) -> bool:
    """Tell whether a layer is a plain RMSNorm, which rounds before it multiplies.

    Some add one to the weight or have none, some multiply before they round:
    then a float32 weight and a bfloat16 input give another dtype.
    """
    weight = getattr(layer, "weight", None)
    if weight is None or _epsilon(layer) is None or "forward" in vars(layer):
        return False
    if weight.device.type != "cpu":
        return False
    wide = copy.deepcopy(layer).float()
    x = torch.linspace(-2, 3, 2 * len(weight)).view(2, -1)
    with torch.no_grad():
        results = [
            (norm(given), _apply(norm, given, low=False))
            for norm, given in ((layer, x), (wide, x), (wide, x.bfloat16()))
        ]
    return all(
        theirs.dtype == ours.dtype and torch.allclose(theirs, ours, rtol=1e-5, atol=1e-6)
        for theirs, ours in results
    )


def _epsilon(layer: Any) -> float | None:
    return getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
