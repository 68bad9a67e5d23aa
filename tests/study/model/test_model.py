"""Loading in the Hub's layout, adapters that depend on the seed alone, NF4."""

import dataclasses

import pytest
import torch

from study.config.recipe import load_recipe
from study.errors import ModelError
from study.model.adapter import fresh_adapter
from study.model.base import load_base, pick_device
from study.model.workbench import open_workbench
from study.run.scores import initial_validation
from study.run.train import train_run

RECIPE = load_recipe("tiny-llama")


def model_config(folder, **changes):
    return dataclasses.replace(RECIPE.model, name=str(folder), **changes)


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
def test_an_adapter_depends_on_the_seed_alone(model_folder, kind) -> None:
    config = dataclasses.replace(RECIPE.adapter, kind=kind)

    def start(base, seed):
        model = fresh_adapter(base, config, seed=seed)
        return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    base = load_base(model_config(model_folder), device="cpu")
    first, other, again = (start(base, seed) for seed in (1, 2, 1))
    torch.manual_seed(99)
    elsewhere = start(load_base(model_config(model_folder), device="cpu"), 1)

    assert all(
        torch.equal(first[n], again[n]) and torch.equal(first[n], elsewhere[n]) for n in first
    )
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_a_fresh_adapter_changes_nothing(model_folder, encoded) -> None:
    from study.engine.forward import pair_logps
    from study.engine.packing import pack

    batch = pack(encoded[:4], rejected=True, prompt_nll=True)
    base = load_base(model_config(model_folder), device="cpu")
    with torch.no_grad():
        before = pair_logps(base.model, batch)
        after = pair_logps(fresh_adapter(base, RECIPE.adapter, seed=1), batch)

    torch.testing.assert_close(before.chosen_sum, after.chosen_sum)


def test_new_tokens_start_as_the_mean_and_are_trained(model_folder) -> None:
    base = load_base(model_config(model_folder), device="cpu")
    weight = base.model.get_input_embeddings().weight
    n_new = len(base.tokenizer) - base.tokenizer.vocab_size
    model = fresh_adapter(base, RECIPE.adapter, seed=1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]

    assert n_new == 3
    torch.testing.assert_close(weight[-1], weight[:-3].mean(dim=0))
    assert sum("trainable_tokens_delta" in name for name in trained) == 1


def test_adapters_attach_to_all_seven_projections(model_folder) -> None:
    base = load_base(model_config(model_folder), device="cpu")
    model = fresh_adapter(base, RECIPE.adapter, seed=1)
    names = {n.split(".")[-4] for n, _ in model.named_parameters() if "lora_A" in n}

    assert names == set(RECIPE.adapter.target_modules)
    assert len(names) == 7


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(  # HuggingFaceTB/SmolLM2-1.7B, but for its dimensions
            {"num_key_value_heads": 4, "rope_theta": 130000.0, "rms_norm_eps": 1e-5},
            id="smollm2",
        ),
        pytest.param(  # meta-llama/Llama-3.2-1B, but for its dimensions
            {
                "num_key_value_heads": 1,
                "head_dim": 16,
                "rope_theta": 500000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "high_freq_factor": 4.0,
                    "low_freq_factor": 1.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            id="llama-3.2",
        ),
    ],
)
def test_a_folder_as_on_the_hub_trains_and_generates(tmp_path, shape, small_recipe) -> None:
    """config.json, generation_config.json, tokenizer files and sharded safetensors in bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from study.model.toy import VOCABULARY_SIZE, train_tokenizer
    from study.run.answers import generate

    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
        **shape,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    train_tokenizer().save_pretrained(tmp_path)
    workbench = open_workbench(small_recipe.override([f"model.name={tmp_path}"]), device="cpu")
    outcome = train_run(
        workbench, arm="orpo", settings={"learning_rate": 3e-3, "beta": 0.1}, seed=1, folder=None
    )

    assert (tmp_path / "model.safetensors.index.json").exists()
    assert workbench.base.model.dtype == torch.float32
    assert outcome.validation["nll"] < initial_validation(workbench)["nll"]
    assert len(generate(workbench, workbench.test[:2])) == 2


def test_an_untied_model_trains_the_chat_tokens_on_both_ends(tmp_path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from study.model.toy import VOCABULARY_SIZE, train_tokenizer

    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            tie_word_embeddings=False,
        )
    ).save_pretrained(tmp_path)
    train_tokenizer().save_pretrained(tmp_path)
    base = load_base(model_config(tmp_path), device="cpu")
    model = fresh_adapter(base, RECIPE.adapter, seed=1)
    trained = [n for n, p in model.named_parameters() if "trainable_tokens_delta" in n]

    assert len(trained) == 2


def test_nf4_with_lora_trains_on_the_cpu(small_recipe) -> None:
    recipe = small_recipe.override(["model.quantization=nf4", "training.max_steps=12"])
    workbench = open_workbench(recipe, device="cpu")
    outcome = train_run(
        workbench, arm="orpo", settings={"learning_rate": 1e-2, "beta": 0.1}, seed=1, folder=None
    )

    assert any("4bit" in type(m).__name__ for m in workbench.base.model.modules())
    assert outcome.status == "ok"
    assert outcome.validation["nll"] < initial_validation(workbench)["nll"]


def test_an_unknown_target_module_is_named(model_folder) -> None:
    base = load_base(model_config(model_folder), device="cpu")
    config = dataclasses.replace(RECIPE.adapter, target_modules=("w_proj",))

    with pytest.raises(ModelError, match="w_proj"):
        fresh_adapter(base, config, seed=1)


def test_targets_that_are_partly_absent_are_refused_by_name(model_folder) -> None:
    base = load_base(model_config(model_folder), device="cpu")
    config = dataclasses.replace(RECIPE.adapter, target_modules=("q_proj", "qkv_proj"))

    with pytest.raises(ModelError, match=r"names qkv_proj, which .* are down_proj, .*all-linear"):
        fresh_adapter(base, config, seed=1)


def test_all_linear_layers_are_the_seven_projections(model_folder) -> None:
    base = load_base(model_config(model_folder), device="cpu")
    config = dataclasses.replace(RECIPE.adapter, target_modules=("all-linear",))
    model = fresh_adapter(base, config, seed=1)
    names = {n.split(".")[-4] for n, _ in model.named_parameters() if "lora_A" in n}

    assert names == set(RECIPE.adapter.target_modules)


def test_a_folder_that_is_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_base(model_config(tmp_path), device="cpu")


def test_weights_that_are_not_safetensors_are_refused(model_folder, tmp_path) -> None:
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="safetensors"):
        load_base(model_config(folder), device="cpu")


def test_devices_are_checked() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ModelError, match="device"):
        pick_device("abacus")
