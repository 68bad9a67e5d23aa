"""Attention over segments on a CPU: large products and a softmax between them.

The fused kernel of PyTorch for CPUs computes what is masked within blocks of
several hundred keys too, and is slow in bfloat16. Here queries are taken a strip at a
time, each against exactly the keys that it may see, so that only the diagonal
holds masked entries. Scores are float32 or more; all other products are rounded to
the inputs' dtype. Keys and values are gathered again only for an answer that does
not follow its prompt at once, the rejected one.

Shapes: T tokens of a batch, A attention heads, E key heads, G = A / E query
heads for each of them, D head size. Folded queries are (E, T * G, D): the G
heads that share keys stand side by side.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from study.engine.precision import product_dtype, times

if TYPE_CHECKING:
    from study.engine.layout import Sequences

STRIP_BYTES = 256
"""Tokens whose queries are taken together, times the bytes of a value: 64 in float32."""


KEPT_KEYS = 1024
"""Weights wait for the backward pass where no row of a batch is longer; else they are
computed again, so that memory grows with tokens and not with their square."""


class Segment(NamedTuple):
    """Tokens that see a prompt before them and, causally, themselves."""

    shared: slice
    """Tokens of the prompt; none for the prompt itself."""
    own: slice
    strips: list[tuple[slice, int]]
    """Folded queries of each strip, and how many keys its last token sees."""


def attend_in_strips(
    query: Tensor,  # (T, A, D)
    key: Tensor,  # (T, E, D)
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
        segments = _segments(at, n_groups, max(1, STRIP_BYTES // query.element_size()))
        out = _Strips.apply(*folded, segments, scores, scaling, keep)  # type: ignore[no-untyped-call]
    return cast(Tensor, out)


class _Strips(torch.autograd.Function):
    """Attention of folded queries; its result (T, A, D) is not."""

    @staticmethod
    def forward(  # noqa: PLR0917 - apply() takes its inputs by position
        ctx: Any,
        q: Tensor,  # (E, T * G, D)
        k: Tensor,  # (E, T, D)
        v: Tensor,
        segments: list[Segment],
        weights_of: Callable[[Tensor, Tensor], Tensor],
        scaling: float,
        keep: bool,
    ) -> Tensor:
        keep = keep and any(ctx.needs_input_grad)
        wide_q, wide_k = _wide(q), _wide(k)
        kept, outputs = [], []
        for segment in segments:
            seen_k, seen_v = _seen(wide_k, segment), _seen(v, segment)
            for mine, n_keys in segment.strips:
                weights = weights_of(wide_q[:, mine], seen_k[:, :n_keys]).to(q.dtype)
                outputs.append(times(weights, seen_v[:, :n_keys]))
                if keep:
                    kept.append(weights)
        out = _unfold(torch.cat(outputs, dim=1), len(q[0]) // len(k[0])).contiguous()
        ctx.save_for_backward(q, k, v, out, *kept)  # what is returned, which others keep too
        ctx.segments, ctx.weights_of, ctx.scaling = segments, weights_of, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """As flash attention does it: d scores = P (dP - rowsum(dO O)).

        Gradients of keys and values are added up as (E, D, T): so products run
        along the rows of P and are a quarter faster.
        """
        q, k, v, out, *kept = ctx.saved_tensors
        of_kept, dq, n_groups = iter(kept), [], len(q[0]) // len(k[0])
        with torch.autocast("cpu", enabled=False):
            delta = torch.linalg.vecdot(_wide(dout), _wide(out))[..., None]  # (T, A, 1)
            delta, dout = _fold(delta, n_groups), _fold(dout, n_groups)
            dk, dv = delta.new_zeros(2, *v.mT.shape)
            for segment in ctx.segments:
                seen_k, seen_v = _seen(k, segment), _seen(v, segment)
                seen_dk, seen_dv = _seen(dk, segment, dim=2), _seen(dv, segment, dim=2)
                for mine, n_keys in segment.strips:
                    weights = next(of_kept, None)
                    if weights is None:
                        wide = _wide(q[:, mine]), _wide(seen_k[:, :n_keys])
                        weights = ctx.weights_of(*wide).to(q.dtype)
                    _add_product(seen_dv[:, :, :n_keys], dout[:, mine].mT, weights)
                    dweights = times(dout[:, mine], seen_v[:, :n_keys].mT)
                    dscores = _wide(dweights).sub_(delta[:, mine]).mul_(weights).to(q.dtype)
                    dq.append(times(dscores, seen_k[:, :n_keys]))
                    _add_product(seen_dk[:, :, :n_keys], q[:, mine].mT, dscores)
                _put_back(dk, segment, seen_dk)
                _put_back(dv, segment, seen_dv)
        gradients = torch.cat(dq, dim=1).mul_(ctx.scaling), dk.mul_(ctx.scaling).mT, dv.mT
        return *(d.contiguous().to(q.dtype) for d in gradients), None, None, None, None


def _segments(at: "Sequences", n_groups: int, n_tokens: int) -> list[Segment]:
    """Return the segments of a batch in strips of so many tokens."""
    query_ends, key_ends = at.query_ends.tolist(), at.key_ends.tolist()
    first_keys = at.key_index[at.key_ends[:-1]].tolist()
    segments = []
    for number, (start, end) in enumerate(itertools.pairwise(query_ends)):
        n_shared = key_ends[number + 1] - key_ends[number] - (end - start)
        strips = []
        for first in range(start, end, n_tokens):
            stop = min(first + n_tokens, end)
            mine = slice(first * n_groups, stop * n_groups)
            strips.append((mine, n_shared + stop - start))
        shared = slice(first_keys[number], first_keys[number] + n_shared)
        segments.append(Segment(shared, slice(start, end), strips))
    return segments


def _seen(by_token: Tensor, segment: Segment, dim: int = 1) -> Tensor:
    """Return the part of a segment's keys: a view where they follow one another, else a copy."""
    shared, own = segment.shared, segment.own
    if shared.stop == own.start:
        return by_token.narrow(dim, shared.start, own.stop - shared.start)
    parts = (by_token.narrow(dim, part.start, part.stop - part.start) for part in (shared, own))
    return torch.cat(tuple(parts), dim)


def _put_back(total: Tensor, segment: Segment, seen: Tensor) -> None:
    """Write what `_seen` copied, along the last dimension, to where it was."""
    shared, own = segment.shared, segment.own
    if shared.stop != own.start:
        n_shared = shared.stop - shared.start
        total[..., shared], total[..., own] = seen[..., :n_shared], seen[..., n_shared:]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    wide = product_dtype(a.dtype, "cpu")
    if total.dtype == wide:
        total.baddbmm_(a.to(wide), b.to(wide))
    else:
        total += a.bmm(b)


def _weights(q: Tensor, k: Tensor, *, scaling: float, n_groups: int) -> Tensor:
    """Return softmax weights (E, queries, keys); the last tokens are the queries' own."""
    scores = torch.baddbmm(q.new_empty(()), q, k.mT, beta=0, alpha=scaling)
    n_tokens = q.shape[1] // n_groups
    scores[:, :, -n_tokens:].add_(_later(n_tokens, n_groups))
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
