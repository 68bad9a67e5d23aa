"""Which dtype a module computes in."""

import functools

import torch
from torch import Tensor


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which products with a tensor are taken: autocast's, if on."""
    if tensor.dtype == torch.float32 and torch.is_autocast_enabled(tensor.device.type):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def product_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the dtype to which factors are widened for a product that is then rounded.

    It is their own, but for 16 bits on a processor without AVX-512 or AMX: there
    PyTorch multiplies one number at a time, 8 times slower than in float32, and 40
    times where the second factor is not transposed (2,048 × 576 × 1,536, AVX2).
    """
    is_slow = device == "cpu" and dtype in SIXTEEN_BITS and not _multiplies(dtype)
    return torch.float32 if is_slow else dtype


SIXTEEN_BITS = (torch.bfloat16, torch.float16)


@functools.cache
def _multiplies(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN has products of 16 bits on this processor."""
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    ask = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    return ask is not None and bool(ask())


def times(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, taken in `product_dtype` and rounded to the factors' own."""
    wide = product_dtype(a.dtype, a.device.type)
    return (a.to(wide) @ b.to(wide)).to(a.dtype)
