"""Activations that are computed again in the backward pass, because that is cheap.

What computes such an activation says from what (`note`); a layer that would keep it for
its own gradient keeps that instead, which waits for the backward pass anyway.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor


class Source(NamedTuple):
    """What an activation (..., I) comes from, row by row."""

    compute: Callable[..., Tensor]
    """Returns rows of the activation from the same rows of ``given``."""
    given: tuple[Tensor, ...]  # (..., any) each


def note(activation: Tensor, source: Source) -> Tensor:
    """Say where an activation comes from; return it."""
    if torch.is_grad_enabled():
        activation.source = source  # type: ignore[attr-defined]
    return activation


def source_of(activation: Tensor) -> Source | None:
    """Return what was noted of this very tensor."""
    return cast("Source | None", getattr(activation, "source", None))


def rows_of(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what waits for the backward pass: rows of tokens without a graph of their own."""
    return tuple(tensor.detach().flatten(0, -2) for tensor in given)
