"""A run's model in memory: its base with its adapter, checked to be the base it was trained on."""

import dataclasses
import gc
from pathlib import Path

import torch

from study.config.recipe import Recipe
from study.engine.forward import use_layout
from study.errors import ModelError
from study.model.adapter import fresh_adapter
from study.model.base import Base, load_base
from study.model.workbench import Workbench, open_workbench
from study.release.chosen import ChosenRun


def open_run(run: ChosenRun, *, device: str, adapter: Path | None = None) -> Workbench:
    """Open the workbench of a run with the run's adapter on its base, or a copy of it.

    Raises:
        ModelError: the base is another one than the run was trained on.
        DataError: the pairs cannot be read any more.
    """
    workbench = open_workbench(run.recipe, device=device)
    attach(workbench.base, run, adapter=adapter)
    return workbench


def load_run(run: ChosenRun, *, device: str) -> Base:
    """Load a run's model without its pairs.

    Raises:
        ModelError: the base is another one than the run was trained on.
    """
    base = load_base(run.recipe.model, device=device)
    attach(base, run)
    return base


def attach(base: Base, run: ChosenRun, *, adapter: Path | None = None) -> None:
    """Put a run's adapter on a base, or on one that already carries another run's.

    Raises:
        ModelError: the base is another one than the run was trained on.
    """
    trained, found = run.record["model"].get("commit"), base.resolved["commit"]
    if trained is not None and trained != found:
        raise ModelError(
            f"{run.name} was trained on {run.recipe.model.name} at {trained}, and this is {found}; "
            "an adapter fits no other base: restore that one, or name its commit with "
            "--set model.revision"
        )
    model = fresh_adapter(base, run.recipe.adapter, seed=run.seed).eval()
    folder = adapter or run.adapter
    if folder is not None:
        from peft import load_peft_weights, set_peft_model_state_dict

        weights = load_peft_weights(str(folder), device=str(base.device))
        set_peft_model_state_dict(model, weights)


def open_folder(folder: Path, recipe: Recipe, like: Workbench, *, device: str) -> Workbench:
    """Open a merged model's folder with the pairs of another workbench.

    Its tokenizer brings its template with it, variables and date written in.
    """
    model = dataclasses.replace(
        recipe.model,
        name=str(folder.absolute()),
        revision="",
        quantization="none",
        chat_template="",
        template_kwargs={},
    )
    base = load_base(model, device=device)
    base.checked = like.base.checked
    if base.checked is not None:
        use_layout(base.causal, base.checked.layout)
    return dataclasses.replace(
        like,
        recipe=dataclasses.replace(recipe, model=model),
        base=base,
        untrained={},
        references={},
    )


def let_go(workbench: Workbench) -> None:
    """Free a workbench's model; its pairs and tokenizer stay."""
    workbench.base.model = None
    workbench.base.initial = None
    gc.unfreeze()
    gc.collect()
    if workbench.device.type == "cuda":
        torch.cuda.empty_cache()
