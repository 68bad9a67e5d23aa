"""A merge from file to file gives what PEFT's own merge gives, and holds little at a time."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from study.errors import ModelError
from study.model.adapter import fresh_adapter
from study.model.base import load_base
from study.release.merge import INDEX, Update, add_update, describe, merge, tensors_of
from study.run.checkpoints import save_adapter


def trained(recipe, folder):
    """Return a base with an adapter of noise on it, saved to a folder."""
    base = load_base(recipe.model, device="cpu")
    fresh_adapter(base, recipe.adapter, seed=1).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in base.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(base.model, folder)
    return base


def logits(model, n_tokens=640):
    ids = torch.arange(0, n_tokens, 37)[None]
    with torch.inference_mode():
        return model(input_ids=ids).logits


def merged_model(base, source, adapter, target, **options):
    parts = describe(base)
    merge(source, adapter, target, parts, **{"dtype": None, **options})
    config = json.loads((source / "config.json").read_text()) | {"vocab_size": parts.n_rows}
    (target / "config.json").write_text(json.dumps(config))
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_merged_model_computes_what_the_adapter_computes_on_its_base(
    small_recipe, model_folder, tmp_path, kind, quantization
) -> None:
    recipe = small_recipe.override([f"adapter.kind={kind}", f"model.quantization={quantization}"])
    base = trained(recipe, tmp_path / "adapter")
    merged = merged_model(base, model_folder, tmp_path / "adapter", tmp_path / "merged")
    ours, theirs = logits(merged), logits(base.model)

    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=2e-5)
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")


def test_a_merge_of_nf4_differs_from_a_merge_into_the_original_weights(
    small_recipe, model_folder, tmp_path
) -> None:
    base = trained(small_recipe.override(["model.quantization=nf4"]), tmp_path / "adapter")
    parts = describe(base)
    kept = dataclasses.replace(parts, quantised=frozenset())
    for name, part in (("through", parts), ("past", kept)):
        merge(model_folder, tmp_path / "adapter", tmp_path / name, part, dtype=None)
    through, past = (load_file(tmp_path / n / "model.safetensors") for n in ("through", "past"))
    layer = "model.layers.0.mlp.up_proj.weight"

    assert not torch.allclose(through[layer], past[layer], atol=1e-4)
    assert torch.equal(through["model.norm.weight"], past["model.norm.weight"])


def test_weights_that_lie_on_their_side_and_an_untied_head_are_merged(tmp_path, small_recipe):
    from study.model.toy import VOCABULARY_SIZE, train_tokenizer

    shape = {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY_SIZE, **shape, bos_token_id=0, eos_token_id=1)
        ).save_pretrained(tmp_path / "gpt2")
    train_tokenizer().save_pretrained(tmp_path / "gpt2")
    targets = 'adapter.target_modules=["c_attn","c_fc","c_proj"]'
    recipe = small_recipe.override([f"model.name={tmp_path / 'gpt2'}", targets])
    base = trained(recipe, tmp_path / "adapter")
    merged = merged_model(base, tmp_path / "gpt2", tmp_path / "adapter", tmp_path / "merged")

    assert describe(base).transposed
    assert not describe(base).tied
    assert torch.allclose(logits(merged), logits(base.model), atol=2e-5)


def test_shards_are_cut_to_size_and_read_as_one_model(small_recipe, model_folder, tmp_path) -> None:
    base = trained(small_recipe, tmp_path / "adapter")
    merged = merged_model(
        base, model_folder, tmp_path / "adapter", tmp_path / "merged", shard_bytes=40_000
    )
    files = sorted((tmp_path / "merged").glob("*.safetensors"))
    index = json.loads((tmp_path / "merged" / INDEX).read_text())
    largest = max(tensor.nbytes for _, tensor in tensors_of(tmp_path / "merged"))

    assert len(files) > 2
    assert {path.name for path in files} == set(index["weight_map"].values())
    assert all(path.stat().st_size < max(40_000, largest) + 4_000 for path in files)
    assert torch.allclose(logits(merged), logits(base.model), atol=2e-5)


def test_weights_are_written_in_the_precision_asked_for(small_recipe, model_folder, tmp_path):
    base = trained(small_recipe, tmp_path / "adapter")
    merge(model_folder, tmp_path / "adapter", tmp_path, describe(base), dtype=torch.bfloat16)

    assert {t.dtype for _, t in tensors_of(tmp_path)} == {torch.bfloat16}


def test_a_layer_that_the_files_name_otherwise_is_refused(
    small_recipe, model_folder, tmp_path
) -> None:
    base = trained(small_recipe, tmp_path / "adapter")
    weights = load_file(model_folder / "model.safetensors")
    (tmp_path / "other").mkdir()
    from safetensors.torch import save_file

    renamed = {name.replace("up_proj", "upper"): tensor for name, tensor in weights.items()}
    save_file(renamed, tmp_path / "other" / "model.safetensors")

    with pytest.raises(ModelError, match=r"hold no model\.layers\.0\.mlp\.up_proj\.weight"):
        merge(tmp_path / "other", tmp_path / "adapter", tmp_path, describe(base), dtype=None)


def test_an_update_is_what_the_papers_write() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5], [0.0]])
    plain = Update(a=a, b=b, scale=2.0, magnitude=None)
    scaled = dataclasses.replace(plain, magnitude=torch.tensor([10.0, 3.0]))
    length = (16 + 4) ** 0.5

    assert add_update(weight, plain).tolist() == [[4.0, 2.0], [0.0, 1.0]]
    assert torch.allclose(
        add_update(weight, scaled), torch.tensor([[40 / length, 20 / length], [0.0, 3.0]])
    )
