"""Benchmark tasks: which belong to a group, what counts in each, and the ones that ship here."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from study.errors import ConfigError, nearest

EMBEDDED = ("days", "opposites", "kinds", "colours", "sums")
"""Questions in the embedded study's language, four answers each, written for this study; those of
``colours`` come in pairs about one passage. In its pairs somebody with a name always asks."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tasks that are averaged together."""

    name: str
    tasks: tuple[str, ...]
    chat: bool
    """Whether questions are put through the chat template."""
    n_shots: int | None = None
    """Solved examples before every question; None takes each task's own."""
    about: str = ""


GROUPS = {
    group.name: group
    for group in (
        Group(
            name="embedded",
            tasks=tuple(f"study_{name}" for name in EMBEDDED),
            chat=True,
            n_shots=0,
            about="five short tasks in the embedded study's language, shipped",
        ),
        Group(
            name="quick",
            tasks=("arc_challenge", "winogrande", "truthfulqa_mc2"),
            chat=False,
            n_shots=0,
            about="three short public tasks",
        ),
        Group(
            name="article-c",
            tasks=(
                "agieval_aqua_rat",
                "agieval_logiqa_en",
                "agieval_lsat_ar",
                "agieval_lsat_lr",
                "agieval_lsat_rc",
                "agieval_sat_en",
                "agieval_sat_en_without_passage",
                "agieval_sat_math",
                "arc_challenge",
                "arc_easy",
                "boolq",
                "hellaswag",
                "openbookqa",
                "piqa",
                "winogrande",
                "truthfulqa_mc2",
            ),
            chat=False,
            n_shots=0,
            about="AGIEval, GPT4All and TruthfulQA as LLM AutoEval ran them for article C. Not "
            "number-identical: BigBench is left out, tasks are averaged with equal weight and "
            "above chance, and the harness is a later one than AutoEval's",
        ),
    )
}

METRICS = ("acc_norm", "acc")
"""What counts where a task has both, as in LLM AutoEval; ``acc`` in those of `PLAIN`."""

PLAIN = ("winogrande", "boolq", "truthfulqa_mc2", *GROUPS["embedded"].tasks)


def group_of(name: str | None, *, tasks: tuple[str, ...], model: str, chat: bool) -> Group:
    """Return a group by its name, one of tasks of the user's, or what suits a model.

    Raises:
        ConfigError: there is no such group.
    """
    if tasks:
        return Group(name=name or "+".join(tasks), tasks=tasks, chat=chat)
    name = name or ("embedded" if model.startswith("toy:") else "quick")
    if name not in GROUPS:
        raise ConfigError(
            f"there is no group {name!r}{nearest(name, GROUPS)}; groups are {', '.join(GROUPS)}; "
            "for tasks of the harness or of yours give --task, and --include FOLDER"
        )
    return GROUPS[name]


def harness_task(name: str) -> str | dict[str, Any]:
    """Return what the harness is told for a task: its name, or a shipped one's description."""
    short = name.removeprefix("study_")
    if short == name or short not in EMBEDDED:
        return name
    path = Path(str(resources.files("study").joinpath(f"release/questions/{short}.jsonl")))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def metric_of(task: str, scores: dict[str, Any]) -> str:
    """Return which of a task's item scores counts.

    Raises:
        ConfigError: it has none that is known.
    """
    names = ("acc",) if task in PLAIN else METRICS
    found = next((name for name in names if name in scores), None)
    if found is None:
        raise ConfigError(
            f"task {task} has no accuracy of single items; only tasks with acc or acc_norm can be "
            "compared here"
        )
    return found


def chance_of(doc: dict[str, Any], n_choices: int) -> float:
    """Return what guessing scores on one item."""
    marked = doc.get("mc2_targets")
    if isinstance(marked, dict) and marked.get("labels"):
        return float(sum(marked["labels"]) / len(marked["labels"]))
    return 1 / n_choices if n_choices else 0.0
