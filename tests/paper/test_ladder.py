"""The section on how an article's published gap moves: there where one was reproduced."""

import dataclasses

import pytest

from analysis.findings import FigureFile, Findings, LadderRow
from paper.document import build_document
from paper.render import render_html, render_tex
from paper.tables import ladder

ROW = LadderRow(
    recipe="all models",
    rung="published",
    touches="",
    published="",
    mended="",
    metric="rougeL",
    baseline=0.104,
    treatment=0.098,
    estimate=-0.006,
    low=-0.011,
    high=-0.001,
    by_seed=(-0.009, -0.003),
    n_examples=40,
)
FIGURE = FigureFile(name="ladder", caption="Gaps.", section="ladder", alt="Gaps.")


@pytest.fixture(scope="module")
def climbed(findings: Findings) -> Findings:
    told = {"published": "SFT has no <dropout>.", "mended": "Neither has 5 % any."}
    rungs = [("dropout", "training", 0.004), ("denominator", "scoring", -0.012)]
    rows = [ROW, *(
        dataclasses.replace(ROW, rung=rung, touches=touches, estimate=estimate, **told)
        for rung, touches, estimate in reversed(rungs)
    )]  # fmt: skip
    ranked = [dataclasses.replace(row, metric="accuracy", low=None, high=None) for row in rows]
    one = [dataclasses.replace(row, recipe="tiny-llama") for row in (*rows, *ranked)]
    return dataclasses.replace(
        findings, ladder=(*rows, *ranked, *one), ladder_remarks=("The gap moves.",)
    )


def test_a_reproduction_has_a_section_with_its_figure_and_its_table(climbed: Findings) -> None:
    document = build_document(climbed, (FIGURE,))
    (section,) = (one for one in document.sections if one.name == "ladder")
    kinds = [block.kind for block in section.blocks]

    assert kinds == ["prose", "bullets", "figure", "table"]
    assert {"ladder", "ladder-tiny-llama"} <= {table.name for table in document.tables}


def test_without_a_reproduction_there_is_no_section(findings: Findings) -> None:
    document = build_document(findings, ())

    assert "ladder" not in [section.name for section in document.sections]
    assert ladder.ladder(findings) is None
    assert ladder.by_model(findings) == []


def test_a_rung_prints_what_was_published_what_is_mended_and_both_gaps(climbed: Findings) -> None:
    table = ladder.ladder(climbed)
    assert table is not None
    published, scoring, training = (group.rows[0] for group in table.groups)
    headings = [group.heading.spans[0].text for group in table.groups if group.heading]

    assert published.cells[0].lines == ("As published",)
    assert published.cells[1].lines == ("−0.006 [−0.011, −0.001]",)
    assert published.cells[1].note == "0.104, 0.098; seeds −0.009 to −0.003"
    assert scoring.cells[1].lines[0].startswith("−0.012 ")
    assert training.cells[0].lines == ("Neither has 5 % any.",)
    assert training.cells[0].note == "dropout. Published: SFT has no <dropout>."
    assert training.cells[2].lines == ("+0.004 –",)
    assert headings == ["Scoring mended, the same runs", "Training mended"]
    assert "2 runs of each arm, 40 answers and 40 pairs" in table.caption


def test_both_skins_print_the_section(climbed: Findings) -> None:
    page = render_html(climbed, (FIGURE,), {"ladder": b"<svg viewBox='0 0 1 1'/>"})
    source = render_tex(climbed, (FIGURE,))

    assert "SFT has no &lt;dropout&gt;." in page
    assert r"Neither has 5 \% any." in source
    assert "figures/ladder" in source
