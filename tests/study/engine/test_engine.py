"""The packed engine against its slow twin, the padded one, and against TRL."""

import dataclasses
import itertools
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config.recipe import load_recipe
from study.engine.encoded import Encoded
from study.engine.forward import pair_logps
from study.engine.head import Head, label_logps
from study.engine.lora import restore_adapters
from study.engine.packing import pack
from study.errors import ModelError
from study.losses import PairLogps, orpo, sft
from study.model.adapter import fresh_adapter
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


def padded_logps(model, pairs: list[Encoded], *, prompt_nll: bool) -> PairLogps:
    """The slow twin: one right-padded row per side, logits of every position."""

    def side(answers: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [[*p.prompt_ids, *answer] for p, answer in zip(pairs, answers, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logps = F.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
        starts = torch.tensor([len(p.prompt_ids) - 1 for p in pairs])[:, None]
        ends = torch.tensor([len(row) - 1 for row in rows])[:, None]
        at = torch.arange(width - 1)[None]
        answer = (logps * ((at >= starts) & (at < ends))).sum(-1)
        return answer, (logps * (at < starts)).sum(-1)

    chosen, prompt = side([p.chosen_ids for p in pairs])
    rejected, _ = side([p.rejected_ids for p in pairs])
    n_prompt = torch.tensor([(len(p.prompt_ids) - 1) * prompt_nll for p in pairs])
    return PairLogps(
        prompt * prompt_nll,
        n_prompt,
        chosen,
        torch.tensor([len(p.chosen_ids) for p in pairs]),
        rejected,
        torch.tensor([len(p.rejected_ids) for p in pairs]),
    )


def packed_logps(model, pairs: list[Encoded], *, prompt_nll: bool = True) -> PairLogps:
    return pair_logps(model, pack(pairs, rejected=True, prompt_nll=prompt_nll))


def orpo_loss(logps: PairLogps) -> torch.Tensor:
    n_tokens = (logps.prompt_tokens + logps.chosen_tokens).sum()
    return orpo(logps, n_tokens=n_tokens, n_pairs=torch.tensor(len(logps.chosen)), beta=BETA)


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert any("lora_B" in name for name in found)
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        scale = expected[name].abs().max().item()
        off = (value - expected[name]).abs().max().item()
        assert off <= rtol * scale, f"{name} is off by {off / scale:.1e} of its largest entry"


def exact_norm(self, hidden: torch.Tensor) -> torch.Tensor:
    """RMSNorm in the model's own precision; transformers' rounds float64 to float32."""
    weight = self.weight + 1 if type(self).__name__.startswith("Gemma") else self.weight
    return weight * hidden * (hidden.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()


def adapted(
    model_folder,
    *,
    kind="lora",
    quantization="none",
    dtype=torch.float64,
    chat=True,
    attention="auto",
    targets=None,
    dropout=0.0,
):
    """A tiny model with an adapter that is no longer at its start."""
    recipe = load_recipe("tiny-llama")
    config = dataclasses.replace(
        recipe.model, name=str(model_folder), quantization=quantization, attention=attention
    )
    base = load_base(config, device="cpu")
    base.trained_token_ids = base.trained_token_ids if chat else ()
    if quantization == "none":
        base.model.to(dtype)
    if dtype == torch.float64:
        for module in base.model.modules():
            if type(module).__name__.endswith("RMSNorm") and "forward" not in vars(module):
                module.forward = types.MethodType(exact_norm, module)
    targets = targets or recipe.adapter.target_modules
    options = {"kind": kind, "rank": 4, "target_modules": targets, "dropout": dropout}
    adapter = dataclasses.replace(recipe.adapter, **options)
    model = fresh_adapter(base, adapter, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                if quantization == "none":
                    parameter.data = parameter.data.to(dtype)
                if "magnitude" not in name:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.02 * noise.to(parameter))
    return SimpleNamespace(base=base, model=model.train())


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
    n_tokens = torch.tensor(sum(len(p.prompt_ids) - 1 + len(p.chosen_ids) for p in pairs))
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
    distinct = sum(len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in encoded[:5])

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
    window = max(len(p.prompt_ids) + len(a) for p in short for a in (p.chosen_ids, p.rejected_ids))
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

    assert rounded.chosen_sum.dtype == torch.float32
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


# TRL, on real pairs where they are present and on the toy language elsewhere.


def padded_batch(pairs: list[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Pairs as TRL's collator would hand them to its trainers."""
    batch = {}
    for side in ("chosen", "rejected"):
        rows = [[*p.prompt_ids, *getattr(p, f"{side}_ids")] for p in pairs]
        width = max(map(len, rows))
        labels = [
            [-100] * len(p.prompt_ids) + list(getattr(p, f"{side}_ids")) + [-100] * (width - len(r))
            for p, r in zip(pairs, rows, strict=True)
        ]
        batch[f"{side}_input_ids"] = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
        batch[f"{side}_attention_mask"] = torch.tensor(
            [[1] * len(r) + [0] * (width - len(r)) for r in rows]
        )
        batch[f"{side}_labels"] = torch.tensor(labels)
    return batch


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


def trl_orpo_loss(model, pairs: list[Encoded], pad: int) -> torch.Tensor:
    from trl.experimental.orpo import ORPOTrainer

    trainer = ORPOTrainer.__new__(ORPOTrainer)
    trainer.beta, trainer.is_encoder_decoder, trainer.aux_loss_enabled = BETA, False, False
    trainer.padding_value = pad
    trainer.accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda value: value
    )
    loss, _ = trainer.get_batch_loss_metrics(model, padded_batch(pairs, pad))
    return loss


@pytest.fixture
def no_rounding(monkeypatch):
    """TRL and transformers round logits and log-probabilities to float32: not in float64."""
    single = torch.Tensor.float
    monkeypatch.setattr(
        torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else single(t)
    )


def without_our_layers(model) -> None:
    """Give the layers back the forward passes that PEFT and transformers have for them."""
    restore_adapters(model)
    exact = next(model.parameters()).dtype == torch.float64
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            vars(module).pop("forward", None)
            if exact:
                module.forward = types.MethodType(exact_norm, module)


ADAPTERS = pytest.mark.parametrize(
    ("options", "rtol"),
    [
        ({"kind": "lora", "dtype": torch.float64}, 1e-12),
        ({"kind": "dora", "dtype": torch.float64}, 1e-12),
        ({"kind": "lora", "dtype": torch.float32}, 1e-5),
        ({"kind": "dora", "dtype": torch.float32}, 1e-5),
        ({"kind": "lora", "quantization": "nf4", "dtype": torch.float32}, 1e-5),
    ],
)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@ADAPTERS
def test_orpo_agrees_with_trls_trainer(
    model_folder, trl_pairs, toy_tokenizer, options, rtol, checkpointing, no_rounding
) -> None:
    model = adapted(model_folder, **options).model
    if checkpointing:
        model.base_model.model.activation_checkpointing_enable({"use_reentrant": False})
    pad = toy_tokenizer.tokenizer.pad_token_id
    batches, ours = (trl_pairs, trl_pairs[:1]), []
    for pairs in batches:
        loss = orpo_loss(packed_logps(model, pairs))
        ours.append((loss, gradients(model, loss)))
    without_our_layers(model)
    for pairs, (loss, our_gradients) in zip(batches, ours, strict=True):
        theirs = trl_orpo_loss(model, pairs, pad)

        assert loss.item() == pytest.approx(theirs.item(), rel=rtol)
        assert_same(our_gradients, gradients(model, theirs), rtol)


@pytest.mark.filterwarnings("ignore")  # TRL's own use of transformers' old names
@pytest.mark.slow
@pytest.mark.parametrize(("response_only", "checkpointing"), [(True, False), (False, True)])
@ADAPTERS
def test_sft_agrees_with_trls_trainer(
    model_folder,
    trl_pairs,
    toy_tokenizer,
    tmp_path,
    options,
    rtol,
    response_only,
    checkpointing,
    no_rounding,
) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    adapter = adapted(model_folder, **options, chat=False)  # TRL's head takes no wrapper
    if checkpointing:
        adapter.base.causal.activation_checkpointing_enable({"use_reentrant": False})
    pad = toy_tokenizer.tokenizer.pad_token_id
    batch = pack(trl_pairs, rejected=False, prompt_nll=not response_only)
    logps = pair_logps(adapter.model, batch)
    n_tokens = (logps.prompt_tokens + logps.chosen_tokens).sum()
    ours = sft(logps, n_tokens=n_tokens, n_pairs=torch.tensor(len(trl_pairs)))
    our_gradients = gradients(adapter.model, ours)
    exact = {n: p.data for n, p in adapter.model.named_parameters() if p.requires_grad}
    without_our_layers(adapter.model)

    trainer = SFTTrainer(
        model=adapter.model,
        args=SFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None),
        train_dataset=Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]]}),
        processing_class=toy_tokenizer.tokenizer,
    )
    for name, parameter in adapter.model.named_parameters():
        if name in exact:  # TRL rounds adapters of quantised models to bfloat16
            parameter.data = exact[name]
    padded = padded_batch(trl_pairs, pad)
    inputs = {"input_ids": padded["chosen_input_ids"]}
    inputs["attention_mask"] = padded["chosen_attention_mask"]
    inputs["labels"] = (
        padded["chosen_labels"]
        if response_only
        else inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    )
    if options["dtype"] == torch.float64:  # TRL's output layer rounds to float32
        theirs = trainer.model(**inputs, use_cache=False).loss
    else:
        theirs = trainer.compute_loss(trainer.model, inputs)

    assert ours.item() == pytest.approx(theirs.item(), rel=rtol)
    assert_same(our_gradients, gradients(adapter.model, theirs), rtol)
