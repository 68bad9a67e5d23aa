"""What is planned for several devices is what their shapes add up to."""

import functools
import json

import pytest
import torch
from click.testing import CliRunner

from study.cli import doctor, plan
from study.cli.commands import main
from study.cli.memory import step_memory
from study.config.recipe import load_recipe
from study.errors import ConfigError
from study.model.shapes import PUBLISHED_DIMENSIONS, meta_model, shape_of

LLAMA_70B = "model.name=meta-llama/Meta-Llama-3-70B"
CHECKPOINTING = "training.gradient_checkpointing=true"


@functools.cache  # read only
def on_paper(name: str, devices: int, *assignments: str):
    recipe = load_recipe(name).override(assignments)
    return plan.plan(recipe, devices=devices, device="cuda", here=None)


def by_hand(name: str, devices: int) -> dict[str, float]:
    """Count a Llama's or a Mistral's NF4 bytes in bfloat16, all of whose sizes N divides."""
    d = PUBLISHED_DIMENSIONS[name]
    hidden, inner, vocabulary = d["hidden_size"], d["intermediate_size"], d["vocab_size"]
    key_value = hidden // d["num_attention_heads"] * d["num_key_value_heads"]
    linear = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner
    layers, tables = d["num_hidden_layers"], 1 if d["tie_word_embeddings"] else 2
    block = linear / 2 + 2 * 2 * hidden
    scales = layers * linear / 64 * (1 + 4 / 256)
    return {
        "shared_weights": layers * block / devices,
        "whole_weights": scales + 2 * (tables * vocabulary * hidden + hidden),
        "gathered_blocks": 3 * block,
        "unpacked_layer": 2 * hidden * inner,
    }


@pytest.mark.parametrize(
    ("recipe", "model", "devices"),
    [
        ("article-a", "meta-llama/Llama-3.2-1B", 2),
        ("article-b", "mistralai/Mistral-7B-v0.1", 2),
        ("article-c", "meta-llama/Meta-Llama-3-8B", 2),
        ("article-c", "meta-llama/Meta-Llama-3-70B", 8),
    ],
)
def test_weights_on_a_device_are_those_counted_by_hand(recipe, model, devices) -> None:
    memory = on_paper(recipe, devices, f"model.name={model}")["memory_bytes"]

    for name, expected in by_hand(model, devices).items():
        assert memory[name] == expected, name
    assert memory["total"] == sum(memory[name] for name in plan.Share._fields)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_one_device_holds_what_a_step_is_estimated_to_hold(quantization: str) -> None:
    recipe = load_recipe("article-c").override([f"model.quantization={quantization}"])
    memory = plan.plan(recipe, devices=1, device="cuda", here=None)["memory_bytes"]
    shape = shape_of(meta_model(recipe.model, recipe.adapter))
    step = step_memory(recipe, shape, device="cuda", value_bytes=2)

    assert memory["shared_weights"] + memory["whole_weights"] == pytest.approx(step.weights, 1e-6)
    assert memory["gathered_blocks"] == 0
    assert memory["total"] - memory["unpacked_layer"] == pytest.approx(step.total, rel=1e-6)


@pytest.mark.parametrize("devices", [2, 3, 5])
def test_parts_are_those_that_fsdp_cuts(devices: int) -> None:
    from study.model.sharding import blocks_of

    recipe = load_recipe("tiny-llama")
    causal = meta_model(recipe.model, recipe.adapter).get_base_model()
    found = plan.weigh(causal, "none", value_bytes=4, devices=devices)
    first = sum(
        torch.chunk(weight, devices)[0].numel()
        for block in blocks_of(causal)
        for name, weight in block.named_parameters()
        if "lora_" not in name
    )

    assert found.shared == 4 * first
    assert found.layer == 0


def test_memory_to_load_is_told_where_each_of_several_loads_the_base() -> None:
    told = {n: plan.lines(on_paper("article-c", n))[-1][0] for n in (1, 2)}

    assert told == {1: "80 GB cards", 2: "main memory to load"}


def test_each_device_computes_its_own_pairs_and_has_the_whole_adapter() -> None:
    recipe = load_recipe("article-c")
    shape = shape_of(meta_model(recipe.model, recipe.adapter))
    memories = {n: on_paper("article-c", n)["memory_bytes"] for n in (1, 2, 4, 8)}
    tokens = {n: on_paper("article-c", n)["tokens_at_once"] for n in (1, 4, 8)}

    assert tokens == {1: 4096, 4: 4096, 8: 2048}  # a pair is 2,048
    assert memories[8]["activations"] == memories[4]["activations"] / 2
    for n in (2, 4, 8):
        more = memories[n]["adapter_and_optimizer"] - memories[1]["adapter_and_optimizer"]
        assert more == 4 * shape.trainable
        assert memories[n]["whole_weights"] == memories[1]["whole_weights"]


def test_an_8b_fits_two_cards_of_24_gb_and_a_70b_eight_of_them() -> None:
    two = on_paper("article-c", 2, CHECKPOINTING)
    eight = on_paper("article-c", 8, CHECKPOINTING, LLAMA_70B)
    too_few = on_paper("article-c", 2, CHECKPOINTING, LLAMA_70B)
    text = "\n".join(" ".join(line) for line in plan.lines(too_few))

    assert two["cards"]["24 GB"]["fits"]["changes"] == []
    assert eight["cards"]["24 GB"]["fits"]["changes"] == []
    assert too_few["cards"]["24 GB"]["fits"] is None
    assert too_few["cards"]["40 GB"]["fits"]["needed_bytes"] <= 0.9 * 40 * 2**30
    assert "24 GB cards too small, whatever training is set to; name more --devices" in text
    assert "main memory to load 2 x 36.8 GiB" in text


def test_what_fits_with_other_settings_is_told_with_them() -> None:
    found = on_paper("article-c", 2)
    fits = found["cards"]["24 GB"]["fits"]
    mended = on_paper("article-c", 2, *fits["changes"])

    assert fits["changes"] == [CHECKPOINTING]
    assert found["memory_bytes"]["total"] > 0.9 * 24 * 2**30
    assert mended["memory_bytes"]["total"] == fits["needed_bytes"] < 0.9 * 24 * 2**30


def test_answers_need_their_cache_beside_the_weights() -> None:
    found = on_paper("article-c", 2, CHECKPOINTING, "evaluation.generated_answers=512")
    memory = found["memory_bytes"]
    standing = sum(memory[name] for name in plan.Share._fields[:5])

    assert on_paper("article-c", 2)["answers_bytes"] == 0
    assert found["answers_bytes"] - standing > 0.9 * 2**32  # as many slots as its bound lets in


@pytest.mark.parametrize("devices", [0, 9])
def test_more_devices_than_pairs_are_refused(devices: int) -> None:
    with pytest.raises(ConfigError, match=r"name between 1 and 8 devices"):
        on_paper("article-c", devices)


def test_the_command_plans_for_cards_that_are_not_here_and_for_processes_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("study.model.base.pick_device", lambda asked: "cpu")
    asked = ["doctor", "--recipe", "tiny-llama", "--devices", "2"]
    cards = CliRunner().invoke(main, asked)
    here = CliRunner().invoke(main, [*asked, "--device", "cpu", "--json"])
    (described,) = json.loads(here.stdout)
    processes = described["plan"]

    assert "On each of 2 cards" in cards.output
    assert "24 GB cards" in cards.output
    assert processes["value_bytes"] == 4
    assert processes["cards"]["local"]["memory_bytes"] == doctor._device_bytes("cpu") // 2


def test_dora_is_planned_for_one_device_alone() -> None:
    asked = ["doctor", "--recipe", "article-b-dora", "--devices"]
    refused = CliRunner().invoke(main, [*asked, "2"])

    assert refused.exit_code == 1
    assert "name one device, or add --set adapter.kind=lora" in refused.output.replace("\n", " ")


def test_devices_without_a_recipe_are_refused() -> None:
    refused = CliRunner().invoke(main, ["doctor", "--devices", "2"])

    assert refused.exit_code == 2
    assert "name it with --recipe" in refused.output
