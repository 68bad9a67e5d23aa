"""A run's model as a folder that others can load: written, read back, held against the run."""

import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from study.errors import ModelError, RecordError
from study.model.locate import locate
from study.records.files import checksum, read_json, write_sealed
from study.records.folders import set_aside
from study.records.layout import release_path
from study.records.released import Check, Difference, Release
from study.records.schema import SCHEMA
from study.release.card import facts_of, write_card
from study.release.chosen import ChosenRun, margins_of_interest
from study.release.folder import (
    DTYPES,
    base_files,
    read_config,
    refuse_quantised,
    write_config,
    write_generation,
    write_tokenizer,
)
from study.release.gguf import write_gguf
from study.release.loaded import let_go, open_folder, open_run
from study.release.merge import Parts, describe, merge
from study.release.push import push_folder
from study.release.verify import (
    beyond,
    check_release,
    check_rows,
    differences,
    own_logits,
    rows_and_chats,
    score,
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be exported."""

    form: Literal["adapter", "merged"]
    out: Path | None = None
    """Folder to write; None puts it below the recipe's records."""
    dtype: Literal["bfloat16", "base"] = "bfloat16"
    n_pairs: int = 128
    """Held-out pairs that are scored before and after."""
    n_answers: int = 32
    """Prompts that are answered before and after."""
    force: bool = False
    push: str | None = None
    """Repository on the Hub, ``owner/name``."""
    public: bool = False
    gguf: bool = False
    device: str = "cpu"


def export(run: ChosenRun, wanted: Wanted, *, say: Callable[[str], None]) -> Release:
    """Write one run's model, check it, and record what was found.

    Nothing stands in the folder's place until all checks have passed.

    Raises:
        ModelError: the released model is not the trained one; --force lets it through.
        RecordError: the folder exists, or there is nothing to export.
    """
    if run.adapter is None:
        raise RecordError(f"{run.name} is the untouched base; there is nothing to export")
    began = time.perf_counter()
    folder = _place(run, wanted)
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        scores, checks, (n_pairs, n_answers) = _build(run, wanted, building, say)
        faults = beyond(scores)
        faults += [f"{one['name']}: {one['detail']}" for one in checks if not one["passed"]]
        if faults and not wanted.force:
            raise ModelError(
                f"{run.name} was not exported: what was written is not what was trained:\n  "
                + "\n  ".join(faults)
                + "\n--force exports it all the same and records this"
            )
        if folder.exists():
            say(f"the earlier export is kept in {set_aside(folder, 'old')}")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    for fault in faults:
        say(f"forced: {fault}")
    record: Release = {
        "schema": SCHEMA,
        "recipe": run.recipe.name,
        "arm": run.arm,
        "seed": run.seed,
        "digest": run.record["digest"],
        "form": wanted.form,
        "folder": str(folder),
        "dtype": wanted.dtype if wanted.form == "merged" else "float32",
        "base": _base_of(run),
        "n_pairs": n_pairs,
        "n_answers": n_answers,
        "scores": scores,
        "checks": checks,
        "forced": faults,
        "pushed": None,
        "gguf": None,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {},
    }
    _finish(run, wanted, folder, record, say)
    return record


def _finish(
    run: ChosenRun, wanted: Wanted, folder: Path, record: Release, say: Callable[[str], None]
) -> None:
    """Write card and record, then what may fail without harm to them."""
    write_card(run, record, folder, facts_of(run), name=wanted.push or folder.name)
    record["files"] = checksums(folder)
    keep(run, record)
    if wanted.gguf:
        target = folder.with_suffix(".gguf")
        how = write_gguf(folder, target)
        say(how or f"wrote {target}")
        record["gguf"] = None if how else str(target)
        keep(run, record)
    if wanted.push:
        message = f"{run.name}, {record['form']}, {record['digest'][:12]}"
        record["pushed"] = push_folder(folder, wanted.push, public=wanted.public, message=message)
        say(f"pushed to {record['pushed']}")
        keep(run, record)


def keep(run: ChosenRun, record: Release) -> None:
    """Write what is known of an export beside the run's records."""
    path = release_path(run.runs, run.recipe.name, run.arm, run.seed, record["form"])
    write_sealed(path, record)


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum(path) for path in paths}


def _place(run: ChosenRun, wanted: Wanted) -> Path:
    """Return where the folder goes; one that was not exported by us is never replaced."""
    path = release_path(run.runs, run.recipe.name, run.arm, run.seed, wanted.form)
    folder = wanted.out or path.with_suffix("")
    earlier = read_json(path)
    ours = wanted.out is None or (earlier is not None and Path(earlier["folder"]) == folder)
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise RecordError(
            f"{folder} exists and is no earlier export of this run; name another --out"
        )
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return folder


def _build(
    run: ChosenRun, wanted: Wanted, target: Path, say: Callable[[str], None]
) -> tuple[dict[str, Difference], list[Check], tuple[int, int]]:
    """Write all files; return scores before and after, checks, and how much was scored."""
    say(f"{run.name}, {run.why}: scoring the adapter on its base")
    workbench = open_run(run, device=wanted.device)
    pairs = workbench.test[: wanted.n_pairs]
    sample = [[*pair.prompt_ids, *pair.chosen_ids] for pair in rows_and_chats(workbench)[0]]
    parts = describe(workbench.base)
    trained = score(workbench, pairs, n_answers=wanted.n_answers)
    source = base_files(run.recipe.model, workbench.base.resolved["commit"])
    write_tokenizer(workbench, target)
    write_generation(workbench, source, target)
    let_go(workbench)
    if wanted.form == "merged":
        say("merging in float32, one weight at a time")
        checks = _write_merged(
            run, wanted, source, target, parts=parts, tokenizer=workbench.base.tokenizer
        )
    else:
        checks = _write_adapter(run, target)
    say("reading it back and scoring it")
    released = (
        open_folder(target, run.recipe, workbench, device=wanted.device)
        if wanted.form == "merged"
        else open_run(run, device=wanted.device, adapter=target)
    )
    after, logits = score(released, pairs, n_answers=wanted.n_answers), own_logits(released, sample)
    let_go(released)
    say("reading it back in a fresh process, with transformers alone")
    checks += check_release(target, workbench, logits, _job(run, wanted, source, parts))
    found = differences(trained, after, margins_of_interest(run))
    return found, checks, (len(pairs), len(after.texts))


def _write_merged(
    run: ChosenRun, wanted: Wanted, source: Path, target: Path, *, parts: Parts, tokenizer: Any
) -> list[Check]:
    config = read_config(source)
    refuse_quantised(config, source)
    merge(source, run.adapter, target, parts, dtype=DTYPES[wanted.dtype])
    dtype = None if wanted.dtype == "base" else wanted.dtype
    write_config(config, target, n_rows=parts.n_rows, dtype=dtype, tokenizer=tokenizer)
    return [check_rows(target, run.adapter, parts)]


def _write_adapter(run: ChosenRun, target: Path) -> list[Check]:
    """Copy the adapter; PEFT's own card, which says nothing, stays behind."""
    assert run.adapter is not None
    for path in run.adapter.iterdir():
        if path.name != "README.md":
            shutil.copyfile(path, target / path.name)
    return []


def _job(run: ChosenRun, wanted: Wanted, source: Path, parts: Parts) -> dict[str, Any]:
    """Say how a fresh process is to load the folder."""
    job: dict[str, Any] = {
        "dtype": str(parts.dtype).removeprefix("torch."),
        "device": wanted.device,
        "n_rows": parts.n_rows,
    }
    if wanted.form == "merged":
        return job
    config = read_config(source)
    return job | {
        "base": locate(run.recipe.model.name).path,
        "revision": run.recipe.model.revision or "main",
        "quantization": run.recipe.model.quantization,
        "n_known": (config.get("text_config") or config)["vocab_size"],
    }


def _base_of(run: ChosenRun) -> str:
    """Say what the update belongs to."""
    name, commit = run.recipe.model.name, run.record["model"].get("commit", "")
    kept = " as NF4 keeps it, dequantised" if run.recipe.model.quantization == "nf4" else ""
    return f"{name} at {commit}{kept}" if commit else f"{name}{kept}"
