"""Pairs for the tests against TRL, and TRL without its rounding."""

import dataclasses

import pytest
import torch

from study.config.recipe import load_recipe


@pytest.fixture(params=["toy", "hh_rlhf_transcripts.jsonl.gz", "sharegpt_pairs.json"])
def trl_pairs(request, encoded, toy_tokenizer):
    """Eight pairs with as few surprises as real ones have: multi-turn, long, uneven."""
    if request.param == "toy":
        return encoded[:8]
    from study.data.load import load_pairs
    from study.data.tokens import encode

    folder = request.getfixturevalue("shared_data")
    data = dataclasses.replace(load_recipe("tiny-llama").data, name=str(folder / request.param))
    pairs = load_pairs(data).pairs[:8]
    return [
        encode(pair, toy_tokenizer.tokenizer, max_prompt_tokens=200, max_length_tokens=400)
        for pair in pairs
    ]


@pytest.fixture
def no_rounding(monkeypatch):
    """TRL and transformers round logits and log-probabilities to float32: not in float64."""
    single = torch.Tensor.float
    monkeypatch.setattr(
        torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else single(t)
    )
