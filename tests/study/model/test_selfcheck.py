"""A model against itself: every causal architecture of transformers, built tiny."""

import copy
import dataclasses

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from study.config.recipe import load_recipe
from study.engine.forward import use_layout
from study.engine.packing import pack
from study.errors import ModelError
from study.model.adapter import fresh_adapter
from study.model.base import prepare_base
from study.model.selfcheck import TOLERANCE, check_base, measure
from study.run.answers import continue_prompts

RECIPE = load_recipe("tiny-llama")
ALL_LINEAR = dataclasses.replace(RECIPE.adapter, target_modules=("all-linear",), rank=4)

SIZES = (
    (1, "n_group topk_group"),
    (2, "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers"),
    (2, "encoder_layers num_encoder_layers num_key_value_heads num_experts_per_tok moe_topk moe_k"),
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads num_experts"),
    (4, "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads"),
    (4, "n_routed_experts num_local_experts moe_num_experts"),
    (8, "head_dim qk_rope_head_dim"),
    (16, "q_lora_rank kv_lora_rank qk_nope_head_dim v_head_dim index_head_dim"),
    (32, "hidden_size d_model n_embd dim embed_dim emb_dim embedding_size attention_hidden_size"),
    (32, "lru_width"),
    (48, "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size d_ff"),
    (48, "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size"),
    (20, "sliding_window attention_chunk_size window_size"),
    (128, "max_position_embeddings n_positions n_ctx"),
    (640, "vocab_size"),
)
"""What configurations call their sizes, and how small they are made."""

ENCODERS = (
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert "
    "roberta roberta-prelayernorm roformer xlm-roberta xlm-roberta-xl roc_bert xmod reformer"
).split()
LATENT = (
    "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa kimi_linear "
    "longcat_flash minicpm3 youtu dots3_note_text zamba zamba2"
).split()
"""Their key-value heads are as many as their heads."""
HEAD_OF_8 = "hunyuan_v1_dense hunyuan_v1_moe ministral nemotron".split()
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_chunk_size": 8}
DELTA = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
MAMBA_LAYERS = {"layer_types": ["mamba", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 4}
PART = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
INKLING = {
    "unpadded_vocab_size": 600,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "d_rel": 8,
}

CHANGES = {
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "codegen": {"rotary_dim": 4},
    "cpmant": {"dim_head": 8, "dim_ff": 48, "prompt_length": 4},
    "ctrl": {"dff": 48},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {
        "o_lora_rank": 16,
        "o_groups": 2,
        "index_n_heads": 2,
        "index_topk": 8,
        "head_dim": 16,
        "layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"],
        "mlp_layer_types": ["hash_moe", "moe"],
        "num_key_value_heads": 1,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.3},
    "gemma3n_text": {
        **SLIDING,
        "vocab_size_per_layer_input": 640,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.95, 0.0],
        "intermediate_size": [48, 48],
        "altup_num_inputs": 2,
    },
    "gemma4_text": {
        **SLIDING,
        "vocab_size_per_layer_input": 640,
        "hidden_size_per_layer_input": 8,
    },
    "gemma4_unified_text": SLIDING,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {
        **MAMBA,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 48,
    },
    "hyperclovax": {"logits_scaling": 3.0},
    "inkling2_text": INKLING | {"n_routed_experts": 4},
    "inkling_text": INKLING,
    "jamba": {
        "mamba_d_state": 8,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "mamba_dt_rank": 4,
    },
    "kimi_linear": {
        "num_experts_per_token": 2,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "state_size": 16, "n_groups": 2, "chunk_size": 8},
    "minimax_m3_vl_text": {
        "dense_intermediate_size": 48,
        "shared_intermediate_size": 48,
        "rotary_dim": 8,
    },
    "moshi": {"audio_vocab_size": 32, "num_codebooks": 2},
    "nemotron": {"num_key_value_heads": 2},
    "phi4_multimodal": {
        "vision_config": PART | {"num_hidden_layers": 1, "image_size": 28, "crop_size": 28},
        "audio_config": PART
        | {"num_blocks": 1, "ext_pw_out_channel": 32, "nemo_conv_channels": 32},
    },
    "qwen3_5_moe_text": DELTA,
    "qwen3_5_text": DELTA,
    "qwen3_next": DELTA,
    "reformer": {
        "attention_head_size": 8,
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "feed_forward_size": 48,
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 8,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
        "pronunciation_vocab_size": 20,
        "shape_vocab_size": 20,
    },
    "xlm": {"causal": True, "n_words": 640},
    "xlstm": {"num_blocks": 2},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {
        **MAMBA_LAYERS,
        "n_mamba_heads": 2,
        "mamba_dt_rank": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zamba2": {
        **MAMBA_LAYERS,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "mamba_d_state": 8,
        "num_mem_blocks": 1,
        "chunk_size": 8,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
CHANGES |= {name: CHANGES.get(name, {}) | {"is_decoder": True} for name in ENCODERS}
CHANGES |= {name: CHANGES.get(name, {}) | {"num_key_value_heads": 4} for name in LATENT}
CHANGES |= {name: CHANGES.get(name, {}) | {"head_dim": 8} for name in HEAD_OF_8}

LEFT_OUT = (
    # with pictures or sound, around a text model that stands here under its own name
    "dots3_note emu3 gemma3 gemma3n gemma4 gemma4_unified llama4 qwen3_5 qwen3_5_moe qwen4_exp "
    # with pictures, sound or bytes, and no small size by plain fields
    "blt fuyu git got_ocr2 mllama moss_transcribe_diarize musicgen musicgen_melody "
    # drafts for another model; fields that only a real checkpoint fills
    "gemma4_assistant gemma4_unified_assistant qwen4_exp_text "
).split()

REFUSED = {
    "cpmant": "its own forward pass fails",  # its head does not grow with the embedding
    "deepseek_v4": "its own forward pass fails",  # a table of experts by token
    "inkling2_text": "logits of fewer tokens than the embedding has",
    "inkling_text": "logits of fewer tokens than the embedding has",
    "prophetnet": "sees ahead",
    "xlm": "cannot attach the adapter",  # the embedding it names is that of positions
    "xlnet": "sees ahead",
    "xlstm": "no embeddings that can take the tokens",
    "zamba2": "its own forward pass fails",
}
"""What transformers, PEFT or the architecture itself does not allow, each in one sentence."""

ROW = 40
"""Tokens of the longest row: beyond the windows and chunks of `SIZES`."""

SILENT = {  # went wrong without a word, or crashed, before this check
    "doge": ("padded", "batched"),
    "falcon_h1": ("padded", "one at a time"),
    "gemma3n_text": ("packed", "in slots"),
    "gemma4_text": ("packed", "batched"),
    "llama4_text": ("plain", "batched"),
    "hyperclovax": ("packed", "in slots"),
    "recurrent_gemma": ("padded", "without a cache"),
    "gptj": ("padded", "batched"),
    "phi": ("packed", "in slots"),
    "mamba": ("padded", "one at a time"),
    "mamba2": ("padded", "one at a time"),
    "qwen3_5_text": ("padded", "one at a time"),
    "qwen3_next": ("padded", "one at a time"),
    "lfm2": ("padded", "one at a time"),
    "granitemoehybrid": ("padded", "one at a time"),
    "jamba": ("padded", "one at a time"),
    "modernbert-decoder": ("plain", "batched"),
    "moshi": ("packed", "without a cache"),
    "nemotron": ("padded", "batched"),
}


def tiny_config(name: str, **changes):
    kind = CONFIG_MAPPING[name]
    aliases, default, found = getattr(kind, "attribute_map", {}), kind(), {}
    for size, fields in SIZES:
        for field in fields.split():
            own = field not in aliases and not isinstance(getattr(kind, field, None), property)
            if own and type(default.to_dict().get(field)) is int:
                found[field] = size
    if "vocab_size" in found:
        found |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return kind(**(found | CHANGES.get(name, {}) | changes))


def tiny_base(name: str, toy_tokenizer, *, dtype="float32", **changes):
    """A random model with weights large enough for its quirks to matter."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, CLASSES[name])(tiny_config(name, **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))  # some begin as zeros
    return prepare_base(
        model.to(getattr(torch, dtype)),
        copy.deepcopy(toy_tokenizer.tokenizer),
        toy_tokenizer.trained,
        dataclasses.replace(RECIPE.model, dtype=dtype),
        device=torch.device("cpu"),
        commit="none",
    )


@pytest.fixture
def quiet():
    """Silence what transformers says about sizes that nobody would train."""
    from transformers.utils import logging as library

    level = library.get_verbosity()
    library.set_verbosity_error()
    yield
    library.set_verbosity(level)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of many architectures about many things
@pytest.mark.parametrize("name", [name for name in CLASSES if name not in LEFT_OUT])
def test_every_architecture_is_right_or_refused_in_one_sentence(
    name, toy_tokenizer, quiet, monkeypatch
) -> None:
    monkeypatch.setattr("study.engine.attention.VALUES_PER_SEGMENT", 500)  # so strips serve too
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]) as found:
            measure(tiny_base(name, toy_tokenizer), ALL_LINEAR, longest_row=ROW)
        assert "\n" not in str(found.value)
        return
    result = measure(tiny_base(name, toy_tokenizer), ALL_LINEAR, longest_row=ROW)

    assert result.layout_off_nats[result.layout] <= TOLERANCE
    assert result.generation_off_nats[result.generation] <= TOLERANCE
    assert SILENT.get(name, (result.layout, result.generation)) == (
        result.layout,
        result.generation,
    )


def with_the_wrong_scale(monkeypatch) -> None:
    monkeypatch.setattr("study.engine.head._logit_scale", lambda config: 1.0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "selfchecks"


def test_what_the_engine_gets_wrong_the_models_own_forward_serves(
    toy_tokenizer, monkeypatch, cache, caplog
) -> None:
    with_the_wrong_scale(monkeypatch)
    base = tiny_base("hyperclovax", toy_tokenizer)
    found = check_base(base, ALL_LINEAR, longest_row=20)

    assert found.layout == "plain"
    assert min(found.layout_off_nats["packed"], found.layout_off_nats["padded"]) > 0.1
    assert base.causal.keeps_own_forward
    assert "likely because of scaled logits" in caplog.text


def test_a_model_that_nothing_gets_right_is_refused_with_the_figures(
    toy_tokenizer, monkeypatch, cache
) -> None:
    with_the_wrong_scale(monkeypatch)
    monkeypatch.setattr("study.engine.forward._plain_logps", lambda forward, batch: 1 / 0)
    with pytest.raises(ModelError, match=r"packed \d.*padded \d.*plain failed.*scaled logits"):
        check_base(tiny_base("hyperclovax", toy_tokenizer), ALL_LINEAR, longest_row=20)

    assert not cache.exists()


@pytest.mark.parametrize(("right", "layout"), [(True, "packed"), (False, "plain")])
def test_a_model_of_16_bit_numbers_is_held_to_what_they_allow(
    toy_tokenizer, monkeypatch, right, layout
) -> None:
    if not right:
        with_the_wrong_scale(monkeypatch)
    found = measure(
        tiny_base("hyperclovax", toy_tokenizer, dtype="bfloat16"), ALL_LINEAR, longest_row=ROW
    )

    assert (found.layout, found.generation) == (layout, "in slots" if right else "batched")
    assert found.tolerance_nats >= 0.25


def test_an_encoder_is_refused_because_it_sees_ahead(toy_tokenizer, quiet) -> None:
    with pytest.raises(ModelError, match=r"sees ahead.*is_decoder=true"):
        measure(tiny_base("bert", toy_tokenizer, is_decoder=False), ALL_LINEAR)


@pytest.mark.parametrize("attached", [False, True])
def test_a_check_leaves_adapter_weights_and_random_state_as_they_were(
    toy_tokenizer, attached
) -> None:
    base = tiny_base("phi", toy_tokenizer)
    if attached:
        fresh_adapter(base, ALL_LINEAR, seed=3)
    before = {name: p.detach().clone() for name, p in base.model.state_dict().items()}
    modules, state = list(map(type, base.model.modules())), torch.get_rng_state()
    measure(base, ALL_LINEAR)
    after = base.model.state_dict()

    assert torch.equal(torch.get_rng_state(), state)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(map(type, base.model.modules())) == modules
    assert not any(tensor.is_inference() for tensor in after.values())


def test_a_check_is_made_once_and_again_where_its_note_is_damaged(
    toy_tokenizer, monkeypatch, cache
) -> None:
    from study.model import selfcheck

    n_measured = []
    measured = selfcheck.measure

    def count(*args, **kwargs):
        n_measured.append(1)
        return measured(*args, **kwargs)

    monkeypatch.setattr("study.model.selfcheck.measure", count)
    first = check_base(tiny_base("mamba", toy_tokenizer), ALL_LINEAR, longest_row=20)
    again = check_base(tiny_base("mamba", toy_tokenizer), ALL_LINEAR, longest_row=20)
    other = dataclasses.replace(ALL_LINEAR, kind="rslora")
    check_base(tiny_base("mamba", toy_tokenizer), other, longest_row=20)

    assert again == first
    assert len(n_measured) == len(list(cache.iterdir())) == 2
    for note in cache.iterdir():
        note.write_text(note.read_text().replace("padded", "packed"))
    check_base(tiny_base("mamba", toy_tokenizer), ALL_LINEAR, longest_row=20)
    assert len(n_measured) == 3


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "changes", "limit"),
    [
        ("gpt2", {}, 128),
        ("opt", {}, 128),
        ("gptj", {}, 128),
        ("ctrl", {}, 128),
        ("codegen", {}, 128),
        ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32}, 32),
        ("llama", {"rope_parameters": DYNAMIC}, 128),
    ],
)
def test_rows_beyond_a_models_positions_are_refused(
    name, changes, limit, toy_tokenizer, cache, quiet
) -> None:
    base = tiny_base(name, toy_tokenizer, **changes)
    check_base(base, ALL_LINEAR, longest_row=limit)

    with pytest.raises(ModelError, match=rf"{limit} tokens.*rows of {limit + 1}; set data"):
        check_base(base, ALL_LINEAR, longest_row=limit + 1)


def test_rows_beyond_rotary_positions_are_not(toy_tokenizer, cache) -> None:
    found = check_base(tiny_base("llama", toy_tokenizer), ALL_LINEAR, longest_row=129)

    assert (found.layout, found.generation) == ("packed", "in slots")


@pytest.mark.parametrize("layout", ["padded", "plain"])
def test_slower_layouts_give_the_packed_ones_gradients(toy_tokenizer, encoded, layout) -> None:
    """Of the output layer's bias, of trained rows and of every adapter."""
    found = []
    for kept in ("packed", layout):
        base = tiny_base("phi", toy_tokenizer)
        model = fresh_adapter(base, ALL_LINEAR, seed=1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        use_layout(base.causal, kept)
        logps = model(packed=pack(encoded[:4], rejected=True, prompt_nll=True))
        logps.sum().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((logps.detach(), grads))
    (packed, expected), (slower, grads) = found

    torch.testing.assert_close(slower, packed, rtol=1e-4, atol=1e-4)
    assert expected.keys() == grads.keys()
    for name, gradient in grads.items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=2e-4 * scale + 1e-6)


@pytest.mark.parametrize("way", ["batched", "one at a time", "without a cache"])
def test_every_way_of_answering_gives_the_same_answers(workbench, way) -> None:
    expected = continue_prompts(workbench, workbench.test[:6])
    workbench.base.checked = dataclasses.replace(workbench.base.checked, generation=way)

    assert continue_prompts(workbench, workbench.test[:6]) == expected
