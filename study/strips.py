"""Attention over segments on a CPU: large products and a softmax between them.

The fused kernel of PyTorch for CPUs computes what is masked within blocks of
several hundred keys too, and is slow in bfloat16. Here queries are taken a strip at a
time, each against exactly the keys that it may see, so that only the diagonal
holds masked entries. Scores are float32 or more; the products with weights are
taken in the inputs' dtype.

Shapes: T tokens of a batch, A attention heads, E key heads, G = A / E query
heads for each of them, D head size, K keys of all segments. Folded queries are
(E, T * G, D): the G heads that share keys stand side by side.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from study.attention import Sequences

STRIP_BYTES = 256
"""Tokens whose queries are taken together, times the bytes of a value: 64 in float32."""

KEPT_KEYS = 1024
"""Weights wait for the backward pass where no row of a batch is longer; else they are
computed again, so that memory grows with tokens and not with their square."""


def attend_in_strips(
    query: Tensor,  # (T, A, D)
    key: Tensor,  # (K, E, D)
    value: Tensor,
    at: "Sequences",
    scaling: float | None,
) -> Tensor:
    """Return attention's output (T, A, D), causal from each segment's lower right."""
    n_groups = query.shape[1] // key.shape[1]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    keep = at.longest_key <= KEPT_KEYS
    folded = _fold(query, n_groups), _fold(key), _fold(value)
    with torch.autocast("cpu", enabled=False):
        scores = functools.partial(_weights, scaling=scaling, n_groups=n_groups)
        strips = list(_strips(at, n_groups, max(1, STRIP_BYTES // query.element_size())))
        out = _Strips.apply(*folded, strips, scores, scaling, keep)  # type: ignore[no-untyped-call]
    return _unfold(cast(Tensor, out), n_groups)


class _Strips(torch.autograd.Function):
    """Attention of folded queries; a strip is queries and the keys that they see."""

    @staticmethod
    def forward(  # noqa: PLR0917 - apply() takes its inputs by position
        ctx: Any,
        q: Tensor,  # (E, T * G, D)
        k: Tensor,  # (E, K, D)
        v: Tensor,
        strips: list[tuple[slice, slice]],
        weights_of: Callable[[Tensor, Tensor], Tensor],
        scaling: float,
        keep: bool,
    ) -> Tensor:
        keep = keep and any(ctx.needs_input_grad)
        wide_q, wide_k = _wide(q), _wide(k)
        kept, outputs = [], []
        for mine, seen in strips:
            weights = weights_of(wide_q[:, mine], wide_k[:, seen]).to(q.dtype)
            outputs.append(weights @ v[:, seen])
            if keep:
                kept.append(weights)
        out = torch.cat(outputs, dim=1)
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.strips, ctx.weights_of, ctx.scaling = strips, weights_of, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """As flash attention does it: d scores = P (dP - rowsum(dO O))."""
        q, k, v, out, *kept = ctx.saved_tensors
        wide_v, wide_dout = _wide(v), _wide(dout)
        dq, dk, dv = [], torch.zeros_like(wide_v), torch.zeros_like(wide_v)
        with torch.autocast("cpu", enabled=False):
            delta = torch.linalg.vecdot(wide_dout, _wide(out))[..., None]
            for number, (mine, seen) in enumerate(ctx.strips):
                if kept:
                    weights = kept[number]
                else:
                    weights = ctx.weights_of(_wide(q[:, mine]), _wide(k[:, seen])).to(q.dtype)
                dv[:, seen] += weights.mT @ dout[:, mine]
                dweights = wide_dout[:, mine] @ wide_v[:, seen].mT
                dscores = dweights.sub_(delta[:, mine]).mul_(weights).to(q.dtype)
                dq.append(dscores @ k[:, seen])
                dk[:, seen] += dscores.mT @ q[:, mine]
        dk *= ctx.scaling
        dq_of_all = torch.cat(dq, dim=1).mul_(ctx.scaling)
        return dq_of_all, dk.to(q.dtype), dv.to(q.dtype), None, None, None, None


def _strips(at: "Sequences", n_groups: int, n_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Yield the folded queries of each strip and the keys that its last token sees."""
    query_ends, key_ends = at.query_ends.tolist(), at.key_ends.tolist()
    for number, end in enumerate(query_ends[1:]):
        first_key, last_key = key_ends[number : number + 2]
        for start in range(query_ends[number], end, n_tokens):
            stop = min(start + n_tokens, end)
            yield slice(start * n_groups, stop * n_groups), slice(first_key, last_key - end + stop)


def _weights(q: Tensor, k: Tensor, *, scaling: float, n_groups: int) -> Tensor:
    """Return softmax weights (E, queries, keys); the last tokens are the queries' own."""
    scores = torch.baddbmm(q.new_empty(()), q, k.mT, beta=0, alpha=scaling)
    n_tokens = q.shape[1] // n_groups
    scores[:, :, -n_tokens:] += _later(n_tokens, n_groups)
    return scores.softmax(-1)


@functools.lru_cache(maxsize=256)
def _later(n_tokens: int, n_groups: int) -> Tensor:
    """Return 0 where a token may see another, and minus infinity at later ones."""
    return torch.full((n_tokens, n_tokens), -math.inf).triu(1).repeat_interleave(n_groups, dim=0)


def _fold(by_token: Tensor, n_groups: int = 1) -> Tensor:
    """Return (E, T * G, D) of (T, E * G, D)."""
    grouped: Tensor = by_token.unflatten(1, (-1, n_groups))
    return grouped.transpose(0, 1).flatten(1, 2).contiguous()


def _unfold(folded: Tensor, n_groups: int = 1) -> Tensor:
    """Return (T, E * G, D) of (E, T * G, D)."""
    grouped: Tensor = folded.unflatten(1, (-1, n_groups))
    return grouped.transpose(0, 1).flatten(1, 2)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
