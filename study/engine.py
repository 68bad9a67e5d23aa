"""One forward pass for every arm: each distinct token of a pair is computed once.

A batch is one row of T tokens: for each pair the prompt, the chosen answer and,
where the loss needs it, the rejected answer, whose position ids continue from
the prompt. Linear layers see the row; only attention knows about sequences (see
`study.attention`). The vocabulary projection runs only where a label is, in
chunks, and never keeps logits. Where a model's attention is not plainly causal
over the rows, the padded layout computes the same from one row per answer.

Shapes: T tokens of a batch, N labels, B pairs, H hidden size, V vocabulary.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from study.attention import (
    ATTENTION,
    ONLY_ROWS,
    Sequences,
    compute_dtype,
    lay_out,
    longest_plain_row,
)
from study.errors import ModelError
from study.losses import PairLogps
from study.norms import fuse_norms
from study.tokens import Encoded

log = logging.getLogger(__name__)

LOGITS_PER_CHUNK, LOGITS_PER_CHUNK_ON_CPU = 2**26, 2**21
"""Elements of one chunk of float32 logits: 256 MiB, and 8 MiB, which a cache holds."""

PASS_BYTES_ON_CPU = 2**13
"""Tokens of one forward pass on a CPU unless a recipe says, times the bytes of a value: so
caches hold their activations. 2,048 tokens in float32."""

PADDED_NOTE = (
    "%s: attention is plainly causal over %s tokens at most (sliding window, soft capping, sinks "
    "or state); a longer row takes the padded layout, which is exact but slower"
)


class Head(NamedTuple):
    """The output projection with what a model does to its logits."""

    weight: Tensor  # (V, H), frozen
    bias: Tensor | None  # (V,)
    trained_ids: Tensor | None  # (M,) tokens whose rows are trained
    trained_rows: Tensor | None  # (M, H)
    scale: float
    softcap: float | None


def pack(pairs: Sequence[Encoded], *, rejected: bool, prompt_nll: bool) -> dict[str, Any]:
    """Lay out pairs as one row of distinct tokens, with labels and attention rows.

    Args:
        pairs: Encoded pairs, B of them.
        rejected: Include the rejected answers, sharing each prompt.
        prompt_nll: Put labels on the prompt's tokens too.

    Returns:
        Tensors by name, ready for `pair_logps`: ``input_ids`` and
        ``position_ids`` (1, T); ``label_at``, ``labels`` and ``label_of`` (N,);
        ``counts`` (3, B), the labels of prompt, chosen and rejected; the
        fields of `Sequences`; ``has_rejected`` and ``n_tokens`` as plain values.
    """
    ids: list[int] = []
    positions: list[int] = []
    conversations: list[tuple[int, list[int]]] = []
    label_at: list[int] = []
    labels: list[int] = []
    label_of: list[int] = []
    for number, pair in enumerate(pairs):
        prompt = _place(ids, positions, pair.prompt_ids, 0)
        if prompt_nll:
            label_at += prompt[:-1]
            labels += pair.prompt_ids[1:]
            label_of += [number] * (len(prompt) - 1)
        answers = [pair.chosen_ids, pair.rejected_ids][: 1 + rejected]
        conversations.append((len(prompt), [len(answer_ids) for answer_ids in answers]))
        for side, answer_ids in enumerate(answers, start=1):
            answer = _place(ids, positions, answer_ids, len(prompt))
            label_at += [prompt[-1], *answer[:-1]]
            labels += answer_ids
            label_of += [side * len(pairs) + number] * len(answer)
    label_of_tensor = torch.tensor(label_of)
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "label_at": torch.tensor(label_at),
        "labels": torch.tensor(labels),
        "label_of": label_of_tensor,
        "counts": torch.bincount(label_of_tensor, minlength=3 * len(pairs)).view(3, -1),
        **lay_out(conversations)._asdict(),
        "has_rejected": rejected,
        "n_tokens": len(ids),
    }


def split(pairs: Sequence[Encoded], n_tokens: float) -> list[list[Encoded]]:
    """Cut pairs, in order, into parts of at most so many distinct tokens.

    A pair that has more stands alone. Gradients of parts add up to the whole's.
    """
    parts: list[list[Encoded]] = []
    room = 0.0
    for pair in pairs:
        if not parts or pair.n_tokens > room:
            parts.append([])
            room = n_tokens
        parts[-1].append(pair)
        room -= pair.n_tokens
    return parts


def tokens_per_pass(chosen: int, *, device: str, value_bytes: int) -> float:
    """Return ``training.microbatch_tokens``, or a device's own where it is 0."""
    return chosen or (PASS_BYTES_ON_CPU // value_bytes if device == "cpu" else math.inf)


def pair_logps(model: Callable[..., Any], batch: dict[str, Any]) -> PairLogps:
    """Return the log-probabilities of a packed batch, differentiable.

    Args:
        model: A causal language model prepared by `install`, or its PEFT or
            distributed wrapping, called as such so that their hooks run; or
            a function that calls it.
        batch: What `pack` returned, on the model's device.
    """
    logps = model(packed=batch)
    counts = batch["counts"]
    sums = torch.zeros(counts.numel(), dtype=logps.dtype, device=logps.device)
    prompt, chosen, rejected = sums.index_add(0, batch["label_of"], logps).view(counts.shape)
    if batch["has_rejected"]:
        return PairLogps(prompt, counts[0], chosen, counts[1], rejected, counts[2])
    return PairLogps(prompt, counts[0], chosen, counts[1])


def install(causal: Any, *, attention: str = "auto") -> None:
    """Teach a causal language model, in place, to take packed batches.

    ``model(packed=batch)`` returns the labels' log-probabilities (N,); every
    other call, generation among them, goes where it went before. On a CPU all
    of them go through the norms of `study.norms`. A batch whose
    rows are longer than the model's attention is plainly causal over takes the
    padded layout, which is said once.

    Args:
        causal: The model as transformers loaded it.
        attention: ``model.attention`` of the recipe; ``eager`` is the padded
            layout throughout, ``sdpa`` the rows form on every device.
    """
    original = causal.forward
    longest = 0 if attention == "eager" else longest_plain_row(causal)
    say_once = functools.cache(log.warning)

    @functools.wraps(original)
    def forward(*args: Any, packed: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return original(*args, **kwargs)
        if packed["longest_key"] <= longest:
            hidden = _packed_hidden(causal, packed)
        else:
            say_once(PADDED_NOTE, type(causal).__name__, longest)
            hidden = _padded_hidden(causal, packed)
        predicting = hidden.index_select(0, packed["label_at"])
        return label_logps(_head(causal), predicting, packed["labels"])

    causal.forward = forward
    fuse_norms(causal)
    if longest:
        causal.set_attn_implementation(ONLY_ROWS if attention == "sdpa" else ATTENTION)


def label_logps(head: Head, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return log-probabilities of labels, (N,), without keeping any logits.

    Args:
        head: Output projection.
        hidden: Hidden states that predict the labels, (N, H).
        labels: Token ids, (N,).
    """
    dtype = compute_dtype(head.weight)
    bias = None if head.bias is None else head.bias.to(dtype)
    head = head._replace(weight=head.weight.to(dtype), bias=bias)
    with torch.autocast(hidden.device.type, enabled=False):
        apply = cast(Callable[..., Tensor], _LabelLogps.apply)
        # needs_input_grad, which tells what to work out, does not heed no_grad
        trained_rows = head.trained_rows if torch.is_grad_enabled() else None
        return apply(hidden.to(dtype), trained_rows, head, labels)


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


def _logits(head: Head, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return logits (n, V), and tanh of the capped ones."""
    logits = F.linear(hidden, head.weight, head.bias)
    if head.trained_ids is not None and head.trained_rows is not None:
        trained = F.linear(hidden, head.trained_rows.to(hidden.dtype))
        logits[:, head.trained_ids] = trained
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


def _packed_hidden(causal: Any, batch: dict[str, Any]) -> Tensor:
    """Return the hidden state of each token, (T, H), computing each once."""
    hidden = causal.get_decoder()(
        inputs_embeds=_embed(causal.get_input_embeddings(), batch["input_ids"]),
        position_ids=batch["position_ids"],
        attention_mask=batch["input_ids"].new_zeros(1, 1, 1, 1),  # 4-D masks are left alone
        use_cache=False,
        sequences=Sequences(*(batch[name] for name in Sequences._fields)),
    ).last_hidden_state[0]
    return cast(Tensor, hidden)


def _padded_hidden(causal: Any, batch: dict[str, Any]) -> Tensor:
    """Return the same from right-padded rows through the model's own attention."""
    ids, hidden = batch["input_ids"][0], []
    for index, n_rows in zip(batch["row_index"], batch["n_rows"], strict=True):
        embeds = _embed(causal.get_input_embeddings(), ids[index].view(n_rows, -1))
        rows = causal.get_decoder()(inputs_embeds=embeds, use_cache=False).last_hidden_state
        hidden.append(rows.flatten(0, 1))
    return torch.cat(hidden).index_select(0, batch["row_place"])


def _head(causal: Any) -> Head:
    """Read the output projection, PEFT's trained rows included."""
    layer, config = causal.get_output_embeddings(), causal.config.get_text_config()
    layer, trained_ids, trained_rows = _trained_tokens(layer)
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
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _logit_scale(config: Any) -> float:
    """Return what a model multiplies its logits by; Granite divides instead."""
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return float(getattr(config, "logit_scale", None) or 1.0) / divisor


def _embed(layer: Any, input_ids: Tensor) -> Tensor:
    """Embed tokens; trained rows replace frozen ones without copying the matrix."""
    base, trained_ids, trained_rows = _trained_tokens(layer)
    scale = getattr(base, "embed_scale", 1.0)  # Gemma's
    known = type(base) is nn.Embedding or isinstance(scale, Tensor)
    if trained_ids is None or trained_rows is None or not known:
        return cast(Tensor, layer(input_ids))
    hits = input_ids[..., None] == trained_ids  # (..., M)
    rows = hits.to(trained_rows.dtype) @ (trained_rows * scale)
    return torch.where(hits.any(-1, keepdim=True), rows.to(base.weight.dtype), base(input_ids))


def _trained_tokens(layer: Any) -> tuple[Any, Tensor | None, Tensor | None]:
    """Return a layer's base with the ids and rows that PEFT trains in it."""
    adapter = getattr(layer, "token_adapter", None)
    if adapter is None or adapter.disable_adapters or not adapter.active_adapters:
        return getattr(adapter, "base_layer", layer), None, None
    (name,) = adapter.active_adapters
    rows = adapter.trainable_tokens_delta[name]
    return adapter.base_layer, torch.tensor(adapter.token_indices[name], device=rows.device), rows


def _place(ids: list[int], positions: list[int], new: Sequence[int], start: int) -> list[int]:
    """Append tokens to the packed row and return where they went."""
    first = len(ids)
    ids += new
    positions += range(start, start + len(new))
    return list(range(first, len(ids)))
