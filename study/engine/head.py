"""The output layer where labels are, in chunks, with a log-softmax in float32."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from study.engine.lora import product_with
from study.engine.precision import compute_dtype, product_dtype
from study.errors import ModelError

LOGITS_PER_CHUNK, LOGITS_PER_CHUNK_ON_CPU = 2**26, 2**21
"""Elements of one chunk of float32 logits: 256 MiB, and 8 MiB, which a cache holds."""

SCALES = ("logit_scale", "lm_head_multiplier")
"""What configurations call a factor of the logits: Cohere, Falcon-H1."""

SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configurations call a soft cap of the logits: Gemma, RecurrentGemma, xLSTM."""

MULTIPLIES = ("hyperclovax",)
"""Model types whose ``logits_scaling`` is a factor; Granite's and others' is a divisor."""


class Head(NamedTuple):
    """The output projection with what a model does to its logits."""

    weight: Tensor  # (V, H), frozen
    bias: Tensor | None  # (V,)
    trained_ids: Tensor | None  # (M,) tokens whose rows are trained
    trained_rows: Tensor | None  # (M, H)
    scale: float
    softcap: float | None


def label_logps(head: Head, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return log-probabilities of labels, (N,), without keeping any logits.

    Args:
        head: Output projection.
        hidden: Hidden states that predict the labels, (N, H).
        labels: Token ids, (N,).
    """
    head, dtype = _as_computed(head)
    with torch.autocast(hidden.device.type, enabled=False):
        apply = cast(Callable[..., Tensor], _LabelLogps.apply)
        # needs_input_grad, which tells what to work out, does not heed no_grad
        trained_rows = head.trained_rows if torch.is_grad_enabled() else None
        return apply(hidden.to(dtype), trained_rows, head, labels)


def picker(head: Head) -> Callable[[Tensor], Tensor]:
    """Return what picks the likeliest token after each of some hidden states, (N, H) to (N,)."""
    head, dtype = _as_computed(head)
    project = product_with(head.weight)

    def pick(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return _logits(head, hidden.to(dtype), project)[0].argmax(-1)

    return pick


def _as_computed(head: Head) -> tuple[Head, torch.dtype]:
    """Return a head in the dtype that its products are taken in, and that dtype."""
    weight, bias = head.weight, head.bias
    dtype = product_dtype(compute_dtype(weight), weight.device.type)
    bias = None if bias is None else bias.to(dtype)
    return head._replace(weight=weight.to(dtype), bias=bias), dtype


def logits_per_chunk(device: str) -> int:
    """Return how many logits are held at a time on a kind of device."""
    return LOGITS_PER_CHUNK_ON_CPU if device == "cpu" else LOGITS_PER_CHUNK


class _LabelLogps(torch.autograd.Function):
    """Log-softmax at the labels, with its gradient worked out while logits are at hand.

    d logp_n / d logits_n = onehot(label_n) - softmax(logits_n). Multiplied by
    the frozen weight in the forward pass it is (N, H); only rows of the weight
    that are trained need their columns of it, (N, M), until the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, _trained_rows: Tensor | None, head: Head, labels: Tensor
    ) -> Tensor:
        needs_grad = any(ctx.needs_input_grad[:2])
        wide = torch.promote_types(hidden.dtype, torch.float32)
        # Results come first: between chunks they would take part of a chunk's memory,
        # the next chunk would no longer fit there, and a CPU's memory would fill up.
        logps = hidden.new_empty(len(labels), dtype=wide)
        slopes = torch.empty_like(hidden) if needs_grad else None
        columns = None
        if needs_grad and head.trained_ids is not None:
            columns = hidden.new_empty(len(labels), len(head.trained_ids), dtype=wide)
        step = max(1, logits_per_chunk(hidden.device.type) // len(head.weight))
        chunks = zip(hidden.split(step), labels[:, None].split(step), strict=True)
        for number, (h, y) in enumerate(chunks):
            chunk = slice(number * step, number * step + len(h))
            logits, capped = _logits(head, h)
            chances = logits.softmax(-1, dtype=wide)
            below = logits.gather(1, y)[:, 0].to(wide) - logits.amax(-1).to(wide)
            logps[chunk] = below + chances.amax(-1).log()  # in this order, exact near 0
            if slopes is not None:
                slope = chances.scatter_add_(1, y, chances.new_tensor(-1.0).expand(y.shape))
                if capped is not None:
                    slope *= 1 - capped**2
                slopes[chunk] = _times_weight(head, slope)
                if columns is not None:
                    columns[chunk] = slope[:, head.trained_ids]
        if slopes is not None:
            ctx.save_for_backward(slopes, *([] if columns is None else [hidden, columns]))
            ctx.hidden_dtype, ctx.scale = hidden.dtype, -head.scale
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, *trained = ctx.saved_tensors
        grad, grad_hidden, grad_rows = ctx.scale * grad[:, None], None, None
        if ctx.needs_input_grad[0]:
            grad_hidden = (grad * slope).to(ctx.hidden_dtype)
        if ctx.needs_input_grad[1]:
            hidden, columns = trained
            grad_rows = (columns * grad).to(hidden.dtype).T @ hidden
        return grad_hidden, grad_rows, None, None


def _logits(
    head: Head, hidden: Tensor, project: Callable[..., Tensor] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return logits (n, V), and tanh of the capped ones."""
    if project is None:
        logits = F.linear(hidden, head.weight, head.bias)
    else:
        logits = project(hidden, bias=head.bias)
    if head.trained_ids is not None and head.trained_rows is not None:
        bias = None if head.bias is None else head.bias[head.trained_ids]
        logits[:, head.trained_ids] = F.linear(hidden, head.trained_rows.to(hidden.dtype), bias)
    if head.scale == 1 and head.softcap is None:
        return logits, None
    logits = head.scale * logits.to(torch.promote_types(logits.dtype, torch.float32))
    if head.softcap is None:
        return logits, None
    capped = torch.tanh(logits / head.softcap)
    return capped * head.softcap, capped


def _times_weight(head: Head, slope: Tensor) -> Tensor:
    """Return slope @ effective weight, (n, H)."""
    if head.trained_ids is None or head.trained_rows is None:
        return slope.to(head.weight.dtype) @ head.weight
    trained = slope[:, head.trained_ids].to(head.weight.dtype)
    frozen = slope.index_fill(1, head.trained_ids, 0).to(head.weight.dtype)
    return frozen @ head.weight + trained @ head.trained_rows.to(head.weight.dtype)


def head_of(causal: Any) -> Head:
    """Read the output projection, PEFT's trained rows included."""
    layer, config = causal.get_output_embeddings(), causal.config.get_text_config()
    layer, trained_ids, trained_rows = trained_tokens(layer)
    if type(layer) is not nn.Linear:
        raise ModelError(
            f"the output layer is a {type(layer).__name__}; this engine takes a plain linear one. "
            "Leave it out of adapter.target_modules and of the quantisation"
        )
    return Head(
        weight=layer.weight,
        bias=layer.bias,
        trained_ids=trained_ids,
        trained_rows=trained_rows,
        scale=_logit_scale(config),
        softcap=next(filter(None, (getattr(config, name, None) for name in SOFTCAPS)), None),
    )


def _logit_scale(config: Any) -> float:
    """Return what a model multiplies its logits by."""
    factor = math.prod(float(getattr(config, name, None) or 1.0) for name in SCALES)
    scaling = float(getattr(config, "logits_scaling", None) or 1.0)
    return factor * scaling if config.model_type in MULTIPLIES else factor / scaling


def trained_tokens(layer: Any) -> tuple[Any, Tensor | None, Tensor | None]:
    """Return a layer's base with the ids and rows that PEFT trains in it."""
    adapter = getattr(layer, "token_adapter", None)
    if adapter is None or adapter.disable_adapters or not adapter.active_adapters:
        return getattr(adapter, "base_layer", layer), None, None
    (name,) = adapter.active_adapters
    rows = adapter.trainable_tokens_delta[name]
    return adapter.base_layer, _ids(tuple(adapter.token_indices[name]), rows.device), rows


@functools.lru_cache(maxsize=32)
def _ids(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Copy ids to a device once: each copy would wait for what is computed there."""
    with torch.inference_mode(mode=False):  # they serve training too
        return torch.tensor(ids, device=device)
