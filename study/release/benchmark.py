"""Benchmark scores of runs by lm-evaluation-harness, item by item, beside their records."""

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from study.arms import UNTRAINED
from study.config.canonical import digest
from study.errors import ConfigError, RecordError, first_line
from study.records.files import checksum, write_sealed
from study.records.layout import benchmark_path, release_path
from study.records.notice import heed
from study.records.released import BenchmarkScores, Release
from study.records.schema import SCHEMA, read_as
from study.release.chosen import ChosenRun
from study.release.loaded import attach, load_run
from study.release.tasks import Group, chance_of, harness_task, metric_of

Form = Literal["adapter", "merged"]


@dataclass(frozen=True, kw_only=True)
class How:
    """How items are scored; all runs of a comparison alike."""

    group: Group
    limit: int | None = None
    """Items of every task at most; None for all."""
    include: Path | None = None
    """Folder of task files of the user's own."""
    device: str = "cpu"


def benchmark(
    runs: Sequence[ChosenRun], how: How, *, forms: Sequence[Form], say: Callable[[str], None]
) -> list[BenchmarkScores]:
    """Score runs of one recipe on every task of a group; what is scored already is kept.

    Args:
        runs: runs that share a base.
        how: tasks and how they are asked.
        forms: ``adapter`` scores a run on its base, ``merged`` its export.
        say: told what is going on.

    Raises:
        ConfigError: the harness is not installed, or knows no such task.
        RecordError: a merged model was never exported, or is another run's.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "benchmarks need lm-evaluation-harness: pip install 'orpo-study[benchmarks]', in this "
            "project's folder pip install '.[benchmarks]'"
        )
    found: list[BenchmarkScores] = []
    for form in forms:
        base = None
        for run in runs:
            if form == "merged" and run.arm == UNTRAINED:
                continue  # nothing to merge
            weights = _merged(run) if form == "merged" else run.record["digest"]
            known = {task: _known(run, form, task, how, weights) for task in how.group.tasks}
            found += [one for one in known.values() if one is not None]
            missing = [task for task, one in known.items() if one is None]
            if not missing:
                continue
            if form == "merged":
                model, tokenizer = _load_merged(run, how.device)
            else:
                base = base or load_run(run, device=how.device)
                attach(base, run)
                model, tokenizer = base.model, base.tokenizer
            for task in missing:
                heed()
                say(f"{run.name}, {form}: {task}")
                found.append(_score(run, form, task, how, (model, tokenizer, weights)))
    return found


def _known(run: ChosenRun, form: Form, task: str, how: How, weights: str) -> BenchmarkScores | None:
    """Return what is on record, where it was asked in the same way of the same weights."""
    path = benchmark_path(run.folder.path, form, task)
    try:
        found = read_as(path, BenchmarkScores)
    except RecordError:
        return None  # damaged: it is scored again
    if found is None or found["asked"] != _asked(how, task, weights):
        return None
    if how.group.name not in found["groups"]:
        found["groups"].append(how.group.name)
        write_sealed(path, found)
    return found


def _asked(how: How, task: str, weights: str) -> str:
    """Name what a task's scores depend on beside the run."""
    told = harness_task(task)
    files = []
    if isinstance(told, dict):
        data = Path(told["dataset_kwargs"]["data_files"]["test"])
        files, told = [checksum(data)], {**told, "dataset_kwargs": {}}
    elif how.include is not None:
        files = [checksum(path) for path in sorted(how.include.rglob("*")) if path.is_file()]
    parts = [how.group.chat, how.group.n_shots, how.limit, weights, _version()]
    return digest([told, *files, *parts])


def _version() -> str:
    return metadata.version("lm_eval")


def _merged(run: ChosenRun) -> str:
    """Return what names the weights of a run's merged export.

    Raises:
        RecordError: there is none, or of another run.
    """
    path = release_path(run.runs, run.recipe.name, run.arm, run.seed, "merged")
    record = read_as(path, Release)
    if record is None or record["digest"] != run.record["digest"]:
        raise RecordError(
            f"{run.name} has no merged export; make it first: study export {run.folder.path} "
            f"--merged --runs {run.runs}"
        )
    return digest({k: v for k, v in record["files"].items() if k.endswith(".safetensors")})


def _load_merged(run: ChosenRun, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = release_path(run.runs, run.recipe.name, run.arm, run.seed, "merged")
    record = read_as(path, Release)
    assert record is not None
    dtype = getattr(torch, run.recipe.model.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        record["folder"], dtype=dtype, device_map={"": device}
    )
    return model.eval(), AutoTokenizer.from_pretrained(record["folder"])


def _score(
    run: ChosenRun, form: Form, task: str, how: How, loaded: tuple[Any, Any, str]
) -> BenchmarkScores:
    """Let the harness score one task, and keep every item's score."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer, weights = loaded
    began = time.perf_counter()
    include = None if how.include is None else str(how.include)
    with _kept_tied(model), _quiet():
        manager = TaskManager(
            include_path=include, include_defaults=not isinstance(harness_task(task), dict)
        )
        try:
            results: Any = lm_eval.simple_evaluate(
                HFLM(
                    pretrained=model,
                    tokenizer=tokenizer,
                    batch_size=run.recipe.evaluation.batch_pairs,
                ),
                tasks=[harness_task(task)],
                task_manager=manager,
                num_fewshot=how.group.n_shots,
                limit=how.limit,
                apply_chat_template=how.group.chat,
                bootstrap_iters=0,
                log_samples=True,
            )
        except (KeyError, ValueError, OSError) as error:
            raise ConfigError(
                f"the harness cannot run task {task!r}: {type(error).__name__}: "
                f"{first_line(error)}; `lm_eval ls tasks` lists what it knows, --include FOLDER "
                "adds yours; data that are not on this machine need a connection"
            ) from error
    items = sorted(results["samples"][task], key=lambda item: item["doc_id"])
    metric = metric_of(task, items[0])
    docs = [item["doc"] for item in items]
    passages = [doc.get("passage") for doc in docs]
    chances = [
        chance_of(doc, len(item["arguments"])) for doc, item in zip(docs, items, strict=True)
    ]
    record: BenchmarkScores = {
        "schema": SCHEMA,
        "recipe": run.recipe.name,
        "arm": run.arm,
        "seed": run.seed,
        "digest": run.record["digest"],
        "form": form,
        "groups": [how.group.name],
        "task": task,
        "metric": metric,
        "asked": _asked(how, task, weights),
        "chance": sum(chances) / len(chances),
        "items": [str(item["doc_hash"]) for item in items],
        "scores": [float(item[metric]) for item in items],
        "passages": [str(p) for p in passages] if all(passages) else None,
        "chat": how.group.chat,
        "shots": how.group.n_shots,
        "limit": how.limit,
        "harness": _version(),
        "seconds": round(time.perf_counter() - began, 2),
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_sealed(benchmark_path(run.folder.path, form, task), record)
    return record


@contextlib.contextmanager
def _kept_tied(model: Any) -> Iterator[None]:
    """Keep the harness from tying weights again, which PEFT's trained token rows do not bear.

    They are tied since the model was loaded (huggingface/peft wraps the embedding and the
    output layer, and ``tie_weights`` looks for weights that these wrappers do not have).
    """
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's own lines and progress from between ours, and git's, which it asks."""
    from lm_eval import evaluator

    asked, evaluator.get_git_commit_hash = evaluator.get_git_commit_hash, lambda: None
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            evaluator.get_git_commit_hash = asked
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
