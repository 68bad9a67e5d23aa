"""One forward pass for every arm: each distinct token of a pair is computed once.

A batch is one row of T tokens: for each pair the prompt, the chosen answer and,
where the loss needs it, the rejected answer, whose position ids continue from
the prompt. Linear layers see the row; only attention knows about sequences (see
`study.engine.attention`). The vocabulary projection runs only where a label is, in
chunks, and never keeps logits. Where a model's attention is not plainly causal
over the rows, the padded layout computes the same from one row per answer.

Shapes: T tokens of a batch, N labels, B pairs, H hidden size, V vocabulary.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from study.engine.attention import ATTENTION, ONLY_ROWS, longest_plain_row, register
from study.engine.gates import fuse_gates
from study.engine.head import head_of, label_logps, picker, trained_tokens
from study.engine.layout import Sequences
from study.engine.norms import fuse_norms
from study.engine.slots import Pass
from study.losses import PairLogps

log = logging.getLogger(__name__)

Layout = Literal["packed", "padded", "plain"]
"""How a batch is computed: each token once; rows of one answer each through the decoder and this
engine's output layer; the same rows through the model's own forward pass, all logits kept."""

PADDED_NOTE = (
    "%s: attention is plainly causal over %s tokens at most (sliding window, soft capping, sinks "
    "or state); a longer row takes the padded layout, which is exact but slower"
)


def pair_logps(model: Callable[..., Any], batch: dict[str, Any]) -> PairLogps:
    """Return the log-probabilities of a packed batch, differentiable.

    Sums are in float64: a log-ratio is a small difference of large ones, and one
    after another in float32 a thousand tokens lose what it tells.

    Args:
        model: A causal language model prepared by `install`, or its PEFT or
            distributed wrapping, called as such so that their hooks run; or
            a function that calls it.
        batch: What `pack` returned, on the model's device.
    """
    logps = model(packed=batch)
    counts = batch["counts"]
    sums = torch.zeros(counts.numel(), dtype=torch.float64, device=logps.device)
    totals = sums.index_add(0, batch["label_of"], logps.double())
    prompt, chosen, rejected = totals.view(counts.shape)
    if batch["has_rejected"]:
        return PairLogps(prompt, counts[0], chosen, counts[1], rejected, counts[2])
    return PairLogps(prompt, counts[0], chosen, counts[1])


def install(causal: Any, *, attention: str = "auto", device: torch.device | None = None) -> None:
    """Teach a causal language model, in place, to take packed batches.

    ``model(packed=batch)`` returns the labels' log-probabilities (N,), and
    ``model(given=pass)`` the likeliest next tokens of `study.engine.slots`; every
    other call goes where it went before. On a CPU all
    of them go through the norms and gates of `study.engine`. A batch whose
    rows are longer than the model's attention is plainly causal over takes the
    padded layout, which is said once.

    Args:
        causal: The model as transformers loaded it.
        attention: ``model.attention`` of the recipe; ``eager`` is the padded
            layout throughout, ``sdpa`` the rows form on every device.
        device: Where it will compute, if that is not where it is.
    """
    register()
    original = causal.forward
    causal.longest_packed_row = 0 if attention == "eager" else longest_plain_row(causal)
    causal.keeps_own_forward = False
    causal.agreed, causal.is_shared = _as_they_are, False
    causal.own_attention = causal.config._attn_implementation  # noqa: SLF001 - no public word
    say_once = functools.cache(log.warning)

    @functools.wraps(original)
    def forward(
        *args: Any, packed: dict[str, Any] | None = None, given: Pass | None = None, **kwargs: Any
    ) -> Any:
        if given is not None:
            hidden = _hidden(causal, given.ids, given.positions, given.sequences, given=given)
            pick = given.slots.pick = given.slots.pick or picker(head_of(causal))
            return causal.agreed(pick(hidden.index_select(0, given.last_at)))
        if packed is None:
            return original(*args, **kwargs)
        if causal.keeps_own_forward:
            return _plain_logps(original, packed)
        if packed["longest_key"] <= causal.longest_packed_row:
            hidden = _packed_hidden(causal, packed)
        else:
            say_once(PADDED_NOTE, type(causal).__name__, causal.longest_packed_row)
            hidden = _padded_hidden(causal, packed)
        predicting = hidden.index_select(0, packed["label_at"])
        return label_logps(head_of(causal), predicting, packed["labels"])

    causal.forward = forward
    if device is None or device.type == "cpu":
        fuse_norms(causal)
        fuse_gates(causal)
    if causal.longest_packed_row:
        causal.set_attn_implementation(ONLY_ROWS if attention == "sdpa" else ATTENTION)


def _as_they_are(tokens: Tensor) -> Tensor:
    """Return tokens that were picked; several processes would agree on them here."""
    return tokens


def use_layout(causal: Any, layout: Layout) -> None:
    """Keep an installed model to a slower layout from now on, with its own attention."""
    if layout != "packed":
        causal.longest_packed_row = 0
        causal.keeps_own_forward = layout == "plain"
        causal.set_attn_implementation(causal.own_attention)


def _packed_hidden(causal: Any, batch: dict[str, Any]) -> Tensor:
    """Return the hidden state of each token, (T, H), computing each once."""
    sequences = Sequences(*(batch[name] for name in Sequences._fields))
    return _hidden(causal, batch["input_ids"][0], batch["position_ids"][0], sequences)


def _hidden(
    causal: Any, ids: Tensor, positions: Tensor, sequences: Sequences | None, **attention: Any
) -> Tensor:
    """Return hidden states (T, H) of one row of tokens (T,), told apart by the attention."""
    decoder, input_ids = causal.get_decoder(), ids[None]
    hidden = decoder(
        inputs_embeds=_embed(causal.get_input_embeddings(), input_ids),
        position_ids=positions[None],
        attention_mask=input_ids.new_zeros(1, 1, 1, 1),  # 4-D masks are left alone
        use_cache=False,
        sequences=sequences,
        **attention,
        **_per_layer(decoder, input_ids),
    ).last_hidden_state[0]
    return cast(Tensor, hidden)


def _padded_hidden(causal: Any, batch: dict[str, Any]) -> Tensor:
    """Return the same from right-padded rows through the model's own attention."""
    ids, hidden, decoder = batch["input_ids"][0], [], causal.get_decoder()
    for index, n_rows in zip(batch["row_index"], batch["n_rows"], strict=True):
        rows = ids[index].view(n_rows, -1)
        embeds = _embed(causal.get_input_embeddings(), rows)
        given = {"inputs_embeds": embeds, "use_cache": False, **_per_layer(decoder, rows)}
        hidden.append(decoder(**given).last_hidden_state.flatten(0, 1))
    return torch.cat(hidden).index_select(0, batch["row_place"])


def _per_layer(decoder: Any, input_ids: Tensor) -> dict[str, Tensor]:
    """Return a second embedding that every layer of Gemma 3n or 4 takes, by its name.

    From embeddings alone Gemma 3n leaves it out, and Gemma 4 searches its first
    embedding for the tokens, in memory of tokens x vocabulary x hidden size.
    """
    if not getattr(decoder, "hidden_size_per_layer_input", None):
        return {}
    return {"per_layer_inputs": decoder.get_per_layer_inputs(input_ids)}


def _plain_logps(forward: Callable[..., Any], batch: dict[str, Any]) -> Tensor:
    """Return the labels' log-probabilities, (N,), from the model's own logits of padded rows."""
    ids, places, labels = batch["input_ids"][0], batch["row_place"][batch["label_at"]], []
    logps, first = [], 0
    for index, n_rows in zip(batch["row_index"], batch["n_rows"], strict=True):
        rows = forward(input_ids=ids[index].view(n_rows, -1), use_cache=False).logits.flatten(0, 1)
        (mine,) = ((places >= first) & (places < first + len(index))).nonzero(as_tuple=True)
        wide = rows[places[mine] - first].to(torch.promote_types(rows.dtype, torch.float32))
        labels.append(mine)
        logps.append(wide.log_softmax(-1).gather(1, batch["labels"][mine, None])[:, 0])
        first += len(index)
    return torch.cat(logps).index_select(0, torch.cat(labels).argsort())


def _embed(layer: Any, input_ids: Tensor) -> Tensor:
    """Embed tokens; trained rows replace frozen ones without copying the matrix."""
    base, trained_ids, trained_rows = trained_tokens(layer)
    scale = getattr(base, "embed_scale", 1.0)  # Gemma's
    known = type(base) is nn.Embedding or isinstance(scale, Tensor)
    if trained_ids is None or trained_rows is None or not known:
        return cast(Tensor, layer(input_ids))
    hits = input_ids[..., None] == trained_ids  # (..., M)
    rows = hits.to(trained_rows.dtype) @ (trained_rows * scale)
    return torch.where(hits.any(-1, keepdim=True), rows.to(base.weight.dtype), base(input_ids))
