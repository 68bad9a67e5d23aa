"""Tiny random models and workbenches that the tests of `study` share."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
SMALL_RECIPE = (
    "data.train_pairs=96",
    "data.validation_pairs=16",
    "data.test_pairs=16",
    "training.max_steps=8",
    "training.batch_pairs=8",
    "training.warmup_steps=2",
    "training.log_every_steps=2",
    "training.validate_every_steps=4",
    "training.checkpoint_every_steps=4",
    "evaluation.generated_answers=6",
    "evaluation.max_new_tokens=6",
)


@pytest.fixture(scope="session")
def toy_tokenizer():
    """The toy language's tokenizer, prepared for chat."""
    from study.tokens import prepare_tokenizer
    from study.toy import train_tokenizer

    tokenizer = train_tokenizer()
    trained = prepare_tokenizer(tokenizer)
    return SimpleNamespace(tokenizer=tokenizer, trained=trained)


@pytest.fixture(scope="session")
def toy_pairs():
    from study.toy import toy_pairs

    return toy_pairs(seed=3, n_pairs=400)


@pytest.fixture(scope="session")
def encoded(toy_tokenizer, toy_pairs):
    """Pairs of the toy language as token ids."""
    from study.tokens import encode

    return [
        encode(pair, toy_tokenizer.tokenizer, max_prompt_tokens=96, max_length_tokens=160)
        for pair in toy_pairs
    ]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A random tiny Llama in the Hub's layout: config, tokenizer, safetensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from study.toy import VOCABULARY_SIZE, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny-llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY_SIZE, **TINY)).save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_overrides(model_folder) -> list[str]:
    """What cuts the embedded recipe down to seconds, on the random tiny Llama."""
    return [*SMALL_RECIPE, f"model.name={model_folder}"]


@pytest.fixture(scope="session")
def small_recipe(small_overrides):
    """The embedded recipe cut down to seconds, on the random tiny Llama."""
    from study.config import load_recipe

    recipe = load_recipe("tiny-llama").override(small_overrides)
    return dataclasses.replace(recipe, name="small")


@pytest.fixture
def workbench(small_recipe):
    """A workbench of its own for each test: runs leave an adapter behind."""
    from study.workbench import open_workbench

    return open_workbench(small_recipe, device="cpu")
