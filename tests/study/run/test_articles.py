"""The articles' recipes and their twins, on tiny models and pairs of the same forms."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from study.cli import doctor
from study.config.files import recipe_names
from study.config.recipe import Recipe, load_recipe
from study.errors import ConfigError
from study.model.shapes import PUBLISHED_DIMENSIONS
from study.model.workbench import open_workbench
from study.run.optimizer import optimizer_options
from study.run.train import train_run

ARTICLES = [name for name in recipe_names() if name.startswith("article-")]
REDUCED = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}
SMALL = (
    "data.train_pairs=8",
    "data.validation_pairs=4",
    "data.test_pairs=4",
    "training.batch_pairs=4",
    "training.warmup_steps=1",
    "training.log_every_steps=1",
    "training.validate_every_steps=2",
    "training.checkpoint_every_steps=1",
    "training.threads=1",
)

GALORE_STAND_IN = '''
import torch
from galore_torch.galore_projector import GaLoreProjector

class GaLoreAdamW(torch.optim.AdamW):
    """AdamW that keeps a projector for every matrix that it is told to project."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if "rank" in group and parameter.grad is not None:
                    self.state[parameter]["projector"] = GaLoreProjector()

GaLoreAdafactor = GaLoreAdamW8bit = GaLoreAdamW
'''


@pytest.fixture(scope="module")
def model_of(tmp_path_factory) -> Callable[[str], Path]:
    """Return a folder with a tiny random model of the architecture that a name stands for."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from study.model.toy import VOCABULARY_SIZE, train_tokenizer

    tokenizer = train_tokenizer()
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            published = {"model_type": "llama", **PUBLISHED_DIMENSIONS[name]}
            grouped = published["num_key_value_heads"] < published["num_attention_heads"]
            sizes = {"num_key_value_heads": 2 if grouped else 4, "vocab_size": VOCABULARY_SIZE}
            config = AutoConfig.for_model(**{**published, **REDUCED, **sizes})
            folders[name] = tmp_path_factory.mktemp("model")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                AutoModelForCausalLM.from_config(config).save_pretrained(folders[name])
            tokenizer.save_pretrained(folders[name])
        return folders[name]

    return folder_of


@pytest.fixture(scope="module")
def data_of(tmp_path_factory, toy_pairs) -> Callable[[Recipe], Path]:
    """Return a folder of shards in the form of the data set that a recipe names."""
    root = tmp_path_factory.mktemp("data")

    def folder_of(recipe: Recipe) -> Path:
        folder = root / recipe.data.name.replace("/", "-")
        if not folder.exists():
            folder.mkdir()
            rows = [ROWS[recipe.data.name](pair) for pair in toy_pairs[:60]]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{recipe.data.split}-00000-of-00001.jsonl").write_text(text)
        return folder

    return folder_of


def dialogues(pair: Any) -> dict[str, Any]:
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    return {
        name: [{"role": m.role, "content": m.content} for m in (*pair.prompt, *answer)]
        for name, answer in sides.items()
    } | {"prompt": pair.prompt[-1].content}


ROWS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "mlabonne/orpo-dpo-mix-40k": lambda pair: {**dialogues(pair), "source": "a", "question": None},
    "HuggingFaceH4/ultrafeedback_binarized": lambda pair: {
        **dialogues(pair),
        "prompt_id": pair.example_id,
        "messages": dialogues(pair)["chosen"],
        "score_chosen": 8.0,
        "score_rejected": 4.0,
    },
}
"""Data set -> a row in its columns."""


@pytest.fixture
def galore(tmp_path, monkeypatch) -> None:
    """galore-torch, or what stands in for it where it is not installed."""
    from transformers import trainer_optimizer

    if trainer_optimizer.is_galore_torch_available():
        return
    package = tmp_path / "galore_torch"
    package.mkdir()
    (package / "__init__.py").write_text(GALORE_STAND_IN)
    (package / "galore_projector.py").write_text("class GaLoreProjector:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trainer_optimizer, "is_galore_torch_available", lambda: True)
    for name in ("galore_torch", "galore_torch.galore_projector"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def small(model_of, data_of, galore) -> Callable[[str], Recipe]:
    """Return an article's recipe with reduced dimensions: all else is as it is shipped."""

    def reduced(name: str) -> Recipe:
        recipe = load_recipe(name)
        local = [
            f"model.name={model_of(recipe.model.name)}",
            f"data.name={data_of(recipe)}",
            *(() if recipe.training.epochs else ("training.max_steps=2",)),
        ]
        on_cpu = recipe.training.optimizer.replace("galore_adamw_8bit", "galore_adamw")
        return recipe.override([*SMALL, *local, f"training.optimizer={on_cpu}"])

    return reduced


@pytest.mark.filterwarnings("ignore:(Paged optimizers|This implementation of AdamW)")
@pytest.mark.parametrize("name", ARTICLES)
def test_every_article_is_estimated_and_trains_two_updates(name: str, small, tmp_path) -> None:
    recipe = small(name)
    described = doctor.describe(recipe, "cpu")["recipe"]
    workbench = open_workbench(recipe, device="cpu")
    outcome = train_run(
        workbench, arm="orpo", settings=recipe.arms["orpo"], seed=1, folder=tmp_path
    )
    model = workbench.base.model
    moved = {n: p.abs().max() for n, p in model.named_parameters() if "lora_B" in n}
    quantised = any("4bit" in type(module).__name__ for module in model.modules())
    chat_tokens = [n for n, p in model.named_parameters() if "trainable_tokens_delta" in n]

    assert outcome.status == "ok"
    assert outcome.cost["steps"] == 2
    assert len(moved) == described["adapted_projections"] == 7
    assert all(moved.values())
    assert quantised == (recipe.model.quantization == "nf4")
    assert bool(chat_tokens) == (recipe.adapter.chat_tokens == "trained")
    assert described["parameters"]["trainable"] == outcome.parameters["trainable"]
    assert described["runs"]["orpo"]["own_updates"] == 2


@pytest.mark.filterwarnings("ignore:This implementation of AdamW")
def test_galore_projects_the_adapters_matrices_and_is_resumed(small, tmp_path) -> None:
    recipe = small("article-b-galore")
    recipe = recipe.override(["training.max_steps=4"])
    settings = {"learning_rate": 1e-2, "beta": 0.1}
    workbench = open_workbench(recipe, device="cpu")
    whole = train_run(workbench, arm="orpo", settings=settings, seed=1, folder=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train_run(
            workbench,
            arm="orpo",
            settings=settings,
            seed=1,
            folder=tmp_path / "b",
            on_validation=interrupted,
        )
    kept = next((tmp_path / "b").rglob("optimizer.pt"))
    states = torch.load(kept, weights_only=True)["state"].values()
    again = train_run(workbench, arm="orpo", settings=settings, seed=1, folder=tmp_path / "b")

    assert sum("projector" in state for state in states) == 2 * 7
    assert again.validation == whole.validation
    assert optimizer_options(recipe.training) == {
        "optim": "galore_adamw",
        "weight_decay": 0.0,
        "optim_target_modules": r".*\.lora_[AB]\.\w+",
        "optim_args": "rank=8,update_proj_gap=200,scale=0.25",
    }


def interrupted(step: int, _: Any) -> bool:
    if step == 4:
        raise KeyboardInterrupt
    return False


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("galore_adamw", r"needs the package galore-torch \(pip install '\.\[galore\]'\)"),
        ("galore_adamw_8bit", "needs a CUDA device, not cpu; set training.optimizer=galore_adamw"),
    ],
)
def test_an_optimiser_that_cannot_run_here_is_refused_before_anything_is_loaded(
    optimizer: str, message: str, monkeypatch
) -> None:
    from study.config import environment

    found = None if optimizer == "galore_adamw" else object()
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: found)
    recipe = load_recipe("tiny-llama").override(
        ["data.name=nowhere", "model.name=nowhere", f"training.optimizer={optimizer}"]
    )

    with pytest.raises(ConfigError, match=message):
        open_workbench(recipe, device="cpu")
