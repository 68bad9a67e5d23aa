"""Damaged and changed model folders: one message that names the file, never a traceback."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from study.config.recipe import load_recipe
from study.errors import ModelError
from study.model.base import load_base
from study.model.folder import fingerprint
from study.model.locate import locate

MODEL = load_recipe("tiny-llama").model
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def put(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def edit(name: str, **changes):
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return change


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def rename_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.other"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def cut_to_8_bits(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: t.to(torch.int8) for name, t in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def name_absent_shard(folder: Path) -> None:
    (folder / INDEX).write_text('{"metadata": {}, "weight_map": {"a": "part-2.safetensors"}}')


NESTED = b'{"a":' * 5000 + b"1" + b"}" * 5000
ZORK = {"quant_method": "zork"}
DAMAGES = {
    "weights cut short": (cut, WEIGHTS),
    "weights empty": (put(WEIGHTS, b""), "it is empty"),
    "weights a web page": (put(WEIGHTS, b"<!DOCTYPE html><html>"), "it is a web page"),
    "weights a pointer": (put(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
    "a shard absent": (name_absent_shard, "part-2.safetensors"),
    "index a list": (put(INDEX, b"[]"), INDEX),
    "config a list": (put("config.json", b"[1]"), r"config\.json holds a JSON list"),
    "config nested": (put("config.json", NESTED), r"config\.json cannot be read"),
    "config not UTF-8": (put("config.json", b"\xff\xfe"), r"config\.json cannot be read"),
    "config of another shape": (edit("config.json", hidden_size=64), "embed_tokens.*config.json"),
    "config with more layers": (edit("config.json", num_hidden_layers=3), r"lack model\.layers\.2"),
    "weights without their scales": (cut_to_8_bits, r"I8 numbers.*quantization_config"),
    "a tensor renamed": (rename_tensor, r"lack model\.norm\.weight"),
    "no attention heads": (edit("config.json", num_attention_heads=0), "config.json"),
    "a size in words": (edit("config.json", hidden_size="big"), "hidden_size"),
    "an unknown dtype": (edit("config.json", dtype="zork"), "zork"),
    "an unknown activation": (edit("config.json", hidden_act="zork"), "zork"),
    "an absent kernel": (edit("config.json", _attn_implementation="flash_attention_3"), "kernel"),
    "a kernel on the Hub": (
        edit("config.json", _attn_implementation="a/b"),
        r"config\.json.*'a/b'",
    ),
    "config with fewer layers": (
        edit("config.json", num_hidden_layers=1),
        r"have model\.layers\.1",
    ),
    "an unknown quantisation": (edit("config.json", quantization_config=ZORK), "zork"),
    "a length in words": (edit("tokenizer_config.json", model_max_length="x"), "tokenizer"),
    "a template of another kind": (edit("tokenizer_config.json", chat_template=5), "tokenizer"),
    "generation config a list": (put("generation_config.json", b"[]"), "generation_config.json"),
    "tokenizer a list": (put("tokenizer.json", b"[]"), "tokenizer.json holds"),
    "tokenizer config a list": (put("tokenizer_config.json", b"[]"), "tokenizer_config.json"),
    "a broken template": (edit("tokenizer_config.json", chat_template="{% for %}"), "template"),
}


def load(folder: Path):
    return load_base(dataclasses.replace(MODEL, name=str(folder)), device="cpu")


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.mark.filterwarnings("ignore")  # transformers' own, about what is damaged
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_one_message_that_names_the_fault(folder, name) -> None:
    damage, told = DAMAGES[name]
    damage(folder)
    with pytest.raises(Exception, match=told) as found:
        load(folder)

    assert type(found.value).__name__ in {"ModelError", "DataError"}
    assert "\n" not in str(found.value)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<word-{n}>" for n in range(40)])
    tokenizer.save_pretrained(folder)

    with pytest.raises(ModelError, match=r"40 tokens such as '<word-0>' were never trained"):
        load(folder)


def test_new_tokens_that_the_models_own_template_writes_are_trained(folder) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|turn|>", "<|done|>"])
    tokenizer.chat_template = (
        "{% for message in messages %}<|turn|>{{ message.role }}\n{{ message.content }}<|done|>"
        "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    base = load(folder)
    tokens = base.tokenizer.convert_ids_to_tokens(base.trained_token_ids)

    assert tokens == ["<|turn|>", "<|done|>"]


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS, "chat.jinja"]
)
def test_the_fingerprint_changes_with_every_file_that_decides_results(folder, name) -> None:
    before = fingerprint(folder)
    with (folder / name).open("ab") as file:
        file.write(b" ")

    assert fingerprint(folder) != before


def test_the_fingerprint_leaves_out_what_decides_nothing(folder) -> None:
    before, weights = fingerprint(folder), fingerprint(folder, weights_only=True)
    (folder / "README.md").write_text("A model.")

    assert fingerprint(folder) == before
    assert weights != before


def test_weights_in_a_folder_below_count_too(folder) -> None:
    from safetensors.torch import save_file

    before = fingerprint(folder)
    (folder / "parts").mkdir()
    save_file({"a": torch.zeros(1)}, folder / "parts" / "one.safetensors")

    assert fingerprint(folder) != before


def test_a_path_to_no_folder_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(ModelError, match="there is no folder 'runs/mini/judge', and no id of"):
        locate("runs/mini/judge")
