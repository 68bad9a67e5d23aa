"""Processes that train one run together, on replicas of the base or on parts of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from launched import launch

from study.config.recipe import load_recipe
from study.config.seeds import compare_seeds
from study.errors import ConfigError
from study.model.sharding import bytes_here
from study.records.runs import RunFolder, run_folder
from study.workers.launch import check_shares, run_here
from study.workers.places import Ask, open_place

LAUNCHED = Path(__file__).parents[2] / "launched.py"
MEASURED = {"seconds", "peak_memory_bytes"}
UNEVEN = ("--set=training.batch_pairs=5", "--set=training.microbatch_tokens=150")
"""Three pairs for one process and two for the other, in parts whose numbers differ."""

FSDP = "--set=training.sharding=fsdp"


class Launched(NamedTuple):
    """What a command left behind."""

    code: int
    runs: Path
    notes: list[dict[str, Any]]

    def run(self, arm: str) -> RunFolder:
        (seed,) = compare_seeds(0, 1, recipe="tiny-llama")
        return run_folder(self.runs, "tiny-llama", arm, seed)

    def steps(self, arm: str, split: str) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in row.items() if name not in MEASURED}
            for row in self.run(arm).steps()
            if row["split"] == split
        ]


@pytest.fixture(scope="module")
def compare(small_overrides, tmp_path_factory) -> Callable[..., Launched]:
    """Run `study compare` in so many processes; the same command is run once.

    With ``torchrun``, Python and the launcher are started for it as for a user.
    """
    shipped = resources.files("study").joinpath("recipes/tiny-llama.toml").read_text("utf-8")
    folder = tmp_path_factory.mktemp("launched")
    recipe = folder / "kto.toml"
    recipe.write_text(f"{shipped}\n[arms.kto]\nlearning_rate = 3e-3\nbeta = 0.1\n")
    known: dict[tuple[Any, ...], Launched] = {}

    def run(
        n: int, *options: str, runs: Path | None = None, die: int = 0, torchrun: bool = False
    ) -> Launched:
        key = (n, options, runs, die)
        if key in known:
            return known[key]
        notes = folder / f"notes-{len(known)}"
        notes.mkdir()
        runs = runs or folder / f"runs-{len(known)}"
        words = [str(notes), str(die), "compare", f"--recipe={recipe}", "--seeds=1", "--device=cpu"]
        words += [*(f"--set={text}" for text in small_overrides), *options, f"--runs={runs}"]
        code, said = started(n, words) if torchrun else launch(n, *words)
        assert die or code == 0, said
        found = [json.loads(path.read_text()) for path in sorted(notes.glob("*.json"))]
        known[key] = Launched(code, runs, found)
        return known[key]

    return run


def started(n: int, words: list[str]) -> tuple[int, str]:
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", str(LAUNCHED)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # --device=cpu is not enough
    done = subprocess.run(
        [sys.executable, *many, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def assert_same(one: Launched, two: Launched, arm: str) -> None:
    """Losses, gradients, scores and answers differ in rounding alone, well below 1e-5."""
    names = ("loss", "nll", "chosen_logps", "grad_norm", "tokens")
    tables = [
        torch.tensor([[row[name] for name in names] for row in launched.steps(arm, "train")])
        for launched in (one, two)
    ]
    torch.testing.assert_close(tables[1], tables[0], rtol=1e-5, atol=1e-6)
    first, second = (launched.run(arm).record() for launched in (one, two))
    assert first is not None
    assert second is not None
    assert second["scores"] == pytest.approx(first["scores"], rel=1e-5, abs=1e-6)
    assert second["parameters"] == first["parameters"]
    assert second["cost"]["train_tokens"] == first["cost"]["train_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_of_a_launch_train_what_one_does(compare, sharding: str) -> None:
    arms = [f"--arm={arm}" for arm in ("sft", "orpo", "kto")]
    one = compare(1, *arms, *UNEVEN)
    options = (*arms, *UNEVEN, f"--set=training.sharding={sharding}")
    two = compare(2, *options, torchrun=sharding == "none")

    assert [notes["processes"] for notes in two.notes] == [2, 2]
    assert [notes.get("shards", 0) for notes in two.notes] == [18 * (sharding == "fsdp")] * 2
    for arm in ("sft", "orpo", "kto"):
        assert_same(one, two, arm)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_each_process_holds_half_of_the_blocks(compare, quantization: str, toy_tokenizer) -> None:
    from conftest import TINY
    from transformers import LlamaConfig, LlamaForCausalLM

    from study.cli.plan import weigh
    from study.model.toy import VOCABULARY_SIZE

    options = of_nf4() if quantization == "nf4" else ("--arm=sft", "--arm=orpo", "--arm=kto")
    two = compare(2, *options, *UNEVEN, FSDP)
    whole, *held = [two.notes[0]["bytes_before"], *(notes["bytes_here"] for notes in two.notes)]
    n_tokens = len(toy_tokenizer.tokenizer)
    config = LlamaConfig(vocab_size=max(n_tokens, VOCABULARY_SIZE), **TINY)
    planned = weigh(LlamaForCausalLM(config), quantization, value_bytes=4, devices=2)
    alone = weigh(LlamaForCausalLM(config), quantization, value_bytes=4, devices=1)

    assert held == [planned.shared + planned.whole] * 2
    assert whole == alone.shared + alone.whole
    assert planned.shared == alone.shared / 2
    assert whole - held[0] == alone.shared - planned.shared > 0


def of_nf4() -> tuple[str, ...]:
    return (
        "--arm=orpo",
        "--set=model.quantization=nf4",
        "--set=training.gradient_checkpointing=true",
    )


@pytest.mark.slow
def test_a_shared_base_in_nf4_trains_what_a_whole_one_does(compare) -> None:
    one = compare(1, *of_nf4(), *UNEVEN)
    two = compare(2, *of_nf4(), *UNEVEN, FSDP)

    assert [notes["processes"] for notes in two.notes] == [2, 2]
    assert_same(one, two, "orpo")


@pytest.mark.slow
def test_killed_processes_go_on_from_their_checkpoint_to_the_same_end(compare, tmp_path) -> None:
    from safetensors.torch import load_file

    arms = [f"--arm={arm}" for arm in ("sft", "orpo", "kto")]
    undisturbed = compare(2, *arms, *UNEVEN, FSDP)
    options = ("--arm=orpo", *UNEVEN, FSDP)
    killed = compare(2, *options, runs=tmp_path, die=6)
    left = [path.name for path in (killed.run("orpo").path / "trainer").iterdir()]
    resumed = compare(2, *options, runs=tmp_path)

    assert killed.code != 0
    assert left == ["checkpoint-4"]
    assert killed.run("orpo").path == resumed.run("orpo").path
    for split in ("train", "validation"):
        assert resumed.steps("orpo", split) == undisturbed.steps("orpo", split)
    adapters = [
        load_file(launched.run("orpo").path / "adapter" / "adapter_model.safetensors")
        for launched in (undisturbed, resumed)
    ]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


@pytest.mark.slow
def test_the_adapter_of_a_shared_base_is_saved_whole(compare, small_recipe) -> None:
    from peft import PeftModel

    from study.model.base import load_base

    arms = [f"--arm={arm}" for arm in ("sft", "orpo", "kto")]
    two = compare(2, *arms, *UNEVEN, FSDP)
    base = load_base(small_recipe.model, device="cpu")
    model = PeftModel.from_pretrained(base.model, two.run("orpo").path / "adapter")
    lora = {name: p for name, p in model.named_parameters() if "lora_" in name}

    assert len(lora) == 2 * 7 * 2
    assert all(p.abs().sum() > 0 for p in lora.values())
    assert {tuple(p.shape)[0 if "lora_A" in name else 1] for name, p in lora.items()} == {
        small_recipe.adapter.rank
    }


def test_bytes_of_a_whole_model_are_those_of_its_weights() -> None:
    assert bytes_here(torch.nn.Linear(3, 5, dtype=torch.bfloat16)) == 2 * (15 + 5)


def test_one_process_cannot_share_a_base_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    recipe = load_recipe("tiny-llama").override(["training.sharding=fsdp"])

    for on in ("local", "ray", "slurm"):
        with pytest.raises(ConfigError, match=r"this is one process; start compare with `accel"):
            open_place(on, Ask(recipes=[recipe], device="cpu", workers=None, quiet=True))


def test_what_reads_whole_weights_cannot_be_combined_with_a_shared_base() -> None:
    with pytest.raises(ConfigError, match=r"'fsdp' and adapter.kind 'dora'.* set adapter.kind to"):
        load_recipe("tiny-llama").override(["training.sharding=fsdp", "adapter.kind=dora"])


def test_accelerate_is_not_to_shard_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")

    with pytest.raises(ConfigError, match=r"--use_fsdp.*--set training.sharding=fsdp"):
        check_shares([load_recipe("tiny-llama")])


def test_a_cpu_is_not_joined_over_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = SimpleNamespace(device=torch.device("cuda:0"), local_process_index=0)
    monkeypatch.setattr("study.workers.launch.join", lambda: joined)

    with pytest.raises(ConfigError, match=r"joined its processes over cuda; .* launch --cpu"):
        run_here([], device="cpu")


def test_a_model_without_known_blocks_is_refused() -> None:
    from conftest import TINY
    from transformers import LlamaConfig, LlamaForCausalLM

    from study.errors import ModelError
    from study.model.sharding import blocks_of

    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **TINY))
    assert [type(block).__name__ for block in blocks_of(model)] == ["LlamaDecoderLayer"] * 2

    model._no_split_modules = None
    with pytest.raises(ModelError, match=r"does not name the blocks of LlamaForCausalLM"):
        blocks_of(model)
