"""Which objective finds settings that do well on unseen pairs: the trials behind it.

``nox -s objectives``, or ``python -m study.search.evidence``, trains settings
spread evenly over the spaces of the embedded study, every trial to its end, and
writes for each what every objective said at every validation and what the test
pairs said at the end. ``analysis.statistics.objectives`` reads the file.

A search never sees test pairs; this is no search, and its pairs are drawn with
another seed (``DATA_SEED``) than those on which the published arms are compared.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.arms import ARMS, Settings
from study.config.canonical import digest
from study.config.environment import quieten
from study.config.recipe import Recipe, load_recipe
from study.config.seeds import search_seed
from study.records.files import append_jsonl, read_jsonl
from study.records.locks import hold

if TYPE_CHECKING:
    from study.model.workbench import Workbench

RECIPES = ("tiny-smollm2", "tiny-llama")
DATA_SEED = 43
TRIALS_PER_HYPERPARAMETER = 12
TEST_SCORES = ("accuracy", "margin", "nll", "ranking", "exact_match", "rougeL")


def main() -> None:
    """Make the trials that a file lacks; its path is the one argument."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/published/objectives.jsonl")
    quieten()
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold(path.with_name(f".{path.name}.lock"), wait=True):
        for name in RECIPES:
            collect(load_recipe(name).override([f"data.seed={DATA_SEED}"]), path)


def collect(recipe: Recipe, path: Path) -> None:
    """Append to a file the trials of one recipe that it does not hold yet."""
    from study.model.workbench import open_workbench

    known = {row["key"] for row in read_jsonl(path)}
    wanted = [
        (arm, settings)
        for arm, settings in planned(recipe)
        if trial_key(recipe, arm, settings) not in known
    ]
    if not wanted:
        return
    workbench = open_workbench(recipe, device="cpu")
    for n, (arm, settings) in enumerate(wanted, 1):
        append_jsonl(path, measure(workbench, arm, settings))
        click.echo(f"{recipe.name}: {n} of {len(wanted)}")


def planned(recipe: Recipe) -> Iterator[tuple[str, Settings]]:
    """Yield the settings to train, the arms that continue no other in turn.

    Points of Roberts's additive recurrence (2018), which fill a space evenly at
    any number, on the logarithms of the recipe's ranges.
    """
    afresh = [arm for arm in recipe.search.space if ARMS[arm].starts_from is None]
    points = [[(arm, settings) for settings in spread(recipe, arm)] for arm in afresh]
    for turn in zip_longest(*points):
        yield from filter(None, turn)


def spread(recipe: Recipe, arm: str) -> list[Settings]:
    """Return settings spread evenly over an arm's space."""
    space = recipe.search.space[arm]
    root = 1.5  # of x^(d + 1) = x + 1: the golden ratio for d = 1
    for _ in range(50):
        root = (1 + root) ** (1 / (len(space) + 1))
    return [
        {
            name: float(f"{low * (high / low) ** ((0.5 + n * root**-axis) % 1):.4g}")
            for axis, (name, (low, high)) in enumerate(space.items(), 1)
        }
        for n in range(1, TRIALS_PER_HYPERPARAMETER * len(space) + 1)
    ]


def trial_key(recipe: Recipe, arm: str, settings: Settings) -> str:
    """Name a trial by all that it depends on."""
    parts = [recipe.model, recipe.adapter, recipe.data, recipe.training, recipe.evaluation]
    return digest([recipe.name, arm, dict(settings), *(repr(part) for part in parts)])[:16]


def measure(workbench: "Workbench", arm: str, settings: Settings) -> dict[str, Any]:
    """Train one trial to its end; return its scores at every validation and on test pairs."""
    from study.run.answers import generate, generation_scores, validation_rouge
    from study.run.scores import preference_scores, score_pairs
    from study.run.train import train_run

    recipe, steps = workbench.recipe, []

    def on_validation(step: int, scores: Mapping[str, float]) -> bool:
        steps.append({"step": step, **_rounded(scores)})
        return False

    outcome = train_run(
        workbench,
        arm=arm,
        settings=settings,
        seed=search_seed(0),
        folder=None,
        on_validation=on_validation,
    )
    row: dict[str, Any] = {
        "key": trial_key(recipe, arm, settings),
        "recipe": recipe.name,
        "arm": arm,
        "settings": dict(settings),
        "status": outcome.status,
        "steps": steps,
    }
    if outcome.status == "ok":
        test = preference_scores(score_pairs(workbench, workbench.test))
        answered = workbench.test[: recipe.evaluation.generated_answers]
        test |= generation_scores(generate(workbench, answered))
        row["rougeL"] = round(validation_rouge(workbench), 6)
        row["test"] = _rounded({name: test[name] for name in TEST_SCORES})
    return row


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in scores.items() if math.isfinite(value)}


if __name__ == "__main__":
    main()
