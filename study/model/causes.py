"""What in a model's configuration an engine may miss, and rows that a model cannot take."""

import math
from typing import Any

from torch import nn

from study.errors import ModelError

CAUSES = (
    ("per-layer embeddings", ("hidden_size_per_layer_input", "vocab_size_per_layer_input")),
    ("capped logits", ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")),
    (
        "scaled logits",
        ("logit_scale", "logits_scaling", "lm_head_multiplier", "logits_mup_width_multiplier"),
    ),
    ("logits of fewer tokens than the embedding has", ("unpadded_vocab_size",)),
    ("an encoder", ("is_encoder_decoder",)),
)
"""Each with the fields of a configuration that tell it."""

STATES = ("mamba", "mamba2", "linear_attention", "recurrent", "conv", "hybrid", "hybrid_sliding")
"""Types of layers that keep a state."""

CHANGING_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that turn faster once a row, or another in its batch, is long."""

POSITION_TABLES = ("wpe", "pos")
"""Of what architectures call learned or precomputed positions: ``wpe``, ``embed_positions``,
``position_embeddings``, ``positions_embed``, ``pos_emb``, ``pos_encoding``."""


def likely_cause(causal: Any) -> str:
    """Name what in a model's configuration an engine may miss; nothing where there is none."""
    config = causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    found = [
        cause
        for cause, fields in CAUSES
        if any(getattr(config, name, None) not in (None, False, 0, 1.0) for name in fields)
    ]
    if causal._is_stateful or kinds & set(STATES):  # noqa: SLF001 - there is no public word
        found.append("a recurrent state")
    return " and ".join(found)


def refuse_long_rows(causal: Any, longest_row: int) -> None:
    """Refuse rows beyond a model's positions, or beyond those that are the same in any batch.

    CUDA would end the process over a row beyond a table.

    Raises:
        ModelError: the longest row has more tokens.
    """
    config = causal.config.get_text_config()
    for limit, why in (
        (_end_of_tables(causal, config), "the model has positions for {} tokens"),
        (_end_of_rope(config), "beyond {} tokens the model turns the positions of a whole batch"),
    ):
        if longest_row > limit:
            raise ModelError(
                f"{why.format(limit)} and is to take rows of {longest_row}; set "
                "data.max_length_tokens, and data.max_prompt_tokens with "
                f"evaluation.max_new_tokens, to {limit} at most"
            )


def _end_of_tables(causal: Any, config: Any) -> float:
    """Return how many positions a table has, learned or precomputed."""
    stated = getattr(config, "max_position_embeddings", None) or 0
    sizes = [
        min(module.num_embeddings, stated or math.inf)
        for name, module in causal.named_modules()
        if isinstance(module, nn.Embedding) and _is_of_positions(name)
    ]
    sizes += [
        stated
        for name, buffer in causal.named_buffers()
        if stated and _is_of_positions(name) and stated in buffer.shape
    ]
    return min(sizes, default=math.inf)


def _is_of_positions(name: str) -> bool:
    return any(word in name.rpartition(".")[2] for word in POSITION_TABLES)


def _end_of_rope(config: Any) -> float:
    """Return from where on rotary embeddings depend on the longest row of a batch."""
    stated = getattr(config, "rope_parameters", None)
    if not isinstance(stated, dict):
        return math.inf
    by_layer = [part for part in stated.values() if isinstance(part, dict)]
    whole = getattr(config, "max_position_embeddings", math.inf)
    return min(
        (
            part.get("original_max_position_embeddings") or whole
            for part in by_layer or [stated]
            if part.get("rope_type") in CHANGING_ROPE
        ),
        default=math.inf,
    )
