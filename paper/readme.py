"""Write the numbers of README.md: `python -m paper.readme`, or `--check`.

What stands between two marks is rendered from the published records and never
edited by hand: the answer of each study with its figure and table, and the costs
that `study bench` measured.
"""

# Heavy imports stand inside functions so that ``--help`` answers at once.
# ruff: noqa: PLC0415

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from paper.build import PUBLISHED
from paper.render import markdown_environment

if TYPE_CHECKING:
    from analysis.findings import BenchRow, Findings

README = Path("README.md")


class Published(NamedTuple):
    """One study of the README: its records, its figure and what it is about."""

    runs: Path
    figure: Path
    about: str


REAL = Published(
    Path("runs/published-real"),
    Path("docs/verdict-real.svg"),
    "Real language: SmolLM2-135M-Instruct on preference pairs of AlpacaEval.",
)
TOY = Published(PUBLISHED, Path("docs/verdict.svg"), "A toy language that any laptop can train.")
ALT = "Forest plot of differences between each arm and SFT with intervals, one panel per score."
"""The answer, with its numbers, stands in words beside it."""
BEGIN = "<!-- written by `python -m paper.readme` from the published records: begin -->"
BENCH_BEGIN = (
    "<!-- measured by `study bench`, written by `python -m paper.readme` "
    "from runs/published/bench.json: begin -->"
)
END = "<!-- end -->"
MOST_SEARCHES = 4
"""Searches that have a sentence each."""
SCORES = ("accuracy", "margin", "nll", "exact_match", "rougeL")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Change nothing; fail where README.md is out of date.")
def main(*, check: bool) -> None:
    """Renew the answers and the tables in README.md from the published records."""
    from analysis.figures.draw import draw_verdict
    from analysis.records.load import RecordError

    try:
        found = published()
    except RecordError as error:
        raise click.ClickException(str(error)) from error
    old = README.read_text(encoding="utf-8")
    new = renewed(old, found)
    if check and old != new:
        raise click.ClickException("README.md is out of date; run python -m paper.readme")
    if not check:
        README.write_text(new, encoding="utf-8")
        for study, findings in found.items():
            draw_verdict(findings, study.figure)
        shown = " and ".join(str(study.runs) for study in found)
        click.echo(f"{README} and the figures of docs/ show {shown}")


def published(root: Path = Path()) -> "dict[Published, Findings]":
    """Judge the published studies: the toy's always, the other once it is complete.

    Raises:
        RecordError: the toy's records are missing or damaged.
    """
    from analysis.findings import build_findings
    from analysis.records.load import is_complete, load_study

    return {
        study: build_findings(load_study(root / study.runs), origin="published")
        for study in (REAL, TOY)
        if study is TOY or is_complete(root / study.runs)
    }


def renewed(readme: str, found: "Mapping[Published, Findings]") -> str:
    """Return README.md with each study's answer, and with the costs of the toy's records."""
    answers = "\n\n".join(block(findings, study) for study, findings in found.items())
    return renew(renew(readme, answers), bench_block(found[TOY]), begin=BENCH_BEGIN)


def block(findings: "Findings", study: Published) -> str:
    """Render a study's answer and its table of arms as Markdown."""
    from paper.tables import results

    return _render(
        "readme.md",
        about=study.about,
        headline=findings.headline,
        answer=findings.answer,
        figure=study.figure.as_posix(),
        alt=ALT,
        arms=results.overview(findings, [name for name in SCORES if name in findings.metrics]),
        searches=_searches(findings),
    )


def _searches(findings: "Findings") -> list[str]:
    """Say how every search went, or where they are many, how they went alike."""
    from analysis.printing import arm_name

    rows = findings.searches
    if len(rows) > MOST_SEARCHES:
        trials = " or ".join(map(str, sorted({row.n_trials for row in rows})))
        told = f"{len(rows)} searches, each the best of {trials} trials, confirmed with fresh seeds"
        return [f"{told}; every arm's settings are in the report."]
    return [
        f"{arm_name(row.arm)} on {row.recipe}: best of {row.n_trials} trials, "
        f"{row.n_pruned} of them pruned, confirmed with fresh seeds."
        for row in rows
    ]


def bench_block(findings: "Findings") -> str:
    """Render the costs beside TRL's as Markdown, or how to measure them."""
    from paper.tables import costs

    bench = findings.bench
    if bench is None:
        return _render("bench.md", costs=None)
    shown = dataclasses.replace(bench, rows=headlines(bench.rows))
    return _render("bench.md", costs=costs.bench(shown), n_rows=len(bench.rows))


def headlines(rows: Sequence["BenchRow"]) -> "tuple[BenchRow, ...]":
    """Choose one row each for time, memory and a whole search: ORPO's, the last of its kind."""
    kinds = (
        ("training step, HH-RLHF, float32", ""),
        ("peak memory of a step", ", with checkpointing"),
        ("search", ""),
    )
    last = [
        next((r for r in reversed(rows) if r.subject.startswith(k) and r.subject.endswith(e)), None)
        for k, e in kinds
    ]
    return tuple(row for row in last if row is not None)


def _render(template: str, **values: object) -> str:
    """Render Markdown; an apostrophe outside of tags needs no escape."""
    text = markdown_environment().get_template(template).render(**values)
    return text.replace("&#39;", "'").strip()


def renew(readme: str, text: str, *, begin: str = BEGIN) -> str:
    """Replace what stands between one of the marks and the end that follows it.

    Raises:
        ClickException: the marks are missing.
    """
    before, found, rest = readme.partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise click.ClickException(f"README.md needs the lines {begin!r} and {END!r}")
    return f"{before}{begin}\n{text}\n{END}{after}"


if __name__ == "__main__":
    main()
