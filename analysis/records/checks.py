"""Refuse records that are damaged or cannot be compared with each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.records.metrics import GENERATED, METRICS
from analysis.records.study import RunRecord
from study.config.canonical import differences
from study.errors import RecordError


def check_scores(run: RunRecord, who: str) -> None:
    """Check that the record's scores are finite and the means of its examples."""
    derived = run.scores.mean()
    for name, value in run.record["scores"].items():
        require(
            value is not None and bool(np.isfinite(value)),
            f"{who}: the score {name} is {value}",
            "run it again",
        )
        if name in METRICS and name in derived and value is not None:
            require(
                bool(np.isclose(derived[name], value, rtol=1e-4, atol=1e-5)),
                f"{who}: {name} is {value} in record.json and {derived[name]} over its examples",
                "move the folder away and run again",
            )


def check_distinct(runs: Sequence[RunRecord]) -> None:
    """Check that no two folders hold one run: a copy is no replicate."""
    seen: dict[str, RunRecord] = {}
    for run in runs:
        first = seen.setdefault(run.record["digest"], run)
        require(
            first is run,
            f"{run.recipe}, {run.arm}, seed {run.seed} has the digest of {first.recipe}, "
            f"{first.arm}, seed {first.seed}: one is a copy of the other",
            "move the copy away and start the same `study` command again, which makes that run",
        )


def check_comparable(runs: Sequence[RunRecord]) -> None:
    """Check that all runs of a recipe share configuration, data and examples."""
    first = runs[0]
    for run in runs[1:]:
        who = f"{run.recipe}, {run.arm}, seed {run.seed}"
        _require_equal(first.config["recipe"], run.config["recipe"], f"{who}: another recipe")
        _require_equal(*_data(first, run), f"{who}: other data")
        _require_equal(first.record.get("model"), run.record.get("model"), f"{who}: other weights")
        _require_equal(_device_kind(first), _device_kind(run), f"{who}: another kind of device")
        _require_equal(*_scoring(first, run), f"{who}: answers scored in another way")
    by_arm = {run.arm: run for run in reversed(runs)}
    for run in runs:
        who = f"{run.recipe}, {run.arm}, seed {run.seed}"
        settings, start = (by_arm[run.arm].config.get(name, {}) for name in ("settings", "start"))
        _require_equal(settings, run.config.get("settings", {}), f"{who}: other settings")
        _require_equal(start, run.config.get("start", {}), f"{who}: another start")
    _check_examples([run for run in runs if run.ok])


def _data(first: RunRecord, run: RunRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what both records say of their data; older ones have no fingerprint of tokens."""
    both = first.record["data"], run.record["data"]
    if all("tokens" in data for data in both):
        return both
    old, new = ({key: data[key] for key in data if key != "tokens"} for data in both)
    return old, new


def _scoring(first: RunRecord, run: RunRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how both runs' answers were scored, by what their records say.

    Older ones say nothing, and scored ASCII alike; of other scripts they read nothing.
    """
    both = [one.record.get("scoring", {}) for one in (first, run)]
    if not all(both) and all(map(_answers_are_ascii, (first, run))):
        return {}, {}
    return both[0], both[1]


def _answers_are_ascii(run: RunRecord) -> bool:
    return all((row["text"] + row["reference"]).isascii() for row in run.generations)


def _device_kind(run: RunRecord) -> dict[str, str]:
    return {"device": "CPU" if run.record["device"].upper().startswith("CPU") else "GPU"}


def _check_examples(runs: Sequence[RunRecord]) -> None:
    for run in runs[1:]:
        who = f"{run.recipe}, {run.arm}, seed {run.seed}"
        old, new = runs[0].examples, run.examples
        assert old is not None
        assert new is not None
        other = set(old["example_id"]) ^ set(new["example_id"])
        require(
            not other,
            f"{who}: {len(other)} examples differ from those of {runs[0].arm}, seed {runs[0].seed}",
            "runs that are compared must score the same held-out pairs",
        )
        for name in ("cluster_id", "chosen_tokens", "rejected_tokens"):
            require(
                bool((old[name] == new[name]).all()),
                f"{who}: {name} differs from {runs[0].arm}, seed {runs[0].seed}",
                "runs that are compared must share data and tokenizer",
            )
        for name in (name for name in GENERATED if name in old and name in new):
            require(
                _gaps(old, name) == _gaps(new, name),
                f"{who}: {name} is scored for other examples than in {runs[0].arm}, "
                f"seed {runs[0].seed}",
                "runs that are compared must score the same held-out pairs",
            )


def _gaps(examples: pd.DataFrame, name: str) -> list[bool]:
    """Mark the examples that have no score of a name."""
    return list(examples[name].isna())


def _require_equal(old: Any, new: Any, message: str) -> None:
    require(
        old == new,
        f"{message} than the first run: {'; '.join(differences(old, new)[:5])}",
        "keep them in separate folders and name one with --runs",
    )


def require(condition: bool, found: str, remedy: str) -> None:
    """Raise a RecordError that says what was found and what to do, unless it holds."""
    if not condition:
        raise RecordError(f"{found}; {remedy}")
