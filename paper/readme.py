"""Write the numbers of README.md: `python -m paper.readme`, or `--check`.

What stands between two marks is rendered from `runs/published` and never
edited by hand: the answer with its figure and table, and the costs that
`study bench` measured.
"""

# Heavy imports stand inside functions so that ``--help`` answers at once.
# ruff: noqa: PLC0415

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paper.build import PUBLISHED
from paper.render import markdown_environment

if TYPE_CHECKING:
    from analysis.findings import BenchRow, Findings

README = Path("README.md")
FIGURE = Path("docs/verdict.svg")
ALT = "Forest plot of differences between ORPO and SFT with intervals, one panel per score."
"""The answer, with its numbers, stands in words beside it."""
BEGIN = "<!-- written by `python -m paper.readme` from runs/published: begin -->"
BENCH_BEGIN = (
    "<!-- measured by `study bench`, written by `python -m paper.readme` "
    "from runs/published/bench.json: begin -->"
)
END = "<!-- end -->"
SCORES = ("accuracy", "margin", "nll", "exact_match")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Change nothing; fail where README.md is out of date.")
def main(*, check: bool) -> None:
    """Renew the answer and the tables in README.md from runs/published."""
    from analysis.figures.draw import draw_verdict
    from analysis.findings import build_findings
    from analysis.records.load import load_study

    findings = build_findings(load_study(PUBLISHED), origin="published")
    old = README.read_text(encoding="utf-8")
    new = renew(renew(old, block(findings)), bench_block(findings), begin=BENCH_BEGIN)
    if check and old != new:
        raise click.ClickException("README.md is out of date; run python -m paper.readme")
    if not check:
        README.write_text(new, encoding="utf-8")
        draw_verdict(findings, FIGURE)
        click.echo(f"{README} and {FIGURE} show runs/published")


def block(findings: "Findings") -> str:
    """Render the answer and the table of arms as Markdown."""
    from analysis.printing import arm_name
    from paper.tables import results

    return _render(
        "readme.md",
        headline=findings.headline,
        answer=findings.answer,
        figure=FIGURE.as_posix(),
        alt=ALT,
        arms=results.overview(findings, SCORES),
        searches=[
            f"{arm_name(row.arm)} on {row.recipe}: best of {row.n_trials} trials, "
            f"{row.n_pruned} of them pruned, confirmed with fresh seeds."
            for row in findings.searches
        ],
    )


def bench_block(findings: "Findings") -> str:
    """Render the costs beside TRL's as Markdown, or how to measure them."""
    from paper.tables import costs

    bench = findings.bench
    if bench is None:
        return _render("bench.md", costs=None)
    shown = dataclasses.replace(bench, rows=headlines(bench.rows))
    return _render("bench.md", costs=costs.bench(shown), n_rows=len(bench.rows))


def headlines(rows: Sequence["BenchRow"]) -> "tuple[BenchRow, ...]":
    """Choose one row each for time, memory and a whole search: the last of its kind."""
    kinds = ("training step, HH-RLHF, float32", "peak memory", "search")
    last = [next((row for row in reversed(rows) if row.subject.startswith(k)), None) for k in kinds]
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
