"""A table's cells are the same in every skin, and are what the findings say."""

import csv
import dataclasses
import html.parser
import json
import re
from pathlib import Path

import pytest

from analysis.findings import Findings, IntervalRow
from analysis.printing import interval, mean_sd, p_value, quantity, signed, times
from paper import escape, opening
from paper.cells import Cell, Column, Group, Row, Table, cell, row
from paper.document import build_document
from paper.files import MANIFEST, write_tables
from paper.forest import forest
from paper.render import render_html, render_tex
from paper.tables import (
    claims,
    contrasts,
    costs,
    decisions,
    intervals,
    provenance,
    results,
    search,
)

Cells = list[list[str]]

TEX_NAMES = {
    **{printed: character for character, printed in escape._TEX.items()},
    r"\allowbreak{}": "",
    r"\linebreak ": " ",
    r"\bfseries ": "",
    r"\ttfamily ": "",
    r"\textbf": "",
    r"\cellnote": " ",
    "~": " ",
}


class Tables(html.parser.HTMLParser):
    """Collects the cells of every row in the bodies of a page's tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[Cells] = []
        self.body = self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tbody":
            self.body = True
        elif self.body and tag == "tr":
            self.tables[-1].append([])
        elif self.body and tag in {"td", "th"}:
            self.tables[-1][-1].append("")
            self.inside = True
        elif self.inside and (tag == "br" or ("class", "note") in attrs):
            self.tables[-1][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self.body = False
        elif tag in {"td", "th"}:
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside and self.body:
            self.tables[-1][-1][-1] += data


def tex_tables(source: str) -> list[Cells]:
    """Read the cells of every row in the bodies of a document's tables."""
    bodies = re.findall(r"\\endlastfoot\n(.*?)\\end\{longtable\}", source, re.DOTALL)
    return [[tex_row(line) for line in body.splitlines() if r"\\" in line] for body in bodies]


def tex_row(line: str) -> list[str]:
    spanned = re.match(r"\\multicolumn\{\d+\}\{L\{1\}\}(.*)", line)
    content = (spanned.group(1) if spanned else line).split(r"\\*")[0]
    content = re.sub(r"\\\\(\\addlinespace\[.*\])?$", "", content)
    return [untex(part) for part in re.split(r"(?<!\\)&", content)]


def untex(text: str) -> str:
    """Undo the escapes of one cell."""
    names = sorted(TEX_NAMES, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, names)) + r"|[{}]")
    return pattern.sub(lambda found: TEX_NAMES.get(found.group(), ""), text)


def flat(text: str) -> str:
    return " ".join(text.split())


def flattened(tables: list[Cells]) -> list[Cells]:
    return [[[flat(text) for text in cells] for cells in rows] for rows in tables]


def printed(table: Table) -> Cells:
    """List the text of a table's rows, headings of groups among them."""
    rows: Cells = []
    for group in table.groups:
        if group.heading:
            spans = "".join(span.text for span in group.heading.spans)
            rows.append([flat(f"{spans} {group.heading.note}")])
        rows += [
            [flat(" ".join((*made.lines, made.note))) for made in found.cells]
            for found in group.rows
        ]
    return rows


def test_every_cell_is_the_same_in_both_skins(findings: Findings) -> None:
    document = build_document(findings, ())
    on_screen = [printed(table) for table in document.tables]
    in_print = [printed(table) for table in document.tables if table not in document.unprinted]

    assert len(on_screen) > 20
    assert len(on_screen) > len(in_print) > 8
    assert flattened(Tables(render_html(findings, (), {})).tables) == on_screen
    assert flattened(tex_tables(render_tex(findings, ()))) == in_print


def test_every_table_is_a_file_and_print_names_those_that_it_leaves_out(
    findings: Findings, tmp_path: Path
) -> None:
    document = build_document(findings, ())
    write_tables(document.tables, tmp_path)
    page, source = render_html(findings, (), {}), render_tex(findings, ())

    files = {path.stem for path in tmp_path.iterdir() if path.name != MANIFEST}
    assert files == {table.name for table in document.tables}
    for table in document.tables:
        rows = json.loads((tmp_path / f"{table.name}.json").read_text(encoding="utf-8"))["rows"]
        with (tmp_path / f"{table.name}.csv").open(encoding="utf-8", newline="") as file:
            assert len(list(csv.reader(file))) == 1 + len(rows)
        assert len(rows) == sum(len(group.rows) for group in table.groups)
        assert page.count(f'href="tables/{table.name}.csv"') == 1
        left_out = rf"\item \texttt{{{table.name}}}" in re.sub(r"\\allowbreak\{\}", "", source)
        assert left_out == (table in document.unprinted)


def test_only_tables_of_an_earlier_report_are_removed(findings: Findings, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    tables = build_document(findings, ()).tables
    outside = tmp_path / "kept.csv"
    outside.write_text("mine", encoding="utf-8")
    write_tables(tables, folder)
    for name in ("mine.csv", "mine.json"):
        (folder / name).write_text("mine", encoding="utf-8")
    (folder / MANIFEST).write_text(
        (folder / MANIFEST).read_text(encoding="utf-8") + "../kept.csv\n", encoding="utf-8"
    )
    write_tables(tables[1:], folder)

    assert not (folder / f"{tables[0].name}.csv").exists()
    assert (folder / f"{tables[1].name}.csv").exists()
    assert (folder / "mine.csv").read_text(encoding="utf-8") == "mine"
    assert (folder / "mine.json").read_text(encoding="utf-8") == "mine"
    assert outside.exists()


GROUP = IntervalRow(
    recipe="all models",
    baseline="sft",
    treatment="orpo",
    metric="accuracy",
    estimate=0.05,
    low=0.01,
    high=0.09,
    n_examples=40,
    grouping="source",
    group="here",
)


def test_subgroups_show_effects_intervals_and_n_of_both_metrics(findings: Findings) -> None:
    bare = dataclasses.replace(GROUP, metric="exact_match", low=None, high=None, n_examples=1200)
    told = dataclasses.replace(findings, subgroups=(GROUP, bare))
    table = intervals.subgroups(told, "all models", "orpo")
    assert table is not None

    assert intervals.scopes(told) == (("all models", "orpo"),)
    assert texts(table.groups[0].rows[0]) == [
        "here", "+0.050 [0.010, 0.090], n 40", "+0.050 –, n 1,200",
    ]  # fmt: skip
    assert "subgroups-all-models-orpo" in {t.name for t in build_document(told, ()).tables}
    assert intervals.subgroups(findings, "no model", "orpo") is None


def test_the_matched_arm_has_a_table_where_the_records_have_it(findings: Findings) -> None:
    row = dataclasses.replace(GROUP, baseline="sft-matched", grouping="", group="")
    told = dataclasses.replace(findings, matched=(row,))
    table = intervals.matched(told)
    assert table is not None

    assert intervals.matched(findings) is None
    assert table.caption.startswith("ORPO minus token-matched SFT, which was given as many")
    assert texts(table.groups[0].rows[0])[0] == "all models"
    assert "matched" in {made.name for made in build_document(told, ()).tables}


def test_the_words_name_the_arms_of_the_records(findings: Findings) -> None:
    matched = dataclasses.replace(
        next(row for row in findings.arms if row.arm == "sft"), arm="sft-matched"
    )
    four = dataclasses.replace(findings, arms=(*findings.arms, matched))
    two = dataclasses.replace(
        findings, arms=tuple(row for row in findings.arms if row.arm in ("base", "sft"))
    )
    pages = {n: render_html(found, (), {}) for n, found in ((2, two), (3, findings), (4, four))}

    for n, name in ((2, "two"), (3, "three"), (4, "four")):
        assert f"This report has {name} arms" in pages[n]
    assert "is SFT for as many distinct tokens" in pages[4]
    assert "is SFT for as many distinct tokens" not in pages[3]
    assert "with SFT or with ORPO?" in pages[4]
    assert "one trained arm" in pages[2]


def test_the_answer_stands_in_three_rows(findings: Findings) -> None:
    table = decisions.answer(findings)
    assert table is not None
    made, found = table.groups[0].rows, findings.decisions[0]

    assert [texts(each)[0] for each in made] == ["Ranking of given pairs", "Own answers", "Cost"]
    assert texts(made[0])[1] == signed(found.metrics[0].estimate, 3)
    assert texts(made[1])[2] == interval(found.metrics[1].low, found.metrics[1].high, 3)
    assert [decisions.words(one) for one in found.metrics] == [texts(m)[3] for m in made[:2]]
    assert texts(made[2])[1].endswith("×")


def test_nothing_is_said_or_advised_of_what_was_not_tested(findings: Findings) -> None:
    first = findings.decisions[0]
    bare = tuple(dataclasses.replace(one, low=None, high=None) for one in first.metrics)
    untested = dataclasses.replace(findings, decisions=(dataclasses.replace(first, metrics=bare),))

    assert {decisions.words(one) for one in bare} == {"not tested"}
    assert "Take " in str(opening.advice(findings))
    assert "Take " not in str(opening.advice(untested))


def test_advice_on_several_arms_names_both_sides(findings: Findings) -> None:
    first = findings.decisions[0]
    other = dataclasses.replace(first, treatment="dpo")
    told = str(opening.advice(dataclasses.replace(findings, decisions=(first, other))))

    assert "ORPO against SFT, where its own answers count', 'take " in told
    assert "DPO against SFT, where its own answers count', 'take " in told
    assert "Take " not in told


def test_the_box_tells_what_was_chosen_after_a_look(findings: Findings) -> None:
    first = findings.decisions[0]
    seen = dataclasses.replace(first.metrics[1], late=True)
    late = dataclasses.replace(first, metrics=(first.metrics[0], seen))
    looked = dataclasses.replace(findings, decisions=(late,), history=("x.", "y."))
    kept = dataclasses.replace(findings, history=("x.", "y."), n_earlier=2)
    before, after = dict(opening.status(findings).items), dict(opening.status(looked).items)
    earlier = dict(opening.status(kept).items)

    assert before["Data"] == "a toy language, not real data"
    assert after["Chosen after seeing test scores"] == "exact match"
    assert after["Plan"] == "amended: 2 changes after results"
    assert earlier["Plan"].startswith("kept since these runs were begun")
    assert earlier["Chosen after seeing test scores"] == "2 choices noted by the authors"


def test_the_forest_shows_registered_metrics_with_their_band(findings: Findings) -> None:
    drawn = forest(findings, "sft", "orpo", "ORPO − SFT")
    assert drawn is not None
    panel = drawn.panels[0]

    assert panel.name == "accuracy"
    assert {"exact-match", "margin", "nll"} >= {other.name for other in drawn.panels[1:]}
    assert panel.band is not None
    assert panel.band[0] < panel.zero < panel.band[1]
    for effect in panel.effects:
        assert effect.low <= effect.x <= effect.high
        assert effect.text in panel.alt
    assert forest(findings, "sft", "base", "") is None


def test_every_row_has_a_cell_for_every_column(findings: Findings) -> None:
    tables = build_document(findings, ()).tables

    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert sum(column.width for column in table.columns) == pytest.approx(1, abs=0.011)
        for group in table.groups:
            assert {len(found.cells) for found in group.rows} <= {len(table.columns)}


def test_arms_show_settings_then_scores_with_the_primary_one_set_apart(
    findings: Findings,
) -> None:
    table = results.arms(findings, "tiny-llama")
    rows = [made for group in table.groups for made in group.rows]
    arm = next(a for a in findings.arms if (a.recipe, a.arm) == ("tiny-llama", "orpo"))
    score = arm.scores["accuracy"]
    primary, answers = (made for made in rows if made.primary)

    assert [column.head for column in table.columns[1:]] == ["Base", "SFT", "ORPO"]
    assert texts(rows[0]) == ["learning rate", "–", "2.5e-3", "3.2e-3"]
    assert texts(primary)[0] == "preference accuracy\N{NO-BREAK SPACE}↑"
    assert texts(primary)[3] == mean_sd(score.mean, score.sd, 3)
    assert texts(answers)[0] == "exact match\N{NO-BREAK SPACE}↑"


def test_tests_show_effect_interval_failures_and_remark(findings: Findings) -> None:
    found = findings.pooled[0]
    table = contrasts.tests(findings, findings.pooled)
    made = table.groups[0].rows[0]

    assert texts(made)[1] == signed(found.estimate, 3)
    assert made.cells[2] == cell(
        interval(found.low, found.high, 3),
        note=f"with failures {interval(found.bound_low, found.bound_high, 3)}",
    )
    assert texts(made)[3] == p_value(found.p_value)
    assert made.cells[8] == cell("better by at least 0.02", note="when it converges", tone="better")
    assert table.groups[0].heading is not None
    assert f" {found.null_hypothesis}. " in [span.text for span in table.groups[0].heading.spans]


def test_decisions_show_both_metrics_costs_failures_and_the_verdict(findings: Findings) -> None:
    table = decisions.decisions(findings)
    assert table is not None
    first, found = table.groups[0].rows[0], findings.decisions[0]
    ranking, answers = found.metrics

    assert len(table.groups[0].rows) == len(findings.decisions) == 3
    assert first.cells[0] == cell("all models", note="ORPO − SFT")
    assert first.cells[1].lines[0] == signed(ranking.estimate, 3)
    assert first.cells[2].lines == (
        signed(answers.estimate, 3),
        interval(answers.low, answers.high, 3),
    )
    assert p_value(answers.p_adjusted) in first.cells[2].note
    assert "models alike p" in first.cells[1].note
    assert first.cells[4].lines == ("0 of 6 SFT", "1 of 6 ORPO")
    assert texts(first)[5] == found.outcome


def test_claims_show_verdict_source_scale_and_every_prediction(findings: Findings) -> None:
    table = claims.claims(findings)
    for group, rows in zip(table.groups, claims.by_claim(findings.claims), strict=True):
        assert group.heading is not None
        assert rows[0].verdict.capitalize() in [span.text for span in group.heading.spans]
        assert f"made on {rows[0].made_at}. Here: {rows[0].here}." in group.heading.note
        assert (f"Not testable: {rows[0].remark}." in group.heading.note) == bool(rows[0].remark)
        assert [made.cells[0].note for made in group.rows] == [p.test for p in rows[0].parts]
    by_model = claims.claims_by_model(findings)
    assert by_model is not None
    assert len(by_model.groups) == 2 * len(table.groups)


def test_costs_stand_beside_what_they_are_compared_with(findings: Findings) -> None:
    assert findings.bench is not None
    made = costs.bench(findings.bench).groups[0].rows
    for shown, found in zip(made, findings.bench.rows, strict=True):
        assert texts(shown)[2:] == [
            quantity(found.ours, found.unit), quantity(found.theirs, found.unit),
            times(found.ratio),
        ]  # fmt: skip


def test_a_missed_promise_is_said(findings: Findings) -> None:
    missed = dataclasses.replace(findings.calibration[0], low=0.77, high=0.83, passed=False)
    table = provenance.calibration(dataclasses.replace(findings, calibration=(missed,)))

    assert table is not None
    assert texts(table.groups[0].rows[0])[4].endswith("83.0\N{NO-BREAK SPACE}%, missed")


@pytest.mark.parametrize(
    ("make", "without"),
    [(results.rouge, {"rouge": ()}), (search.published, {"searches": ()}),
     (search.weights, {"tuning": ()}), (search.early, {"tuning": ()}),
     (claims.claims_by_model, {"claims": ()}), (provenance.calibration, {"calibration": ()})],
)  # fmt: skip
def test_a_table_with_nothing_to_show_is_none(make, without, findings: Findings) -> None:
    assert make(findings) is not None
    assert make(dataclasses.replace(findings, **without)) is None


def test_shared_heads_span_their_columns() -> None:
    columns = tuple(Column(head="x", width=0.2, over=over) for over in ("", "a", "a", "b", ""))
    table = Table(name="t", columns=columns, groups=(Group(rows=(row(*"12345"),)),), caption="",
                  note="", signature="")  # fmt: skip

    assert table.overheads == (("", 1, 1), ("a", 2, 3), ("b", 4, 4), ("", 5, 5))
    assert dataclasses.replace(table, columns=columns[:1]).overheads == ()


def texts(made: Row) -> list[str]:
    return [" ".join(each.lines) if isinstance(each, Cell) else each for each in made.cells]
