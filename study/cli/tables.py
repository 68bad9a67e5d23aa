"""Results as plain text for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from study.arms import UNTRAINED, arms_in_order
from study.records.released import AnswerRow, BenchmarkScores, Release


def search_table(found: Sequence[dict[str, Any]]) -> str:
    """Lay out what each search froze, one row per recipe and arm."""
    rows = [
        {
            "recipe": best["recipe"],
            "arm": best["arm"],
            **{key: f"{value:.3g}" for key, value in best["settings"].items()},
            best["objective"]: f"{best['value']:.4f}",
            "optimism": f"{best['optimism']:+.4f}",
            "trials": f"{best['n_trials']}",
            "pruned": f"{best['n_pruned']}",
            "diverged": f"{best['n_diverged']}",
        }
        for best in found
    ]
    return table(list(dict.fromkeys(key for row in rows for key in row)), rows)


def compare_table(records: Sequence[dict[str, Any]]) -> str:
    """Lay out scores per recipe and arm: mean ± standard deviation over seeds."""
    rows = []
    for recipe, arm, group in _grouped(records, "arm"):
        tuned = "" if arm == UNTRAINED else "yes" if group[0]["tuned"] else "no"
        metrics = ("accuracy", "margin", "nll", "rougeL", "exact_match")
        row = {"recipe": recipe, "arm": arm, **_settings(group), "tuned": tuned}
        rows.append({**row, **_outcome(group, metrics)})
    return table(list(dict.fromkeys(key for row in rows for key in row)), rows)


def claims_table(records: Sequence[dict[str, Any]]) -> str:
    """Lay out scores per recipe and setting that decides claims, as ``compare_table``."""
    metrics = ("accuracy", "margin", "nll", "chosen_logps", "rejected_logps")
    rows = [
        {"recipe": recipe, "setting": name, **_settings(group), **_outcome(group, metrics)}
        for recipe, name, group in _grouped(records, "setting")
    ]
    return table(list(dict.fromkeys(key for row in rows for key in row)), rows)


def reproduce_table(records: Sequence[dict[str, Any]]) -> str:
    """Lay out scores per recipe and set-up of a reproduction, as ``compare_table``."""
    metrics = ("rougeL", "accuracy", "exact_match", "margin", "nll")
    rows = [
        {"recipe": recipe, "set-up": name, **_settings(group), **_outcome(group, metrics)}
        for recipe, name, group in _grouped(records, "set_up")
    ]
    return table(list(dict.fromkeys(key for row in rows for key in row)), rows)


def release_table(record: Release) -> str:
    """Lay out an export: scores before and after, checks, and where it is."""
    rows = [
        {
            "score": name,
            "adapter on its base": f"{row['trained']:.4f}",
            "released": f"{row['released']:.4f}",
            "difference": f"{row['difference']:+.4f}",
            "matters from": "" if row["margin"] is None else f"{row['margin']:g}",
        }
        for name, row in record["scores"].items()
    ]
    checks = [
        {"check": one["name"], "passed": "yes" if one["passed"] else "NO", "detail": one["detail"]}
        for one in record["checks"]
    ]
    return "\n".join(
        (
            table(list(rows[0]), rows),
            "",
            table(["check", "passed", "detail"], checks),
            "",
            f"{record['form']} model in {record['folder']}, with its card in README.md",
        )
    )


def answers_text(rows: Sequence[AnswerRow]) -> str:
    """Lay out prompts, each with the answer of every arm below it."""
    return "\n\n".join(
        "\n".join(
            (
                *(f"{turn['role']}: {turn['content']}" for turn in row["prompt"]),
                *(f"  {arm}: {text}" for arm, text in row["answers"].items()),
            )
        )
        for row in rows
    )


def benchmark_table(found: Sequence[BenchmarkScores]) -> str:
    """Lay out mean scores: a row for each form and task, a column for each arm."""
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for one in found:
        arms = groups.setdefault((one["form"], one["task"]), {})
        arms.setdefault(one["arm"], []).append(mean(one["scores"]))
    rows = [
        {"form": form, "task": task}
        | {
            arm: f"{mean(runs):.3f}" + (f" ± {stdev(runs):.3f}" if len(runs) > 1 else "")
            for arm, runs in arms.items()
        }
        for (form, task), arms in groups.items()
    ]
    arms_named = arms_in_order({one["arm"] for one in found})
    return table(["form", "task", *arms_named], rows)


def judge_table(found: dict[str, Any]) -> str:
    """Lay out a judge's own accuracy and the raw win rates, a row for each arm."""
    judge, runs = found["judge"], found["runs"]
    right = [won for won in judge["held_out"]["wins"] if won is not None]
    told = f"{mean(right):.3f} of {len(right)}" if right else "none"
    rows = []
    for arm in arms_in_order({one["arm"] for one in runs}):
        own = [one for one in runs if one["arm"] == arm]
        known = [[won for won in one["verdicts"]["wins"] if won is not None] for one in own]
        rates = [mean(wins) for wins in known if wins]
        n_missing = sum(sum(one["verdicts"]["missing"].values()) for one in own)
        rows.append(
            {
                "arm": arm,
                "runs": f"{len(own)}",
                "win rate": (f"{mean(rates):.3f}" if rates else "none")
                + (f" ± {stdev(rates):.3f}" if len(rates) > 1 else ""),
                "turned with the order": f"{sum(one['verdicts']['turned'] for one in own)}",
                "no verdict": f"{n_missing}",
            }
        )
    missing = judge["held_out"]["missing"]
    lines = [
        f"{judge['name']} ({judge['identity']}) prefers the chosen answer in {told} held-out pairs"
    ]
    lines += [f"  no verdict on {n}: {why}" for why, n in missing.items()]
    reasons = [why for one in runs for why in one["verdicts"]["missing"]]
    if reasons:
        lines.append(f"no verdict on answers: {', '.join(dict.fromkeys(reasons))}")
    return "\n".join((*lines, "", table(list(rows[0]), rows)))


def status_table(rows: Sequence[dict[str, Any]], runs: Path) -> str:
    """Lay out what is finished and what is not."""
    if not rows:
        return f"there are no records in {runs}; begin with: study search"
    cells = [{key: "" if v is None else str(v) for key, v in row.items()} for row in rows]
    return table(["recipe", "part", "arm", "seed", "state", "detail"], cells)


def table(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    """Lay out rows under their columns; what a row lacks stays blank."""
    widths = [max(len(c), *(len(row.get(c, "")) for row in rows), 0) for c in columns]
    lines = [
        [row.get(column, "") for column in columns]
        for row in [dict(zip(columns, columns, strict=True)), *rows]
    ]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _grouped(
    records: Sequence[dict[str, Any]], key: str
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["recipe"], record[key]), []).append(record)
    return [(recipe, name, group) for (recipe, name), group in groups.items()]


def _settings(group: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {"settings": ", ".join(f"{k} {v:.3g}" for k, v in group[0]["settings"].items())}


def _outcome(group: Sequence[dict[str, Any]], metrics: Sequence[str]) -> dict[str, str]:
    row = {
        "runs": f"{len(group)}",
        "diverged": f"{sum(record['status'] == 'diverged' for record in group)}",
    }
    for metric in metrics:
        values = [r["scores"][metric] for r in group if r["scores"].get(metric) is not None]
        if values:
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            row[metric] = f"{mean(values):.3f}{spread}"
    return row
