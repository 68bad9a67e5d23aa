"""Is what was written the model that was trained: scores, files, and a fresh process."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

from study.data.tokens import end_of_turn
from study.engine.encoded import Encoded
from study.errors import ModelError
from study.model.workbench import Workbench
from study.records.released import Check, Difference
from study.release.merge import Parts, layer_in_model, read_adapter, tensors_of
from study.run.answers import generate, generation_scores
from study.run.prompts import GENERATED
from study.run.scores import preference_scores, score_pairs

LOGITS_OFF = {torch.float32: 2e-3, torch.bfloat16: 0.25}
"""By how much logits of one model may differ between two ways of computing them: the second as a
root mean square, as in `study.model.selfcheck`."""

N_ROWS = 4
"""Rows whose logits are compared between processes."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a model scored on held-out pairs."""

    scores: dict[str, float]
    texts: tuple[str, ...]
    """Greedy answers."""
    by_answer: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Score -> its value for every answer, where all have it."""


def score(workbench: Workbench, pairs: Sequence[Encoded], *, n_answers: int) -> Scored:
    """Score pairs and answer their first prompts greedily."""
    found = preference_scores(score_pairs(workbench, pairs))
    answers = generate(workbench, pairs, limit=n_answers) if n_answers else []
    return Scored(
        scores={**found, **generation_scores(answers)},
        texts=tuple(answer["text"] for answer in answers),
        by_answer={
            name: tuple(float(answer[name]) for answer in answers)
            for name in GENERATED
            if answers and all(answer[name] is not None for answer in answers)
        },
    )


def differences(
    trained: Scored, released: Scored, margins: Mapping[str, float]
) -> dict[str, Difference]:
    """Compare two models on the same pairs, score by score.

    Args:
        trained: of the adapter on its base.
        released: of the model that was read back from disk.
        margins: metric -> smallest effect of interest.
    """
    both = [name for name in trained.scores if name in released.scores]
    found: dict[str, Difference] = {
        name: {
            "trained": trained.scores[name],
            "released": released.scores[name],
            "difference": released.scores[name] - trained.scores[name],
            "margin": margins.get(name),
            "error": _error(trained.by_answer.get(name), released.by_answer.get(name)),
        }
        for name in both
    }
    if trained.texts:
        same = [a == b for a, b in zip(trained.texts, released.texts, strict=True)]
        share = sum(same) / len(same)
        found["same_answers"] = {
            "trained": 1.0,
            "released": share,
            "difference": share - 1.0,
            "margin": None,
            "error": None,
        }
    return found


def beyond(found: Mapping[str, Difference]) -> list[str]:
    """Say which differences reach the smallest effect of interest.

    One word of rounding turns a few greedy answers either way, which is no effect: a
    score of answers must also differ by twice its standard error over prompts.
    """
    return [
        f"{name} {row['trained']:.4f} before, {row['released']:.4f} after "
        f"({row['difference']:+.4f}; {row['margin']:g} matters)"
        for name, row in found.items()
        if row["margin"] is not None
        and not abs(row["difference"]) < row["margin"]
        and not (row["error"] is not None and abs(row["difference"]) <= 2 * row["error"])
    ]


def _error(before: Sequence[float] | None, after: Sequence[float] | None) -> float | None:
    """Return the standard error of a mean paired difference; None for fewer than two."""
    if before is None or after is None or len(before) < 2:
        return None
    rest = [b - a for a, b in zip(before, after, strict=True)]
    return stdev(rest) / math.sqrt(len(rest))


def own_logits(workbench: Workbench, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return the logits of whole rows, each (L, V), by the model's plain forward pass."""
    model = workbench.base.model.eval()
    with torch.inference_mode(), workbench.base.precision():
        return [
            model(input_ids=torch.tensor([list(ids)], device=workbench.device))
            .logits[0]
            .float()
            .cpu()
            for ids in rows
        ]


def rows_and_chats(workbench: Workbench) -> tuple[list[Encoded], list[list[dict[str, str]]]]:
    """Return a few short test pairs, which no limit cut, and their prompts as messages."""
    plain = [
        pair
        for pair in workbench.test
        if all(turn.role != "tools" for turn in workbench.pairs[pair.example_id].prompt)
    ]
    pairs = sorted(plain, key=lambda pair: pair.n_tokens)[:N_ROWS]
    chats = [
        [
            {"role": turn.role, "content": turn.content}
            for turn in workbench.pairs[pair.example_id].prompt
        ]
        for pair in pairs
    ]
    return pairs, chats


def check_release(
    folder: Path, workbench: Workbench, logits: Sequence[torch.Tensor], job: Mapping[str, Any]
) -> list[Check]:
    """Reload a folder in a fresh process and hold it against what was trained.

    Args:
        folder: what was written.
        workbench: for the tokenizer and the pairs; its model may be gone.
        logits: of `rows_and_chats`'s rows, chosen answer after prompt.
        job: how the folder is to be loaded; see `study.release.reload`.

    Raises:
        ModelError: the folder cannot be loaded.
    """
    pairs, chats = rows_and_chats(workbench)
    rows = [[*pair.prompt_ids, *pair.chosen_ids] for pair in pairs]
    said, found = _in_fresh_process({**job, "folder": str(folder), "rows": rows, "chats": chats})
    config = json.loads((folder / "config.json").read_text()) if "base" not in job else {}
    end = end_of_turn(workbench.base.tokenizer)
    bos, n_known = said["bos"], job.get("n_known", said["n_rows"])
    coarse = "bfloat16" if job.get("quantization") == "nf4" else job["dtype"]
    off, limit = _distance(logits, found, getattr(torch, coarse), n_known)
    wanted = [list(pair.prompt_ids) for pair in pairs]
    tests = (
        (
            "vocabulary",
            said["n_tokens"]
            <= said["n_rows"]
            == (job["n_rows"] if "base" in job else _rows(config)),
            f"{said['n_tokens']} tokens, {said['n_rows']} rows of embeddings",
        ),
        (
            "quantisation",
            "base" in job or not (said["quantised"] or "quantization_config" in config),
            "none is left in config.json" if "base" not in job else "as in training",
        ),
        ("chat template", said["template"], "in the tokenizer's files"),
        (
            "prompts",
            said["chats"] == wanted,
            "the tokenizer's chat template gives the ids that were trained",
        ),
        (
            "BOS once",
            all(ids.count(bos) <= 1 for ids in said["chats"]),
            "at most once in every prompt",
        ),
        (
            "padding",
            said["pad"] is not None
            and said["pad"] not in said["ends"]
            and said["pad"] != said["eos"]
            and said["generation_pad"] == said["pad"],
            f"pad is token {said['pad']}, never the end of an answer",
        ),
        ("end of turn", end in said["ends"], f"token {end} ends generation"),
        ("logits", off <= limit, f"{off:.2g} off in a fresh process, {limit:g} allowed"),
    )
    return [{"name": name, "passed": bool(passed), "detail": text} for name, passed, text in tests]


def check_rows(folder: Path, adapter: Path | None, parts: Parts) -> Check:
    """Check that trained token rows stand in the merged files, and a tied output layer nowhere.

    Args:
        folder: the merged model.
        adapter: what was merged.
        parts: what is known of the model.
    """
    rows = read_adapter(adapter)[1]
    layers = {parts.embedding, parts.head}
    stored = {
        layer: tensor
        for name, tensor in tensors_of(folder)
        if (layer := layer_in_model(name, parts)) in layers
    }
    wrong = [
        layer
        for layer, (ids, trained) in rows.items()
        if layer not in stored
        or not torch.equal(stored[layer][torch.tensor(ids)], trained.to(stored[layer].dtype))
    ]
    detail = f"{sum(len(ids) for ids, _ in rows.values())} trained rows in place"
    if wrong:
        detail = f"the rows of {', '.join(wrong)} are not those that were trained"
    elif parts.tied and parts.head in stored:
        detail = "a tied output layer has weights of its own"
    elif parts.tied:
        detail += ", the output layer is the embedding"
    return {
        "name": "token rows",
        "passed": not wrong and not (parts.tied and parts.head in stored),
        "detail": detail,
    }


def _rows(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config", {})
    return text.get("vocab_size", config.get("vocab_size"))  # type: ignore[no-any-return]


def _in_fresh_process(job: Mapping[str, Any]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "job.json"
        path.write_text(json.dumps({**job, "threads": torch.get_num_threads()}), encoding="utf-8")
        command = [sys.executable, "-m", "study.release.reload", str(path)]
        done = subprocess.run(  # noqa: S603 - this module's neighbour
            command, check=False, capture_output=True, text=True, env=dict(os.environ)
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ModelError(
                f"{job['folder']} cannot be loaded with transformers alone: {why}; nothing was "
                "released"
            )
        found = load_file(path.with_name("logits.safetensors"))
        said = json.loads(path.with_name("said.json").read_text(encoding="utf-8"))
    return said, [found[str(number)] for number in range(len(found))]


def _distance(
    a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], dtype: torch.dtype, n_known: int
) -> tuple[float, float]:
    """Return how far logits of known tokens are apart, and how far they may be."""
    limit = LOGITS_OFF[dtype]
    rests = [(x[:, :n_known] - y[:, :n_known]).flatten() for x, y in zip(a, b, strict=True)]
    rest = torch.cat(rests)
    off = rest.square().mean().sqrt() if dtype == torch.bfloat16 else rest.abs().max()
    return float(off), limit
