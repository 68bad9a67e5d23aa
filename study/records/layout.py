"""Names of the files below the folder that ``--runs`` names.

::

    <recipe>/search/<arm>/     config.json  journal.log  trials.jsonl
                               confirmations.jsonl  best.json
    <recipe>/compare/config.json
    <recipe>/compare/<arm>/seed-<n>/
                               config.json  steps.jsonl  examples.parquet
                               generations.jsonl  adapter/  record.json
                               benchmarks/<form>/<task>.json  judged/<judge>.json,
                               made afterwards
    <recipe>/starts/<digest>/  config.json  steps.jsonl  adapter/  record.json
    <recipe>/claims/config.json
    <recipe>/claims/<setting>/seed-<n>/
                               as in a comparison
    <recipe>/reproduce/config.json
    <recipe>/reproduce/<set-up>/seed-<n>/
                               as in a comparison, and
                               answers-<rung>.jsonl, as an article's code asks for them
    <recipe>/{compare,claims,reproduce/<set-up>,search/<arm>}/resolved.json
    <recipe>/release/<arm>/seed-<n>/
                               adapter.json  adapter/  merged.json  merged/
    <recipe>/judges/<judge>.json
    <recipe>/{search,compare,claims,reproduce}/recipe.json
                               a recipe file of the user's own: how it was named
    bench.json                 what `study bench` measured
    objectives.jsonl           trials behind the choice of a search's objective
    history.jsonl              what an author did before these records, after a look at others
    slurm/<time>-<command>/    job.sh  job.json  <task>.log  <task>.ended
                               what `study submit` handed to Slurm

A comparison's own ``config.json`` is its plan, that of the claims what they
predict, that of a reproduction its ladder.
"""

from pathlib import Path

SEARCH = "search"
"""Folder of a recipe's searches, one folder per arm."""

REPRODUCE = "reproduce"
"""Folder of a recipe's reproduction of an article, one folder per set-up."""

CONFIG, RECORD, STEPS = "config.json", "record.json", "steps.jsonl"


EXAMPLES, GENERATIONS, ADAPTER = "examples.parquet", "generations.jsonl", "adapter"


TRIALS, CONFIRMATIONS, BEST, JOURNAL = (
    "trials.jsonl",
    "confirmations.jsonl",
    "best.json",
    "journal.log",
)


ASKED = "recipe.json"
"""How the command line named a recipe that is a file, and what it set over it."""


BENCH = "bench.json"
"""What `study bench` measured, beside the recipes' folders."""


BENCHMARKS = "benchmarks"
"""In a run's folder: item scores of benchmarks, by form and task."""


JUDGED, JUDGES = "judged", "judges"
"""In a run's folder: a judge's verdicts on its answers; beside the comparison: the judges."""


SLURM = "slurm"
"""Batch scripts and logs of `study submit`, beside the recipes' folders."""


HISTORY = "history.jsonl"
"""Rows of ``at`` (a date) and ``what`` (one sentence): what came before these records."""


def claims_path(runs: Path, recipe: str) -> Path:
    """Return the file that holds the claims that a recipe's records decide."""
    return runs / recipe / "claims" / CONFIG


def ladder_path(runs: Path, recipe: str) -> Path:
    """Return the file that holds the ladder that a recipe's records climb."""
    return runs / recipe / REPRODUCE / CONFIG


def answers_name(rung: str) -> str:
    """Name the file of answers that are generated with a rung and those above it not mended."""
    return f"answers-{rung}.jsonl"


def plan_path(runs: Path, recipe: str) -> Path:
    """Return the file that holds the plan of a comparison."""
    return runs / recipe / "compare" / CONFIG


def search_folder(runs: Path, recipe: str, arm: str) -> Path:
    """Return the folder of one arm's search."""
    return runs / recipe / SEARCH / arm


def release_path(runs: Path, recipe: str, arm: str, seed: int, form: str) -> Path:
    """Return the file that records an export; the model is beside it unless it went elsewhere."""
    return runs / recipe / "release" / arm / f"seed-{seed}" / f"{form}.json"


def benchmark_path(run: Path, form: str, task: str) -> Path:
    """Return the file of a run's scores on one task of a benchmark."""
    return run / BENCHMARKS / form / f"{task}.json"


def judged_path(run: Path, judge: str) -> Path:
    """Return the file of a judge's verdicts on a run's answers."""
    return run / JUDGED / f"{judge}.json"


def judge_path(runs: Path, recipe: str, judge: str) -> Path:
    """Return the file that describes a judge and holds its own accuracy."""
    return runs / recipe / JUDGES / f"{judge}.json"


def recipes_in(runs: Path) -> list[str]:
    """List the recipes that have records below ``runs``, in alphabetical order."""
    if not runs.is_dir():
        return []
    return sorted(
        path.name
        for path in runs.iterdir()
        if any((path / part).is_dir() for part in (SEARCH, "compare", "claims", REPRODUCE))
    )
