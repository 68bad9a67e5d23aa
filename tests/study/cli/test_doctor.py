"""What the doctor counts is right, and its memory estimate bounds the engine's use."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_records import narrowed

from study.cli import doctor, duration
from study.cli.memory import activation_bytes, answer_memory, pass_tokens, step_memory
from study.config.recipe import Recipe, load_recipe
from study.engine import precision
from study.errors import ModelError
from study.model.jobs import Job
from study.model.shapes import CHATML_IDS, PUBLISHED_DIMENSIONS, model_config
from study.workers.devices import Slot

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def llama_parameters(dimensions: dict[str, Any]) -> int:
    """Count a Llama's or a Mistral's weights by hand."""
    hidden, inner = dimensions["hidden_size"], dimensions["intermediate_size"]
    key_value = hidden // dimensions["num_attention_heads"] * dimensions["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner + 2 * hidden
    tables = 1 if dimensions["tie_word_embeddings"] else 2
    vocabulary = tables * dimensions["vocab_size"] * hidden
    return vocabulary + dimensions["num_hidden_layers"] * layer + hidden


@pytest.mark.parametrize(
    ("name", "total", "layers"),
    [
        ("smollm2-1.7b", 1_711_376_384, 24),
        ("llama-3.2-1b", 1_235_814_400, 16),
        ("article-b", 7_241_732_096, 32),
        ("article-c", 8_030_261_248, 32),
    ],
)
def test_full_size_models_have_their_published_size_and_adapters_everywhere(
    name: str, total: int, layers: int
) -> None:
    recipe = load_recipe(name)
    model = doctor.meta_model(recipe.model, recipe.adapter)
    shape = doctor.shape_of(model)
    adapted = {path.rpartition(".")[2] for path, m in model.named_modules() if hasattr(m, "lora_A")}

    dimensions = dict(PUBLISHED_DIMENSIONS[recipe.model.name])
    assert shape.linear_weights + shape.other_weights == total == llama_parameters(dimensions)
    assert adapted == PROJECTIONS
    assert shape.n_adapted == 7 * layers
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_trained_parameters_are_two_matrices_a_projection_and_two_tokens() -> None:
    recipe = load_recipe("llama-3.2-1b")
    shape = doctor.shape_of(doctor.meta_model(recipe.model, recipe.adapter))
    hidden, inner, key_value, rank = 2048, 8192, 512, 32
    features = 2 * (hidden + hidden) + 2 * (hidden + key_value) + 3 * (hidden + inner)

    assert shape.trainable == 16 * rank * features + 2 * hidden
    assert shape.adapted_inputs == 16 * (6 * hidden + inner)
    assert shape.adapter_ranks == 16 * 7 * rank


def test_nf4_needs_half_a_byte_and_its_scales() -> None:
    recipe = load_recipe("smollm2-1.7b")
    shape = doctor.shape_of(doctor.meta_model(recipe.model, recipe.adapter))
    memory = doctor.step_memory(recipe, shape, device="cuda", value_bytes=2)
    plain = recipe.override(["model.quantization=none"])

    linear = 24 * (4 * 2048**2 + 3 * 2048 * 8192)
    scales = linear / 64 + linear / 64 / 256 * 4
    assert memory.weights == linear / 2 + scales + 2 * (1_711_376_384 - linear)
    assert doctor.step_memory(plain, shape, device="cuda", value_bytes=2).weights == 2 * 1711376384


@pytest.mark.parametrize(
    ("assignments", "part", "more"),
    [
        (["training.microbatch_tokens=2048"], "activations", False),
        (["training.gradient_checkpointing=true"], "activations", False),
        (["data.max_length_tokens=4096"], "activations", True),
        (["training.optimizer=paged_adamw_8bit"], "adapter_and_optimizer", False),
        (["adapter.chat_tokens=frozen"], "adapter_and_optimizer", False),
        (["model.quantization=none"], "weights", True),
        (["adapter.rank=64"], "adapter_and_optimizer", True),
    ],
)
def test_the_estimate_follows_the_recipe(assignments: list[str], part: str, more: bool) -> None:
    def part_of(recipe: Recipe) -> int:
        shape = doctor.shape_of(doctor.meta_model(recipe.model, recipe.adapter))
        return int(getattr(doctor.step_memory(recipe, shape, device="cuda", value_bytes=2), part))

    recipe = load_recipe("llama-3.2-1b")
    assert (part_of(recipe.override(assignments)) > part_of(recipe)) == more
    assert part_of(recipe.override(assignments)) != part_of(recipe)


@pytest.mark.parametrize(
    ("name", "kind", "dtype", "dropout"),
    [
        ("tiny-llama", "lora", "float32", 0.0),
        ("tiny-llama", "rslora", "bfloat16", 0.1),
        ("tiny-smollm2", "lora", "float32", 0.1),
        ("tiny-smollm2", "lora", "bfloat16", 0.0),
        ("tiny-smollm2", "dora", "bfloat16", 0.1),
    ],
)
def test_activations_are_what_the_engine_keeps_for_the_backward_pass(
    name: str, kind: str, dtype: str, dropout: float
) -> None:
    shipped = narrowed(load_recipe(name), "sft", "orpo")  # which stand dropout
    recipe = shipped.override(
        [f"adapter.dropout={dropout}", f"adapter.kind={kind}", "data.max_length_tokens=122"]
    )
    shape = doctor.shape_of(doctor.meta_model(recipe.model, recipe.adapter))
    kept, n_tokens = bytes_kept_by_a_forward_pass(recipe, dtype)
    value_bytes = 2 if dtype == "bfloat16" else 4
    of_token = activation_bytes(shape, recipe, device="cpu", value_bytes=value_bytes)
    estimate = n_tokens * of_token

    assert 0.85 * kept < estimate < 1.15 * kept


@pytest.mark.parametrize(
    ("assignments", "slots", "cache_tokens"),
    [
        ([], 45, 45 * 256),  # 11.8 MB a slot of 512 MiB
        (["evaluation.max_new_tokens=32"], 64, 64 * 160),
        (["evaluation.generated_answers=12"], 12, 12 * 256),
        (["model.dtype=bfloat16"], 64, 64 * 256),
    ],
)
def test_the_memory_of_answers_is_bounded_by_their_slots(assignments, slots, cache_tokens) -> None:
    recipe = load_recipe("smollm2-135m").override(assignments)
    described = doctor.describe(recipe, "cpu")
    answers = described["recipe"]["answers"]
    value_bytes = 2 if assignments == ["model.dtype=bfloat16"] else 4
    of_token = 2 * 30 * 192 * value_bytes

    assert answers["slots"] == slots
    assert answers["memory_bytes"]["cache"] == cache_tokens * of_token <= 2**29
    assert answers["cache_bound_bytes"] == 2**29
    assert f"{slots} at a time, of " in doctor.as_text(described)


def test_a_recipe_without_answers_needs_no_memory_for_them() -> None:
    recipe = load_recipe("article-c")
    text = doctor.as_text(described := doctor.describe(recipe, "cpu"))

    assert recipe.evaluation.generated_answers == 0
    assert described["recipe"]["answers"]["memory_bytes"]["total"] == 0
    assert "memory of answers       none: " in text
    assert " at a time" not in text


@pytest.mark.parametrize("multiplies_16_bits", [True, False])
def test_weights_are_laid_out_once_more_for_answers_in_float32(
    multiplies_16_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_multiplies", lambda dtype: multiplies_16_bits)
    recipe = load_recipe("smollm2-135m")
    shape = doctor.shape_of(doctor.meta_model(recipe.model, recipe.adapter))
    copies = {
        (device, n): answer_memory(recipe, shape, device=device, value_bytes=n)[0].copies_of_weights
        for device in ("cpu", "cuda")
        for n in (2, 4)
    }

    output = 49_152 * 576
    assert copies["cpu", 4] == 4 * (shape.linear_weights + output) == 4 * (106_168_320 + output)
    assert copies["cuda", 4] == 4 * shape.linear_weights
    assert copies["cpu", 2] == (0 if multiplies_16_bits else 2 * 4 * output)
    assert copies["cuda", 2] == 0


def test_logits_in_float32_are_counted_where_16_bits_cannot_be_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load_recipe("smollm2-135m")
    shape = doctor.shape_of(doctor.meta_model(recipe.model, recipe.adapter))
    logits = {}
    for can in (True, False):
        monkeypatch.setattr(precision, "_multiplies", lambda dtype, can=can: can)
        logits[can] = step_memory(recipe, shape, device="cpu", value_bytes=2).logits

    weight, states = 4 * 49_152 * 576, 2 * 2 * 576 * pass_tokens(recipe, "cpu", 2)
    assert logits[False] - logits[True] - weight - states == 2 * 2 * 2**21


def test_a_recipe_that_does_not_fit_is_told_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("llama-3.2-1b")
    monkeypatch.setattr(doctor, "_device_bytes", lambda device: 14 * 2**30)
    (warning,) = doctor.describe(recipe, "cpu")["recipe"]["warnings"]
    changes = [word for word in warning.split() if word.startswith("training.")]
    mended = doctor.describe(recipe.override(changes), "cpu")["recipe"]

    assert "of 14.0 GiB on cpu; it fits with --set training." in warning
    assert changes
    assert mended["warnings"] == []


def test_a_recipe_that_can_never_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_device_bytes", lambda device: 2**20)
    (warning,) = doctor.describe(load_recipe("tiny-llama"), "cpu")["recipe"]["warnings"]

    assert "no setting of training makes it fit" in warning


def test_a_machine_is_described_without_a_recipe() -> None:
    description = doctor.describe(None, "cpu")
    text = doctor.as_text(description)

    assert json.loads(json.dumps(description)) == description
    assert description["device"] == "cpu"
    assert description["recipe"] is None
    assert description["machine"]["versions"]["torch"] in text


def test_a_recipe_is_described_in_words() -> None:
    text = doctor.as_text(doctor.describe(load_recipe("smollm2-1.7b"), "cpu"))

    assert "1,711,376,384 in the base" in text
    assert "36,179,968 in 168 adapters" in text
    assert "activations" in text


def test_every_pass_of_a_run_is_counted_before_its_pairs_are_read() -> None:
    recipe = load_recipe("tiny-llama")
    settings = {"learning_rate": 1e-4, "beta": 0.1}
    added = {"dpo": settings, "kto": settings, "sft-matched": {"learning_rate": 1e-4}}
    both = dataclasses.replace(recipe, arms={**recipe.arms, **added})
    described = doctor.describe(both, "cpu")
    tokens = {arm: run["tokens"] for arm, run in described["recipe"]["runs"].items()}
    pairs, chosen, pair = 96 * 16, 160, 1 + 2 * 159

    assert tokens["sft"] == pairs * chosen
    assert tokens["orpo"] == pairs * pair
    assert tokens["dpo"] == pairs / 2 * (chosen + 2 * pair)
    assert tokens["kto"] == tokens["sft-matched"] == pairs / 2 * (chosen + 4 * pair)
    assert "in 48 updates of sft, then 48 updates" in doctor.as_text(described)


def test_a_local_folder_in_the_hubs_layout_is_read(tmp_path: Path) -> None:
    from study.model.toy import base_config

    base_config("llama").save_pretrained(tmp_path)
    recipe = load_recipe("tiny-llama")
    local = recipe.override([f"model.name={tmp_path}"])

    described = [doctor.describe(r, "cpu")["recipe"]["parameters"] for r in (recipe, local)]
    assert described[0] == described[1]


def test_a_model_without_configuration_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("tiny-llama").override([f"model.name={tmp_path}"])

    with pytest.raises(ModelError, match="cannot read the configuration of"):
        doctor.describe(recipe, "cpu")


def test_an_adapter_without_a_place_is_refused() -> None:
    recipe = load_recipe("tiny-llama").override(["adapter.target_modules=['c_attn']"])

    with pytest.raises(ModelError, match="c_attn"):
        doctor.describe(recipe, "cpu")


def test_an_absent_device_is_refused() -> None:
    with pytest.raises(ModelError, match="--device"):
        doctor.describe(None, "quantum")


def test_a_model_on_pypi_is_described_before_it_is_fetched(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / "cache"))
    text = doctor.as_text(doctor.describe(load_recipe("smollm2-135m"), "cpu"))

    assert "134,515,008 in the base" in text
    assert not (tmp_path / "cache").exists()


def part(train_s: float, steps: int, reference_s: float = 0.0) -> dict[str, float]:
    """Return what was timed of an arm."""
    step = {"step_s": 3.0, "step_tokens": 600, "step_peak_bytes": 2**30}
    return {**step, "train_s": train_s, "steps": steps, "reference_s": reference_s}


PARTS = {
    "arms": {"sft": part(100.0, 48), "orpo": part(200.0, 48), "dpo": part(60.0, 24, 15.0)},
    "starts": {"sft": {"train_s": 50.0}},
    "loaded_bytes": 2**29,
    "validate_s": 10.0,
    "score_s": 20.0,
    "answer_s": 30.0,
}


@pytest.mark.parametrize(
    ("pruning", "workers", "search_s", "compare_s"),
    [
        # With validations 120, 220 and 70 s, a start 60; 8 trials and 2 repetitions of each arm,
        # and for two seeds a start and a reference; 3 seeds and the base.
        ("none", 1, [4250, 4250], 3 * (120 + 220 + 70 + 15 + 60 + 3 * 50) + 50),
        ("none", 2, [3050, 3050], (3 * (120 + 220 + 70 + 15 + 60 + 3 * 50) + 50) / 2),
        ("halving", 1, [6 * 410 + 150, 4250], 3 * (120 + 220 + 70 + 15 + 60 + 3 * 50) + 50),
    ],
)
def test_the_whole_study_is_worked_out_from_its_parts(
    pruning: str, workers: int, search_s: list[float], compare_s: float
) -> None:
    changes = ["trials=8", "confirm_top=2", "confirm_seeds=1", f"pruning={pruning}"]
    recipe = narrowed(load_recipe("tiny-llama"), "sft", "orpo", "dpo").override(
        [
            "training.max_steps=48",
            "training.validate_every_steps=24",
            *(f"search.{change}" for change in changes),
        ]
    )
    found = duration._whole(recipe, PARTS, workers)

    assert found == {"search_s": search_s, "compare_s": compare_s}


@pytest.mark.parametrize(
    ("workers", "words"),
    [(1, "one worker, .*; with --workers 2 two are timed"), (2, "2 workers, the machine as busy")],
)
def test_the_text_says_how_many_workers_were_timed(workers: int, words: str) -> None:
    recipe = narrowed(load_recipe("tiny-llama"), "sft", "orpo", "dpo")
    whole = duration._whole(recipe, PARTS, workers)
    told = {**PARTS, **whole, "workers": workers, "batch_pairs": 8, "trials": 8, "repeated": [2, 1]}
    text = dict(duration.lines({**told, "searched": ["sft", "orpo", "dpo"]}, 2**30))

    assert re.search(words, text["timed step"])
    assert "8 trials of sft, orpo and dpo, the best 2" in text["study search"]
    assert "3 seeds of sft, orpo and dpo, and the base" in text["study compare"]


def test_arms_that_continue_another_are_timed_from_a_fresh_adapter(small_overrides) -> None:
    from study.model.workbench import open_workbench
    from study.run.budget import token_parts
    from study.run.timing import SEED, measure_parts

    arms = ("sft", "orpo", "dpo", "kto", "simpo")
    recipe = narrowed(load_recipe("tiny-llama-methods").override(small_overrides), *arms)
    workbench = open_workbench(recipe, device="cpu")
    found = measure_parts(workbench, lambda *_: None)
    times = found["arms"]

    assert set(times) == set(arms)
    assert set(found["starts"]) == {"sft"}
    # All read pairs, as ORPO does; KTO mismatched ones too.
    assert times["dpo"]["step_tokens"] == times["simpo"]["step_tokens"]
    assert times["sft"]["step_tokens"] < times["dpo"]["step_tokens"] < times["kto"]["step_tokens"]
    assert [arm for arm in arms if times[arm]["reference_s"] > 0] == ["dpo", "kto"]
    for arm in arms:
        tokens = token_parts(workbench.train, recipe.training, arm=arm, seed=SEED)
        rate = times[arm]["step_s"] / times[arm]["step_tokens"]
        assert times[arm]["train_s"] == pytest.approx(rate * tokens.own)


def test_a_recipe_is_timed_on_pairs_of_ones_own(small_recipe, monkeypatch) -> None:
    monkeypatch.setattr(duration, "run_jobs", run_here)
    description = doctor.describe(small_recipe, "cpu", timed=True)
    found, text = description["timing"], doctor.as_text(description)
    step = found["arms"]["orpo"]

    assert json.loads(json.dumps(description)) == description
    assert set(found["arms"]) == set(small_recipe.arms)
    assert "of sft and orpo, the best 3 repeated with 2 fresh seeds" in text
    # A step may fit into what an earlier one freed.
    assert 0 < found["loaded_bytes"] <= step["step_peak_bytes"] < 2**33
    assert step["step_tokens"] > found["arms"]["sft"]["step_tokens"]
    assert step["train_s"] > step["step_s"]
    assert min(found["validate_s"], found["score_s"], found["answer_s"]) > 0
    assert 0 < found["search_s"][0] < found["search_s"][1]
    assert "timed step              sft " in text
    assert "40 trials of" in text
    assert "3 seeds of" in text


def test_timing_leaves_the_workbench_as_it_was(workbench, tmp_path, monkeypatch) -> None:
    from study.run.timing import measure_parts

    monkeypatch.chdir(tmp_path)
    measure_parts(workbench, lambda *_: None)

    assert workbench.untrained == {}
    assert len(workbench.validation) == 16
    assert list(tmp_path.iterdir()) == []


def test_answers_are_timed_briefly_and_worked_out_at_full_length(workbench, monkeypatch) -> None:
    from study.run import timing

    clock, asked = [0.0], []

    def answer(brief, pairs) -> None:
        asked.append((len(pairs), brief.recipe.evaluation.max_new_tokens))
        clock[0] += len(pairs) * (3 + 0.25 * (asked[-1][1] - 1))

    monkeypatch.setattr(timing, "SLOTS_ON_CPU", 4)
    monkeypatch.setattr(timing, "TIMED_TOKENS", 3)
    monkeypatch.setattr(timing, "continue_prompts", answer)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    evaluation = workbench.recipe.evaluation
    n_prompts = min(evaluation.generated_answers, len({p.prompt_ids for p in workbench.test}))
    took = timing._answer_s(workbench)

    assert asked == [(4, 1), (4, 1), (4, 3)]
    assert n_prompts > 4
    assert took == pytest.approx(n_prompts * (3 + 0.25 * (evaluation.max_new_tokens - 1)))


def test_pairs_without_a_recipe_are_refused() -> None:
    from click.testing import CliRunner

    from study.cli.commands import main

    done = CliRunner().invoke(main, ["doctor", "--data", "pairs.jsonl"])

    assert done.exit_code == 2
    assert "name it with --recipe" in done.output


def run_here(jobs: Sequence[Job], *, slots: Sequence[Slot]) -> list[Any]:
    """Do in this process what workers would do."""
    from study.model.workbench import open_workbench

    return [
        job.work(open_workbench(job.recipe, device=slots[0].device), lambda *_: None)
        for job in jobs[:1]
    ]


def bytes_kept_by_a_forward_pass(recipe: Recipe, dtype: str) -> tuple[int, int]:
    """Run the engine on full-length pairs; return what autograd keeps in layers, and tokens."""
    import torch
    from transformers import LlamaForCausalLM

    from study.engine.encoded import Encoded
    from study.engine.packing import pack
    from study.model.adapter import fresh_adapter
    from study.model.base import Base, install

    causal = LlamaForCausalLM(model_config(recipe.model)).to(getattr(torch, dtype))
    install(causal)
    causal.requires_grad_(False)
    base = Base(causal, None, torch.device("cpu"), CHATML_IDS)
    model = fresh_adapter(base, recipe.adapter, seed=0).train()
    answer = tuple(range(2, 122))
    pairs = [Encoded.of(str(n), (0, 1), answer, answer[::-1]) for n in range(4)]
    batch = pack(pairs, rejected=True, prompt_nll=False)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(packed=batch)
    return sum(storage.nbytes() for storage in kept.values()), batch["n_tokens"]
