"""Models in .gguf files: the same model as in safetensors, or one message."""

import dataclasses
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from study.config.recipe import load_recipe
from study.errors import ModelError
from study.model import locate as places
from study.model.base import load_base, load_tokenizer
from study.model.locate import locate

MODEL = load_recipe("tiny-llama").model
TEMPLATE = (
    "{% for m in messages %}<|begin_of_text|>{{ m['role'] }}: {{ m['content'] }}<|end_of_text|>"
    "{% endfor %}{% if add_generation_prompt %}<|begin_of_text|>assistant: {% endif %}"
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write(model_folder, tmp_path):
    """Write the tiny random Llama as a GGUF file, as llama.cpp's converter would."""

    def made(kind: str = "F32", architecture: str = "llama") -> Path:
        path = tmp_path / f"tiny.{kind}.gguf"
        write_gguf(model_folder, path, gguf.GGMLQuantizationType[kind], architecture)
        return path

    return made


def write_gguf(folder: Path, path: Path, kind: gguf.GGMLQuantizationType, name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, vocabulary = model.config, json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(path, name)
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].__getitem__))
    writer.add_token_types([3 if at < 2 else 1 for at in range(config.vocab_size)])
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for key, tensor in model.state_dict().items():
        if key != "lm_head.weight":  # tied
            values = tensor.numpy()
            for side, n in heads.items():
                values = paired(values, n) if f"{side}_proj" in key else values
            put(writer, key, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def paired(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Reorder rows as llama.cpp's rotary embedding pairs them: neighbours, not halves."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def put(writer: gguf.GGUFWriter, key: str, values: np.ndarray, kind) -> None:
    place = key.removesuffix(".weight")
    if place.startswith("model.layers."):
        _, _, number, rest = place.split(".", 3)
        name = f"blk.{number}.{NAMES[rest]}.weight"
    else:
        name = f"{NAMES[place]}.weight"
    if values.ndim == 1 or values.shape[1] % 32:  # blocks are 32 numbers of a row
        kind = gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def loaded(path: Path, **changes):
    return load_base(dataclasses.replace(MODEL, name=str(path), **changes), device="cpu")


@pytest.mark.parametrize(("kind", "steps"), [("F32", 0), ("F16", 1 / 2048), ("Q8_0", 1 / 127)])
def test_a_gguf_file_is_the_model_that_it_was_made_of(kind, steps, write, model_folder) -> None:
    base = loaded(write(kind))
    expected = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    found = base.causal.state_dict()

    for key, weight in expected.items():
        n_rows = len(weight)  # tokens of the chat stand behind them
        off = (found[key][:n_rows] - weight).abs().max()
        assert off <= steps * weight.abs().max() * (weight.ndim > 1), key


def test_its_tokens_and_its_chat_template_are_taken_over(write, model_folder) -> None:
    tokenizer, trained = load_tokenizer(dataclasses.replace(MODEL, name=str(write())))
    text = "How many letters are in 12345 apples?\n\n Two  blanks, isn't it?"
    own = AutoTokenizer.from_pretrained(model_folder)

    assert tokenizer.encode(text, add_special_tokens=False) == own.encode(
        text, add_special_tokens=False
    )
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|end_of_text|>")
    assert trained == ()


def test_the_record_names_its_quantisation_origin_and_licence(write) -> None:
    path = write("Q8_0")
    resolved = loaded(path).resolved

    assert resolved["source"] == path.name
    assert resolved["licence"] == "mit"
    assert resolved["stored_as"].startswith("Q8_0 (13), F32 (7)")
    assert len(resolved["source_sha256"]) == 64
    assert resolved["quantization"] == "none"


def test_it_is_converted_once_whatever_it_is_called_and_wherever_it_lies(
    write, cache, tmp_path
) -> None:
    path = write()
    first = locate(str(path))
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / path.name)
    (moved.parent / "adapter_config.json").write_text("{}")
    (moved.parent / "tokenizer_config.json").write_text('{"chat_template": "not this one"}')
    told: list[str] = []

    assert locate(str(moved), progress=lambda what, *_: told.append(what)) == first
    assert told == []
    shutil.rmtree(cache)
    again = locate(str(moved), progress=lambda what, *_: told.append(what))
    assert set(told) == {f"converting {path.name} to safetensors"}
    assert loaded(moved).tokenizer.chat_template == TEMPLATE
    assert again.origin == first.origin


def test_a_damaged_conversion_says_how_to_have_it_made_again(write, cache) -> None:
    path = write()
    folder = Path(locate(str(path)).path)
    (folder / "model.safetensors").write_bytes(b"short")

    with pytest.raises(ModelError, match=r"no safetensors file.*remove .*made again"):
        locate(str(path))
    shutil.rmtree(folder)
    assert locate(str(path)).path == str(folder)


def cut_to(share: float):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip_count(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:16] = (2**40).to_bytes(8, "little")
    path.write_bytes(content)


DAMAGES = {
    "cut in its metadata": (cut_to(0.05), "damaged or not whole"),
    "cut in its weights": (cut_to(0.9), "damaged or not whole"),
    "cut by one byte": (cut_to(1 - 1e-6), "damaged or not whole"),
    "more tensors than it has": (flip_count, "damaged or not whole"),
    "empty": (lambda path: path.write_bytes(b""), "no GGUF file: it is empty"),
    "a web page": (lambda path: path.write_text("<html>"), "no GGUF file: it is a web page"),
    "a pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        "no GGUF file: it is a pointer of Git LFS",
    ),
    "safetensors": (lambda path: path.write_bytes(b"\x10\0\0\0{}"), "no GGUF file: it begins with"),
    "absent": (Path.unlink, "there is no file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_a_whole_gguf_file_is_one_message(damage, write, cache) -> None:
    path = write()
    change, message = DAMAGES[damage]
    change(path)

    with pytest.raises(ModelError, match=message) as caught:
        loaded(path)
    assert str(caught.value).count("\n") == 0
    assert not cache.exists()


def test_an_architecture_that_transformers_does_not_know_is_one_message(write, cache) -> None:
    path = write(architecture="zork")

    with pytest.raises(ModelError, match=r"cannot read the model in .*zork"):
        loaded(path)
    assert [left for left in cache.iterdir() if left.suffix != ".lock"] == []


def test_a_file_without_some_of_its_weights_is_refused(write, monkeypatch) -> None:
    monkeypatch.setitem(NAMES, "mlp.up_proj", "other")

    with pytest.raises(ModelError, match=r"its weights lack .*up_proj"):
        loaded(write())


def test_a_full_disk_is_one_message_and_leaves_nothing(write, cache, monkeypatch) -> None:
    path = write()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places.gguf, "convert", full)

    with pytest.raises(ModelError, match=r"cannot keep the converted .*No space left.*make room"):
        locate(str(path))
    assert [left for left in cache.iterdir() if left.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyError("general.architecture"), ModelError),
        (OSError("it does not appear to have a file named config.json"), ModelError),
        (OSError(5, "Input/output error"), OSError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (MemoryError(), MemoryError),
        (ImportError("no module named gguf"), ImportError),
    ],
)
def test_only_what_a_file_may_cause_is_laid_to_the_file(
    write, tmp_path, monkeypatch, error, raised
) -> None:
    def fail(*_):
        raise error

    monkeypatch.setattr(places.gguf, "_tokenizer", fail)

    with pytest.raises(raised):
        places.gguf.convert(write(), tmp_path / "made", origin={}, progress=lambda *_: None)


def test_a_file_is_read_once_for_its_checksum_until_it_changes(write, monkeypatch) -> None:
    path, read = write(), []
    own = places.gguf.checksum
    monkeypatch.setattr(places.gguf, "checksum", lambda file: read.append(file) or own(file))
    loaded(path)
    n_first = len(read)
    loaded(path)
    path.write_bytes(path.read_bytes() + b"\0")

    assert (n_first, len(read)) == (1, 1)
    assert places.gguf.sha256_of(path) == own(path)
    assert len(read) == 2


def test_the_doctor_knows_its_shape(write, model_folder) -> None:
    from study.model.shapes import model_config

    found = model_config(dataclasses.replace(MODEL, name=str(write())))
    own = model_config(dataclasses.replace(MODEL, name=str(model_folder)))

    names = ("hidden_size", "num_hidden_layers", "num_key_value_heads", "intermediate_size")
    assert [getattr(found, name) for name in names] == [getattr(own, name) for name in names]


def test_it_computes_what_its_weights_in_safetensors_compute(write, model_folder) -> None:
    base = loaded(write())
    ids = torch.tensor([[5, 9, 300, 17, 64, 2]])
    own = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    with torch.no_grad():
        expected, found = own(ids).logits, base.causal(ids).logits[..., : own.vocab_size]

    assert torch.allclose(found, expected, atol=1e-5)
