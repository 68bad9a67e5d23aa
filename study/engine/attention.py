"""Attention over a row of distinct tokens, in which answers share their prompt.

Two forms of the same function. *Segments*: a prompt's queries see the prompt, an
answer's see prompt and answer, causal from the lower right; on CUDA keys and
values are gathered for one call of variable length, on a CPU `study.engine.strips` sees
them in place. *Rows*, everywhere else and for short segments on a CPU: queries,
keys and values are gathered into right-padded causal rows, a few groups of
similar length, for the ordinary fused kernel.

Shapes: T tokens of a batch, A attention heads, D head size, R rows of length L
in a group, K keys of all segments.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from study.engine.layout import Sequences, lay_out, on_device
from study.engine.precision import compute_dtype
from study.engine.slots import Pass
from study.engine.strips import attend_in_strips
from study.errors import ModelError

ATTENTION = "study_packed"
"""Name under which the packed attention is registered with transformers."""


ONLY_ROWS = "study_rows"
"""The same, kept to the rows form on every device."""


VALUES_PER_SEGMENT = 6_000
"""On a CPU rows serve where a segment's queries hold fewer values on average: what
strips spare is then less than what each of them costs, some 0.1 ms."""


Varlen = Callable[[Tensor, Tensor, Tensor, "Sequences", float | None], Tensor]
"""Attention in segments: queries, keys and values (T, heads, D) to outputs (T, A, D)."""


def packed_attention(
    module: nn.Module,
    query: Tensor,  # (1, A, T, D)
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequences: Sequences | None = None,
    given: Pass | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    only_rows: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within sequences that share prompts; plain SDPA without them.

    With a pass of `study.engine.slots` keys and values are kept there, and single
    tokens attend to them.

    Returns:
        The attention's output (1, T, A, D) and None for the weights.

    Raises:
        ModelError: a layer asks for more than causal attention, and its
            model's configuration did not tell (see `longest_plain_row`).
    """
    if given is not None:
        sequences = given.sequences
    elif sequences is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    dtype = compute_dtype(query)
    q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
    if given is not None:
        given.slots.keep(module, given, k, v)
    if sequences is None:
        assert given is not None
        _refuse_other_attention(given.longest, kwargs)
        return given.slots.attend(module, given, q, scaling)[None], None
    _refuse_other_attention(sequences.longest_key, kwargs)
    rows = dropout or only_rows or _are_short(q, sequences)
    kernel = None if rows else varlen_kernel(q.device, dtype, q.shape[-1])
    if kernel is None:
        out = attend_in_rows(q, k, v, sequences, scaling=scaling, dropout=dropout)
    else:
        out = kernel(q, k, v, sequences, scaling)
    return out[None].contiguous(), None  # architectures take views of it


def register() -> None:
    """Tell transformers of the packed attention, in both forms; again changes nothing."""
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionInterface.register(ONLY_ROWS, functools.partial(packed_attention, only_rows=True))
    for name in (ATTENTION, ONLY_ROWS):
        AttentionMaskInterface.register(name, sdpa_mask)


def longest_plain_row(causal: Any) -> float:
    """Return up to how many tokens a model's attention is plainly causal.

    Infinite for most models; the window where layers slide; 0 where attention
    is capped, has sinks or a state, and packing cannot express it.
    """
    config = causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if (
        not causal._supports_attention_backend  # noqa: SLF001  # transformers has no public word for it
        or causal._is_stateful  # noqa: SLF001
        or kinds - {"full_attention", "sliding_attention"}
        or getattr(config, "attn_logit_softcapping", None)
        or any(getattr(module, "sinks", None) is not None for module in causal.modules())
    ):
        return 0
    window = getattr(config, "sliding_window", None)
    slides = getattr(config, "use_sliding_window", True) and kinds != {"full_attention"}
    return window if window and slides else math.inf


def attend_in_rows(
    query: Tensor,  # (T, A, D)
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    *,
    scaling: float | None,
    dropout: float = 0.0,
) -> Tensor:
    """Return attention's output (T, A, D) through right-padded causal rows."""
    grouped = query.shape[1] != key.shape[1]
    attended = []
    for group, n in zip(sequences.row_index, sequences.n_rows, strict=True):
        q, k, v = (_gather(tensor, group, n) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped
        )
        attended.append(out.transpose(1, 2).flatten(0, 1))  # (R * L, A, D)
    return torch.cat(attended).index_select(0, sequences.row_place)


@functools.lru_cache(maxsize=32)
def varlen_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> Varlen | None:
    """Return the kernel for segments, or None where rows must do.

    On a CPU it is that of `study.engine.strips`, which the tests compare with rows.
    FlashAttention's kernels take 16-bit numbers on NVIDIA devices from Ampere
    on, and heads of up to 256 whose size is a multiple of eight; they are taken
    only if they give the rows' values and gradients on this device.
    """
    if device.type == "cpu":
        return attend_in_strips
    if device.type != "cuda" or dtype not in {torch.float16, torch.bfloat16}:
        return None
    if torch.cuda.get_device_capability(device) < (8, 0) or head_size > 256 or head_size % 8:
        return None
    kernels = filter(None, (_flash_attn(), _torch_varlen()))
    return next((k for k in kernels if agrees_with_rows(k, device, dtype, head_size)), None)


def agrees_with_rows(
    kernel: Varlen, device: torch.device, dtype: torch.dtype, head_size: int
) -> bool:
    """Tell whether a kernel gives the rows' values and gradients on a small case.

    Kernels differ in where they align the causal mask when queries and keys
    have different lengths; what a release documents is checked, not trusted.
    """
    conversations = [(5, [3, 7]), (2, [6, 1])]
    sequences = on_device(lay_out(conversations), device)
    n_tokens = sum(prompt + sum(answers) for prompt, answers in conversations)
    generator = torch.Generator().manual_seed(0)
    found = []
    for segments in (False, True):
        draw = torch.randn(3, n_tokens, 2, head_size, generator=generator.manual_seed(0))
        inputs = draw.to(device, dtype).requires_grad_()
        query, key, value = inputs
        scaling = head_size**-0.5
        if segments:
            out = kernel(query, key, value, sequences, scaling)
        else:
            out = attend_in_rows(query, key, value, sequences, scaling=scaling)
        (gradient,) = torch.autograd.grad((out.float() ** 2).sum(), inputs)
        found.append((out.detach().float(), gradient.float()))
    tolerance = 64 * torch.finfo(dtype).eps
    return all(
        torch.allclose(
            rows, other, rtol=tolerance, atol=tolerance * rows.detach().abs().max().item()
        )
        for rows, other in zip(*found, strict=True)
    )


def _flash_attn() -> Varlen | None:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None

    def kernel(q: Tensor, k: Tensor, v: Tensor, at: Sequences, scaling: float | None) -> Tensor:
        ends, longest = (at.query_ends, at.key_ends), (at.longest_query, at.longest_key)
        k, v = (tensor.index_select(0, at.key_index) for tensor in (k, v))  # (K, heads, D)
        out: Tensor = flash_attn_varlen_func(
            q, k, v, *ends, *longest, softmax_scale=scaling, causal=True
        )
        return out

    return kernel


def _torch_varlen() -> Varlen | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None
    if not {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys():
        return None

    def kernel(q: Tensor, k: Tensor, v: Tensor, at: Sequences, scaling: float | None) -> Tensor:
        ends, longest = (at.query_ends, at.key_ends), (at.longest_query, at.longest_key)
        k, v = (tensor.index_select(0, at.key_index) for tensor in (k, v))  # (K, heads, D)
        out = varlen_attn(
            q, k, v, *ends, *longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
        )
        assert isinstance(out, Tensor)
        return out

    return kernel


def _are_short(query: Tensor, sequences: Sequences) -> bool:
    n_segments = len(sequences.query_ends) - 1
    return query.device.type == "cpu" and query.numel() < VALUES_PER_SEGMENT * n_segments


def _refuse_other_attention(length: int, kwargs: dict[str, Any]) -> None:
    window = kwargs.get("sliding_window")
    if kwargs.get("softcap") or kwargs.get("s_aux") is not None or (window and window < length):
        raise ModelError(
            "this architecture's attention (sliding window, soft capping or sinks) is not causal "
            f"attention over {length} tokens; shorten data.max_length_tokens below its window or "
            "choose another base model"
        )


def _gather(by_token: Tensor, index: Tensor, n_rows: int) -> Tensor:
    """Return (R, A, L, D) rows of a (T, A, D) tensor."""
    rows = by_token.index_select(0, index)
    return rows.view(n_rows, -1, *rows.shape[1:]).transpose(1, 2)
