"""Which objective of a search to trust: rank correlations with scores of test pairs.

``python -m analysis.statistics.objectives`` prints, from the trials that
``study.search.evidence`` trained to their end, what each candidate tells about
test pairs, how early it tells its own end, and what the trial that it would have
chosen scored. Every correlation is signed so that a good objective has a
positive one.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from scipy import stats as scipy_stats

from analysis.statistics.trials import rank_interval

Trial = Mapping[str, Any]

LOWER_IS_BETTER: Final = {
    "nll+ranking": True,
    "nll+lor": True,
    "nll": True,
    "ranking": True,
    "lor": True,
    "accuracy": False,
    "margin": False,
    "rougeL": False,
}
"""Candidates, the selectable objectives and the parts of their sums."""

JUDGED_BY: Final = ("exact_match", "accuracy")
POOLED: Final = "all"


def value(trial: Trial, candidate: str, step: int | None = None) -> float | None:
    """Return a candidate's validation value, more is better; at the end without a step."""
    if candidate == "rougeL":
        return float(trial["rougeL"]) if step is None else None
    rows = [row for row in trial["steps"] if step in (None, row["step"])]
    parts = [rows[-1].get(part) for part in candidate.split("+")] if rows else [None]
    known = [float(part) for part in parts if part is not None]
    sign = -1 if LOWER_IS_BETTER[candidate] else 1
    return sign * sum(known) if len(known) == len(parts) else None


def correlation(
    trials: Sequence[Trial], candidate: str, score: str, *, step: int | None = None
) -> float | None:
    """Return Spearman's rho of a candidate with a test score, or with its own ``final`` value.

    None where a trial has no value, or all have the same.
    """
    x = [value(trial, candidate, step) for trial in trials]
    y = [value(t, candidate) if score == "final" else t["test"][score] for t in trials]
    if None in x or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(scipy_stats.spearmanr(x, y).statistic)


def winner(trials: Sequence[Trial], candidate: str) -> Trial:
    """Return the trial with the best final value."""
    return max(trials, key=lambda trial: value(trial, candidate) or 0.0)


def groups(trials: Iterable[Trial]) -> dict[tuple[str, str], list[Trial]]:
    """Return the complete trials by recipe and arm, and those of all its arms together."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial["status"] == "ok":
            for arm in (trial["arm"], POOLED):
                found.setdefault((trial["recipe"], arm), []).append(trial)
    return dict(sorted(found.items()))


def report(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the lines of three tables in Markdown."""
    n_ended = sum(trial["status"] == "ok" for trial in trials)
    yield f"{len(trials)} trials, {n_ended} complete, {len(trials) - n_ended} diverged."
    by_group = groups(trials)
    heads = [f"{recipe} {arm} (n = {len(g)})" for (recipe, arm), g in by_group.items()]
    yield from _head("Final value with test exact match / accuracy", [*heads, "mean"])
    for candidate in LOWER_IS_BETTER:
        pairs = [
            [correlation(group, candidate, score) for score in JUDGED_BY]
            for group in by_group.values()
        ]
        means = [_mean(column) for column in zip(*pairs, strict=True)]
        yield _line(candidate, [" / ".join(map(_signed, pair)) for pair in [*pairs, means]])
    n = min(map(len, by_group.values()))
    low, high = rank_interval(0.5, n)
    yield f"\nOf n = {n} trials, the 95 % interval of a correlation of .5: {low:.2f} to {high:.2f}."
    steps = [row["step"] for row in next(iter(by_group.values()))[0]["steps"]][1:-1]
    yield from _head(f"Value at step {', '.join(map(str, steps))} with its own final value", heads)
    for candidate in LOWER_IS_BETTER:
        early = [[correlation(g, candidate, "final", step=step) for step in steps]
                 for g in by_group.values()]  # fmt: skip
        yield _line(candidate, [" / ".join(map(_signed, rhos)) for rhos in early])
    chosen = {key: group for key, group in by_group.items() if key[1] != POOLED}
    yield from _head(
        "The winner's test exact match / accuracy", [f"{r} {a}" for r, a in chosen] + ["mean"]
    )
    for candidate in LOWER_IS_BETTER:
        won = [[winner(g, candidate)["test"][s] for s in JUDGED_BY] for g in chosen.values()]
        won.append([fmean(column) for column in zip(*won, strict=True)])
        yield _line(candidate, [" / ".join(f"{score:.3f}" for score in scores) for scores in won])
    best = [[max(t["test"][s] for t in g) for s in JUDGED_BY] for g in chosen.values()]
    best.append([fmean(column) for column in zip(*best, strict=True)])
    yield _line("(best of all)", [" / ".join(f"{score:.3f}" for score in row) for row in best])


def _head(title: str, columns: Sequence[str]) -> Iterator[str]:
    yield f"\n{title}:\n"
    yield _line("objective", columns)
    yield _line("---", ["---"] * len(columns))


def _line(first: str, cells: Iterable[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def _signed(rho: float | None) -> str:
    return "n/a" if rho is None else f"{rho:+.2f}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return fmean(known) if known else None


def main() -> None:
    """Print the tables of a file; its path is the one argument."""
    from study.records.files import read_jsonl  # noqa: PLC0415 (the statistics need no records)

    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/published/objectives.jsonl")
    sys.stdout.write("\n".join(report(list(read_jsonl(path)))) + "\n")


if __name__ == "__main__":
    main()
