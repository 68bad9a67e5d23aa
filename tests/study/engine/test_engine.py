"""The packed engine against its slow twin, the padded one; see test_exactness.py for TRL."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exact import adapted, assert_same, gradients, packed_logps, padded_logps
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config.recipe import load_recipe
from study.engine.forward import pair_logps
from study.engine.head import Head, label_logps
from study.engine.packing import pack
from study.errors import ModelError
from study.losses import PairLogps, orpo
from study.model.base import load_base
from study.run.memory import peak_memory_bytes, reset_peak_memory

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
BETA = 0.3
TARGETS = {
    "Phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "GptOss": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
"""Linear layers of families that do not have the usual seven."""


def orpo_loss(logps: PairLogps) -> torch.Tensor:
    n_tokens = (logps.prompt_tokens + logps.chosen_tokens).sum()
    return orpo(logps, n_tokens=n_tokens, n_pairs=torch.tensor(len(logps.chosen)), beta=BETA)


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
@pytest.mark.parametrize(("prompt_nll", "shortest"), [(True, 0), (False, 0), (True, 10**9)])
def test_loss_and_gradients_equal_the_padded_twin_in_float64(
    model_folder, encoded, kind, prompt_nll, shortest, monkeypatch
) -> None:
    monkeypatch.setattr("study.engine.attention.VALUES_PER_SEGMENT", shortest)
    model = adapted(model_folder, kind=kind).model
    fast = orpo_loss(packed_logps(model, encoded[:12], prompt_nll=prompt_nll))
    fast_gradients = gradients(model, fast)
    slow = orpo_loss(padded_logps(model, encoded[:12], prompt_nll=prompt_nll))

    assert any("trainable_tokens" in name for name in fast_gradients)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    assert_same(fast_gradients, gradients(model, slow), 1e-12)


def test_nf4_base_gives_the_padded_twins_loss_and_gradients(model_folder, encoded) -> None:
    model = adapted(model_folder, quantization="nf4").model
    fast = orpo_loss(packed_logps(model, encoded[:8]))
    fast_gradients = gradients(model, fast)
    slow = orpo_loss(padded_logps(model, encoded[:8], prompt_nll=True))

    assert any("4bit" in type(module).__name__ for module in model.modules())
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    assert_same(fast_gradients, gradients(model, slow), 1e-4)


def test_a_pair_does_not_depend_on_its_neighbours(model_folder, encoded) -> None:
    model = adapted(model_folder).model
    together = packed_logps(model, encoded[:9])
    alone = [packed_logps(model, [pair]) for pair in encoded[:9]]

    for field in ("prompt_sum", "chosen_sum", "rejected_sum"):
        expected = torch.cat([getattr(logps, field) for logps in alone])
        torch.testing.assert_close(getattr(together, field), expected, rtol=1e-12, atol=0)


@pytest.fixture(scope="module")
def split_model(model_folder, encoded):
    """A model with the gradient of one batch of twelve pairs."""
    model = adapted(model_folder).model
    whole = gradients(model, orpo_loss(packed_logps(model, encoded[:12])))
    return SimpleNamespace(model=model, pairs=encoded[:12], whole=whole)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.permutations(range(12)), st.sets(st.integers(1, 11)))
def test_any_split_into_micro_batches_gives_the_same_gradient(split_model, order, cuts) -> None:
    model, pairs = split_model.model, [split_model.pairs[i] for i in order]
    n_tokens = torch.tensor(sum(p.n_prompt - 1 + p.n_chosen for p in pairs))
    model.zero_grad()
    for start, end in itertools.pairwise([0, *sorted(cuts), 12]):
        logps = packed_logps(model, pairs[start:end])
        orpo(logps, n_tokens=n_tokens, n_pairs=torch.tensor(12), beta=BETA).backward()
    parts = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    assert_same(parts, split_model.whole, 1e-12)


def test_chunks_of_logits_do_not_change_the_result(model_folder, encoded, monkeypatch) -> None:
    model = adapted(model_folder).model
    whole = orpo_loss(packed_logps(model, encoded[:6]))
    whole_gradients = gradients(model, whole)
    monkeypatch.setattr("study.engine.head.LOGITS_PER_CHUNK_ON_CPU", 643 * 7)
    chunked = orpo_loss(packed_logps(model, encoded[:6]))

    assert chunked.item() == pytest.approx(whole.item(), rel=1e-12)
    assert_same(gradients(model, chunked), whole_gradients, 1e-12)


@pytest.mark.parametrize("highest", [30.0, 200.0, 1000.0])
def test_log_probabilities_keep_their_digits_near_zero_and_far_below(highest) -> None:
    """Logits of one vocabulary: one far above the rest, one so far below that its chance is 0."""
    logits = torch.full((1000, 1), highest - 22)
    logits[:2, 0] = torch.tensor([highest, highest - 150])
    head = Head(logits, None, None, None, 1.0, None)
    found = label_logps(head, torch.ones(2, 1), torch.tensor([0, 1]))
    expected = logits[:, 0].double().log_softmax(0)[:2]

    assert -3e-7 < expected[0] < -2e-7
    assert found[0].item() == pytest.approx(expected[0].item(), abs=1e-7)
    assert found[1].item() == pytest.approx(expected[1].item(), rel=1e-7)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells peaks")
def test_chunks_of_logits_share_their_memory() -> None:
    """Sixty chunks of 8 MiB; a few at a time are held."""
    head = Head(torch.zeros(2**16, 8), None, None, None, 1.0, None)
    hidden = torch.randn(60 * 32, 8).requires_grad_()
    labels = torch.zeros(len(hidden), dtype=torch.long)
    label_logps(head, hidden[:64], labels[:64])
    reset_peak_memory(hidden.device)
    before = peak_memory_bytes(hidden.device)
    label_logps(head, hidden, labels).sum().backward()

    assert peak_memory_bytes(hidden.device) - before < 100e6


def test_hidden_states_without_a_label_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("study.engine.head.LOGITS_PER_CHUNK_ON_CPU", 9 * 2)
    head = Head(torch.randn(9, 4), None, None, None, 1.0, None)
    with pytest.raises(ValueError, match="zip"):
        label_logps(head, torch.randn(6, 4), torch.tensor([3, 0, 8, 3]))


def test_scoring_works_out_no_gradient(monkeypatch) -> None:
    rows = torch.randn(1, 4).requires_grad_()
    head = Head(torch.randn(9, 4), None, torch.tensor([3]), rows, 1.0, None)
    hidden, labels = torch.randn(5, 4), torch.tensor([3, 0, 8, 3, 1])
    expected = label_logps(head, hidden, labels)
    monkeypatch.setattr("study.engine.head._times_weight", None)
    with torch.no_grad():
        found = label_logps(head, hidden, labels)

    assert expected.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0)


def test_a_shared_prompt_is_computed_once(encoded) -> None:
    batch = pack(encoded[:5], rejected=True, prompt_nll=True)
    distinct = sum(p.n_prompt + p.n_chosen + p.n_rejected for p in encoded[:5])

    assert batch["input_ids"].shape == (1, distinct)
    assert pack(encoded[:5], rejected=False, prompt_nll=True)["n_tokens"] < distinct


def test_sft_batches_hold_no_rejected_answer(model_folder, encoded) -> None:
    model = adapted(model_folder).model
    both = packed_logps(model, encoded[:4])
    chosen_only = pair_logps(model, pack(encoded[:4], rejected=False, prompt_nll=True))

    assert chosen_only.rejected_sum is None
    torch.testing.assert_close(chosen_only.chosen_sum, both.chosen_sum, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_nothing(model_folder, encoded, dropout) -> None:
    model = adapted(model_folder, dropout=dropout).model
    torch.manual_seed(3)
    plain = orpo_loss(packed_logps(model, encoded[:6]))
    plain_gradients = gradients(model, plain)
    model.base_model.model.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(3)
    again = orpo_loss(packed_logps(model, encoded[:6]))

    assert again.item() == plain.item()
    assert_same(gradients(model, again), plain_gradients, 0)


# Other architectures: name, configuration beyond the tiny one, whether packing expresses it.

ARCHITECTURES = {
    "llama": ("Llama", {}, True),
    "llama, untied, with biases": (
        "Llama",
        {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
        True,
    ),
    "smollm3": ("SmolLM3", {}, True),
    "smollm3, some layers slide": (
        "SmolLM3",
        {"use_sliding_window": True, "sliding_window": 16, "no_rope_layers": [1, 0]},
        False,
    ),
    "mistral, wide window": ("Mistral", {"sliding_window": 4096}, True),
    "mistral, narrow window": ("Mistral", {"sliding_window": 16}, False),
    "qwen2": ("Qwen2", {}, True),
    "qwen2, window unused": ("Qwen2", {"sliding_window": 8, "use_sliding_window": False}, True),
    "qwen3": ("Qwen3", {"head_dim": 16}, True),
    "gemma2": ("Gemma2", {"head_dim": 8}, False),
    "gemma2, uncapped": ("Gemma2", {"head_dim": 8, "attn_logit_softcapping": None}, True),
    "gemma3": ("Gemma3", {"head_dim": 8, "num_hidden_layers": 6}, True),
    "gemma3, logits capped": ("Gemma3", {"head_dim": 8, "final_logit_softcapping": 3.0}, True),
    "gemma3, narrow window": ("Gemma3", {"head_dim": 8, "sliding_window": 16}, False),
    "phi3": ("Phi3", {}, True),
    "olmo2": ("Olmo2", {}, True),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
        },
        True,
    ),
    "gpt-oss, attention sinks": (
        "GptOss",
        {"num_local_experts": 2, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 16},
        False,
    ),
}


def random_model(folder, family: str, changes: dict) -> None:
    """Write a tiny model with weights large enough for its quirks to matter."""
    import transformers

    from study.model.toy import VOCABULARY_SIZE, train_tokenizer

    text = "TextConfig" if family == "Gemma3" else "Config"
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shape = {"vocab_size": VOCABULARY_SIZE, **TINY, **special, "initializer_range": 0.2}
    config = getattr(transformers, family + text)(**(shape | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
def test_every_architecture_equals_its_padded_computation(name, encoded, tmp_path, caplog) -> None:
    family, changes, packs = ARCHITECTURES[name]
    random_model(tmp_path, family, changes)
    eager = family in {"Gemma2", "GptOss"}  # its softmax is taken in float32
    model = adapted(
        tmp_path,
        dtype=torch.float32 if family == "GptOss" else torch.float64,
        targets=TARGETS.get(family),
    ).model
    pairs, rtol = encoded[:6], 1e-5 if eager else 1e-12
    fast = orpo_loss(packed_logps(model, pairs))
    fast_gradients = gradients(model, fast)
    slow = orpo_loss(padded_logps(model, pairs, prompt_nll=True))
    packed_logps(model, pairs)

    assert any("trainable_tokens" in name for name in fast_gradients)
    assert fast.item() == pytest.approx(slow.item(), rel=rtol)
    assert_same(fast_gradients, gradients(model, slow), rtol)
    assert caplog.text.count("takes the padded layout") == (not packs)


def test_only_batches_with_rows_beyond_the_window_are_padded(encoded, tmp_path, caplog) -> None:
    by_length = sorted(encoded, key=lambda p: p.n_tokens)
    short, long = by_length[:4], by_length[-4:]
    window = max(p.n_prompt + len(a) for p in short for a in (p.chosen_ids, p.rejected_ids))
    random_model(tmp_path, "Mistral", {"sliding_window": window})
    model = adapted(tmp_path).model

    for pairs, notes in ((short, 0), (long, 1), (long, 1)):
        fast = orpo_loss(packed_logps(model, pairs))
        slow = orpo_loss(padded_logps(model, pairs, prompt_nll=True))
        assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
        assert caplog.text.count("takes the padded layout") == notes


def test_autocast_reaches_attention_and_output_projection(model_folder, encoded) -> None:
    model = adapted(model_folder, dtype=torch.float32).model
    exact = orpo_loss(packed_logps(model, encoded[:6]))
    exact_gradients = gradients(model, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = packed_logps(model, encoded[:6])

    assert rounded.chosen_sum.dtype == torch.float64
    assert orpo_loss(rounded).item() == pytest.approx(exact.item(), rel=1e-2)
    assert orpo_loss(rounded).item() != exact.item()
    assert_same(gradients(model, orpo_loss(rounded)), exact_gradients, 0.1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_attention_of_a_recipe_gives_the_same_scores(
    model_folder, encoded, attention
) -> None:
    config = dataclasses.replace(load_recipe("tiny-llama").model, name=str(model_folder))
    auto, other = (
        load_base(dataclasses.replace(config, attention=name), device="cpu").model
        for name in ("auto", attention)
    )
    with torch.no_grad():
        expected, found = (packed_logps(model, encoded[:6]) for model in (auto, other))

    torch.testing.assert_close(found.chosen_sum, expected.chosen_sum, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.rejected_sum, expected.rejected_sum, rtol=1e-5, atol=0)


def test_flash_attention_without_its_device_is_one_message(model_folder) -> None:
    config = dataclasses.replace(load_recipe("tiny-llama").model, name=str(model_folder))

    with pytest.raises(ModelError, match="needs a CUDA device"):
        load_base(dataclasses.replace(config, attention="flash_attention_2"), device="cpu")
