"""Build the report from records: ``study report``. Never trains."""

# Heavy imports stand inside functions so that ``--help`` answers at once.
# ruff: noqa: PLC0415

import shutil
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paper.compile import compile_pdf, missing_for_emoji, missing_for_scripts

if TYPE_CHECKING:
    from analysis.findings import FigureFile, Findings
    from paper.blocks import Answers

LOCAL, PUBLISHED, OUT = Path("runs/local"), Path("runs/published"), Path("paper/build")
Say = Callable[[str], object]
WATCHED = "no report.pdf while records are watched; `study report` makes it"


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """The files of a report, and what it says."""

    answer: str
    origin: str
    html: Path
    tex: Path
    findings: Path
    pdf: Path | None
    """None where no PDF could be made."""
    hint: str | None
    """Why there is no PDF, or none that prints every script, and what to do about it."""


@click.command()
@click.option(
    "--runs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=f"Folder of records.  [default: {LOCAL} if a comparison is complete there, "
    f"else {PUBLISHED}]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=OUT,
    show_default=True,
    help="Folder that the report is written to.",
)
@click.option("--open", "show_page", is_flag=True, help="Show the page in a browser.")
@click.option("--watch", is_flag=True, help="Write it anew whenever records change, until Ctrl-C.")
def main(runs: Path | None, out: Path, *, show_page: bool, watch: bool) -> None:
    """Write report.html, report.tex, findings.json and, with TeX, report.pdf."""
    from paper.watch import watch as watch_records

    if not watch:
        _show(_build_or_fail(runs, out, say=partial(click.echo, err=True)), open_it=show_page)
        return
    opened = False

    def write() -> None:
        nonlocal opened
        try:
            result = _build_or_fail(runs, out, watched=True)
        except click.ClickException as error:  # the next record may mend it
            click.echo(f"waiting: {error.message}", err=True)
            return
        _show(result, open_it=show_page and not opened)
        opened = True

    watch_records(write, (LOCAL, PUBLISHED) if runs is None else (runs,))


def _unheard(line: str) -> None:
    """Say nothing of what is done."""


def _build_or_fail(
    runs: Path | None, out: Path, *, say: Say = _unheard, watched: bool = False
) -> BuildResult:
    from analysis.records.load import RecordError

    try:
        return build(runs, out, say=say, watched=watched)
    except RecordError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"cannot write the report ({error}); name another folder with --out"
        ) from error


def _show(result: BuildResult, *, open_it: bool) -> None:
    click.echo(f"records: {result.origin}")
    for path in filter(None, (result.tex, result.findings, result.pdf)):
        click.echo(path)
    if result.hint:
        click.echo(result.hint)
    click.echo(result.answer)
    click.echo(result.html)
    if open_it:
        webbrowser.open(result.html.resolve().as_uri())


def build(
    runs: Path | None, out: Path, *, say: Say = _unheard, watched: bool = False
) -> BuildResult:
    """Judge the records in ``runs`` and write the report to ``out``.

    Args:
        runs: folder of records; None chooses between local and published ones.
        out: folder that the report is written to, made where it is missing.
        say: told of each stage as it begins.
        watched: make the page renew itself, and leave the PDF for later.

    Raises:
        RecordError: the records are missing, damaged or do not fit together.
    """
    from analysis.figures.draw import draw_all
    from analysis.findings import build_findings
    from analysis.records.load import is_complete, load_study
    from paper.browser import prompts_of

    folder, origin = choose_runs(runs, local=LOCAL, published=PUBLISHED)
    say(f"judging the records in {folder}")
    records = load_study(folder)
    findings = build_findings(records, origin=origin)
    say("drawing figures")
    figures = draw_all(records, findings, out / "figures")
    unfinished = (
        _unfinished(len(records.runs), len(records.unfinished))
        if records.unfinished or not is_complete(folder)
        else ""
    )
    return write_report(
        findings,
        figures,
        out,
        answers=prompts_of(records),
        unfinished=unfinished,
        say=say,
        watched=watched,
    )


def _unfinished(finished: int, begun: int) -> str:
    """Say that the numbers are not the last ones."""
    return (
        f"These runs are unfinished: {finished} have ended, {begun} were begun and have not, and "
        "planned ones may be missing. Every number and the verdict may still change."
    )


def choose_runs(runs: Path | None, *, local: Path, published: Path) -> tuple[Path, str]:
    """Choose the folder of records and say in words why it was chosen."""
    from analysis.records.load import is_complete

    if runs is not None:
        return runs, f"{runs.as_posix()} (named on the command line)"
    if is_complete(local):
        return local, f"local, {local.as_posix()} (a comparison is finished there)"
    return published, (
        f"published, {published.as_posix()} (no comparison is finished in {local.as_posix()})"
    )


def write_report(
    findings: "Findings",
    figures: Sequence["FigureFile"],
    out: Path,
    *,
    answers: "tuple[Answers, ...]" = (),
    unfinished: str = "",
    say: Say = _unheard,
    watched: bool = False,
) -> BuildResult:
    """Write the report's files; the figures are already in ``out/figures``.

    Args:
        findings: what the report says.
        figures: the figures, in the order in which they appear.
        out: folder that the report is written to.
        answers: prompts with the answers of every arm.
        unfinished: sentence about runs that go on; empty where all have ended.
        say: told of each stage as it begins.
        watched: make the page renew itself, and leave the PDF for later.
    """
    from analysis.findings import to_json
    from paper.document import build_document
    from paper.files import write_tables
    from paper.prose import BIBLIOGRAPHY
    from paper.render import render_html, render_tex

    say("writing the page and its tables")
    out.mkdir(parents=True, exist_ok=True)
    images = {
        figure.name: (out / "figures" / f"{figure.name}.svg").read_bytes() for figure in figures
    }
    page = render_html(
        findings, figures, images, answers=answers, unfinished=unfinished, watched=watched
    )
    html = _write(out / "report.html", page)
    source = render_tex(findings, figures, answers=answers, unfinished=unfinished)
    missing, unseen = missing_for_scripts(source), missing_for_emoji(source)
    if missing or unseen:
        source = render_tex(
            findings,
            figures,
            answers=answers,
            unfinished=unfinished,
            scripts=not missing,
            emoji=not unseen,
        )
    tex = _write(out / "report.tex", source)
    write_tables(build_document(findings, figures, answers=answers).tables, out / "tables")
    judged = _write(out / "findings.json", to_json(findings))
    shutil.copyfile(BIBLIOGRAPHY, out / BIBLIOGRAPHY.name)
    if not watched:
        say("setting the PDF")
    pdf, hint = (None, WATCHED) if watched else compile_pdf(tex)
    return BuildResult(
        answer=findings.answer,
        origin=findings.origin,
        html=html,
        tex=tex,
        findings=judged,
        pdf=pdf,
        hint=hint or "; ".join(filter(None, (missing, unseen))) or None,
    )


def _write(path: Path, text: str) -> Path:
    r"""Write UTF-8; half a surrogate pair becomes ``\udXXX``, as JSON wants it."""
    path.write_bytes(text.encode("utf-8", errors="backslashreplace"))
    return path


if __name__ == "__main__":
    main()
