"""Do a model's weights, configuration and tokenizer belong together."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from study.data.tokens import CHATML_TOKENS, PAD_TOKEN
from study.errors import ModelError


def refuse_other_weights(name: str, model: Any, loading: Mapping[str, Any]) -> None:
    """Refuse weights that do not fill the model, or have more layers than it.

    transformers draws what is missing at random, leaves out what is too much, and
    skips a quantisation that it does not know.

    Raises:
        ModelError: the message names the first keys, or the quantisation.
    """
    asked = getattr(model.config, "quantization_config", None)
    if asked is not None and getattr(model, "hf_quantizer", None) is None:
        kind = asked.get("quant_method") if isinstance(asked, dict) else asked
        raise ModelError(
            f"cannot load model {name!r}: its config.json names the quantisation {kind!r}, which "
            "transformers does not know; choose another one of this model's repositories"
        )
    missing = sorted(loading["missing_keys"])
    mismatched = sorted(str(key[0]) for key in loading["mismatched_keys"])
    lists = {path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    further = [
        key
        for key in sorted(loading["unexpected_keys"])
        if (place := re.match(r"(.+?)\.\d+\.", key)) and place[1] in lists
    ]
    for keys, fault, which in (
        (missing, "lack", "which its config.json asks for"),
        (mismatched, "have another shape of", "than its config.json asks for"),
        (further, "have", "for which its config.json has no layer"),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ModelError(
                f"cannot load model {name!r}: its weights {fault} {', '.join(keys[:3])}{more}, "
                f"{which}; the two do not belong together"
            )


def new_tokens_of_chat(model: Any, tokenizer: Any) -> list[int]:
    """Return ids without a row in the embedding that the chat template writes, to be trained.

    Other special tokens stand in no text.

    Raises:
        ModelError: ordinary tokens have no row either.
    """
    n_rows = model.get_input_embeddings().weight.shape[0]
    beyond = {token: at for token, at in tokenizer.get_vocab().items() if at >= n_rows}
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    ends = {*CHATML_TOKENS, tokenizer.bos_token, tokenizer.eos_token}
    written = {
        token
        for token in beyond
        if token in ends or (token in added and token in tokenizer.chat_template)
    }
    unknown = set(beyond) - written - {PAD_TOKEN, *tokenizer.all_special_tokens}
    if unknown:
        first = min(unknown, key=beyond.__getitem__)
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {n_rows} embeddings: "
            f"{len(unknown)} tokens such as {first!r} were never trained; take the tokenizer "
            "that the model was trained with"
        )
    return sorted(beyond[token] for token in written - {tokenizer.pad_token})
