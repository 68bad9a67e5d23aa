"""Dress a document in one of its skins: an HTML page or a LaTeX article.

Pure functions: what they need comes in, text goes out. The templates hold
layout only; ``paper.document`` holds the order, ``paper.tables`` the cells,
``analysis.printing`` the printed form of numbers.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.figures.palette import DARK
from analysis.findings import FigureFile, Findings
from paper.blocks import Answers
from paper.document import build_document
from paper.drawing import inline, scheme
from paper.escape import generated_html, generated_tex, printable, tex
from paper.prose import FOLDER, Reference, prose_html, prose_tex, read_references
from paper.scripts import EMOJI, FONTS, scripts_of

SCRIPTS = ("browser.js", "page.js")
"""What the page runs, in this order."""


def render_html(
    findings: Findings,
    figures: Sequence[FigureFile],
    images: Mapping[str, bytes],
    *,
    answers: tuple[Answers, ...] = (),
    unfinished: str = "",
    watched: bool = False,
) -> str:
    """Render the report as one HTML file that loads nothing.

    Args:
        findings: what the report says.
        figures: the figures, in the order in which they appear.
        images: the SVG file of each figure, by the figure's name.
        answers: prompts with the answers of every arm.
        unfinished: sentence about runs that go on; empty where all have ended.
        watched: make the page load itself again every half minute.
    """
    references = read_references()
    script = "".join((FOLDER / "templates" / name).read_text(encoding="utf-8") for name in SCRIPTS)
    drawings = {
        figure.name: inline(figure.name, images[figure.name], alt=figure.alt, colours=DARK)
        for figure in figures
    }
    page = (
        html_environment(references)
        .get_template("report.html")
        .render(
            document=build_document(findings, figures, answers=answers, unfinished=unfinished),
            watched=watched,
            script=Markup(script),  # noqa: S704 (our own file)
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            drawings=drawings,
            scheme=Markup(scheme(DARK)),  # noqa: S704 (our own colours)
            references=references,
        )
    )
    return printable(page)


def render_tex(
    findings: Findings,
    figures: Sequence[FigureFile],
    *,
    answers: tuple[Answers, ...] = (),
    unfinished: str = "",
    scripts: bool = True,
    emoji: bool = True,
) -> str:
    """Render the report as LaTeX; it expects ``figures/<name>.pdf`` beside it.

    The document is pdfLaTeX's, unless texts hold other scripts: then it is
    LuaLaTeX's, as its first line says.

    Args:
        findings: what the report says.
        figures: the figures, in the order in which they appear.
        answers: prompts with the answers of every arm.
        unfinished: sentence about runs that go on; empty where all have ended.
        scripts: print other scripts; else their characters are code points, and
            the document is pdfLaTeX's whatever it holds.
        emoji: print emoji, for which LuaLaTeX has a font; else they are named.
    """
    document = build_document(findings, figures, answers=answers, unfinished=unfinished)

    def render(scripts: Sequence[str], *, written: bool) -> str:
        template = tex_environment(scripts=written).get_template("report.tex")
        fonts = {name: FONTS[name] for name in scripts if name in FONTS}
        return template.render(document=document, is_lua=bool(scripts), fonts=fonts)

    source = render((), written=scripts)
    if not (found := scripts_of(source)):
        return source
    printed = [name for name in found if emoji or name != EMOJI]
    return render(printed, written=bool(printed))


def html_environment(references: Sequence[Reference]) -> jinja2.Environment:
    """Build the environment that escapes for HTML."""
    environment = _environment()
    environment.filters |= {
        "generated": generated_html,
        "prose": lambda text: prose_html(text, references),
    }
    return environment


def markdown_environment() -> jinja2.Environment:
    """Build the environment for Markdown; values are escaped as in HTML."""
    return _environment()


def tex_environment(*, scripts: bool = False) -> jinja2.Environment:
    """Build the environment that escapes for LaTeX, with other scripts or without.

    Values pass ``finalize``, which escapes all but ``Markup``; autoescape stays
    on so that macros return ``Markup`` and are not escaped a second time.
    """
    environment = _environment(
        finalize=lambda value: value if isinstance(value, Markup) else tex(value, scripts=scripts),
        block_start_string="((*",
        block_end_string="*))",
        variable_start_string="(((",
        variable_end_string=")))",
        comment_start_string="((=",
        comment_end_string="=))",
    )
    environment.filters |= {
        "generated": partial(generated_tex, scripts=scripts),
        "prose": prose_tex,
    }
    return environment


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
