"""RMSNorm in the few passes that its gradient needs, for layers whose weight is frozen.

With r = (mean(x²) + ε)^-½ over the hidden size H, and w the frozen weight:

    out = x r w      d x = r g w - x r³ mean(g w x)

Only x and r wait for the backward pass. Under autocast the result has autocast's
dtype at once, in which every layer that takes it computes. Zhang and Sennrich 2019 (arXiv
1910.07467).
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from study.attention import compute_dtype


def fuse_norms(model: nn.Module) -> None:
    """Give a model's RMSNorm layers this forward pass where it computes the same, in place."""
    for layer in model.modules():
        if type(layer).__name__.endswith("RMSNorm") and _agrees(layer):
            layer.forward = functools.partial(_norm, layer, layer.forward)


def _norm(layer: Any, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if layer.weight.requires_grad:
        return original(x)
    return _apply(layer, x)


def _apply(layer: Any, x: Tensor) -> Tensor:
    return cast(Tensor, _RMSNorm.apply(x, layer.weight, _epsilon(layer)))  # type: ignore[no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        out: Tensor = (wide * scale).to(x.dtype) * weight
        return out.to(compute_dtype(out))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        weighted, wide = grad * weight, x.to(scale.dtype)
        weighted = weighted.to(scale.dtype)
        shared = torch.linalg.vecdot(weighted, wide)[..., None]
        shared.mul_(scale**3).div_(-x.shape[-1])
        return weighted.mul(scale).addcmul_(wide, shared).to(x.dtype), None, None


def _agrees(layer: Any) -> bool:
    """Tell whether a layer is a plain RMSNorm: some add one to the weight, or have none."""
    weight = getattr(layer, "weight", None)
    if weight is None or _epsilon(layer) is None or weight.device.type == "meta":
        return False
    x = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1)
    with torch.no_grad():
        expected, found = layer(x), _apply(layer, x)
    return expected.dtype == found.dtype and torch.allclose(expected, found, rtol=1e-5, atol=1e-6)


def _epsilon(layer: Any) -> float | None:
    return getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
