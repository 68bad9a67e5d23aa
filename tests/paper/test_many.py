"""The report of ten arms: what has a row for each arm, and what is said of them together."""

import dataclasses

import made_arms
import pytest

from analysis.findings import Findings
from analysis.printing import arm_colour, arm_name, interval, p_value, percent, signed
from paper import many, opening, render, wording
from paper.cells import Table
from paper.document import build_document
from paper.forest import arms_forest
from paper.readme import TOY, block
from paper.tables import costs, decisions, pairs, results, several
from study.arms import ARMS

TRAINED = [arm_name(name) for name in ARMS if name != "base"]


@pytest.fixture(scope="module")
def ten(findings: Findings) -> Findings:
    """Findings on every arm."""
    return made_arms.with_every_arm(findings)


def rows_of(table: Table | None) -> list[list[str]]:
    """Return the cells of every row as text."""
    assert table is not None
    return [
        [" ".join(cell.lines) for cell in row.cells] for group in table.groups for row in group.rows
    ]


def test_the_verdict_has_one_row_for_each_arm_the_best_first(ten: Findings) -> None:
    rows = rows_of(decisions.answer(ten))
    first = ten.decisions[0].metrics[0]

    assert sorted(row[0] for row in rows) == sorted(set(TRAINED) - {"SFT"})
    assert rows[0][0] == "token-matched SFT"
    assert [row[-1] for row in (rows[0], rows[1], rows[-1])] == ["better", "trade-off", "worse"]
    assert rows[0][1] == f"{signed(first.estimate, 3)} {interval(first.low, first.high, 3)}"
    assert all(row[3].endswith("×") for row in rows)


def test_the_forest_has_arms_for_rows_in_their_colours(ten: Findings) -> None:
    found = decisions.overall(ten)
    drawn = arms_forest(ten, found)
    assert drawn is not None
    names = {arm_name(row.treatment): arm_colour(row.treatment) for row in found}

    for panel in drawn.panels:
        assert {effect.name: effect.colour for effect in panel.effects} == names
    page = render.render_html(ten, (), {})
    assert page.count('<figure class="forest">') == 1
    assert page.count("--own: var(--figure-0072b2, #0072b2)") == len(drawn.panels)


@pytest.mark.parametrize(
    "make",
    [results.scores, costs.cost, several.searches, several.overview],
    ids=["scores", "cost", "searches", "overview"],
)
def test_tables_have_a_row_for_each_arm_and_cells_for_every_column(make, ten: Findings) -> None:
    table = make(ten)
    assert table is not None
    named = {row[0] for row in rows_of(table)} - {"Base"}

    assert named >= {arm_name(row.arm) for row in ten.searches}
    assert named <= set(TRAINED)
    assert {len(row) for row in rows_of(table)} == {len(table.columns)}
    assert sum(column.width for column in table.columns) == pytest.approx(1, abs=0.011)


def test_few_arms_keep_their_tables(findings: Findings) -> None:
    assert several.overview(findings) is None
    assert rows_of(decisions.answer(findings))[0][0] == "Ranking of given pairs"
    assert results.scores(findings).columns[1].over == "tiny-llama"
    assert {row[0] for row in rows_of(costs.cost(findings))} >= {"tiny-llama, ORPO"}


def test_costs_name_the_parts_of_start_and_reference(ten: Findings) -> None:
    dear = dataclasses.replace(
        ten,
        costs=tuple(
            dataclasses.replace(row, start_s=10.0, reference_s=2.0, search_s=60.0)
            if row.arm == "dpo"
            else row
            for row in ten.costs
        ),
    )
    rows = {row[0]: row for row in rows_of(costs.cost(dear))}

    assert rows["DPO"][2] == "10.0 s, 2.0 s"
    assert rows["DPO"][-1] == "1 min 0 s"
    assert rows["ORPO"][2] == "–"


def test_all_pairs_are_shown_once_with_their_corrected_p(ten: Findings) -> None:
    table = pairs.pairs(ten, ten.best_sets[0])
    cells = [cell for row in table.groups[0].rows for cell in row.cells[1:] if cell.lines != ("",)]
    orpo = next(row for row in table.groups[0].rows if row.cells[0].lines == ("ORPO",))

    assert len(cells) == len(ten.best_sets[0].pairs) == 36
    assert orpo.cells[1].lines == ("+0.050",)
    assert orpo.cells[1].note == p_value(0.01)
    assert orpo.cells[1].tone == "better"
    assert rows_of(pairs.best(ten))[0][1] == "ORPO, DPO"


def test_displacement_and_implicit_rewards_are_shown_by_arm(ten: Findings) -> None:
    dpo, cpo = rows_of(pairs.displaced(ten))[:2]

    assert dpo[1:] == [
        "SFT",
        "−0.500 [−0.600, −0.400]",
        "+0.500 [0.400, 0.600]",
        "+1.00 / −2.00",
        percent(0.75),
        "yes",
    ]
    assert cpo[-3:] == ["–", "–", "no"]


def test_advice_has_at_most_eight_items_and_no_settings(ten: Findings) -> None:
    edges = tuple(dataclasses.replace(row, at_edge=("beta",)) for row in ten.searches)
    items = dict(many.advice(dataclasses.replace(ten, searches=edges)))

    assert len(items) <= 8
    assert items["Where its own answers count"].startswith("take ORPO, or DPO, not shown to be")
    assert items["For both"].startswith("shown to be better than SFT, the cheapest first: token-")
    assert items["Watch what it writes"].startswith("DPO made chosen answers less likely")
    assert items["Search more widely"].count("β of ") == len(edges)
    assert "learning rate" not in str(opening.advice(ten))


@pytest.mark.parametrize(
    ("arms", "title"),
    [
        (("SFT", "ORPO"), "Should I train my small model with SFT or with ORPO?"),
        (("SFT", "ORPO", "DPO"), "How should I train my small model: SFT, ORPO or DPO?"),
        (TRAINED, "How should I train my small model: SFT, "),
    ],
    ids=["two", "three", "all"],
)
def test_the_title_asks_about_the_methods_there_are(arms, title) -> None:
    assert wording.title(arms).startswith(title)


def test_every_method_is_introduced_with_its_start_and_its_source(ten: Findings) -> None:
    text = wording.arms(ten)

    for arm in ARMS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"- **{arm_name(arm)}** ")]
        assert ("after SFT" in line) == (ARMS[arm].starts_from == "sft")
        assert ("[@" in line) == (arm in wording.CITED)
    assert "spend half of them there" in wording.alike(ten)
    assert set(wording.ARMS) == set(ARMS)


def test_what_others_found_stands_with_many_arms_alone(ten: Findings, findings: Findings) -> None:
    pages = [render.render_html(found, (), {}) for found in (ten, findings)]

    assert ["What others found" in page for page in pages] == [True, False]
    assert pages[0].count("abstract alone read") == 3


def test_the_readme_has_a_row_for_each_arm_with_both_models(ten: Findings) -> None:
    lines = [line for line in block(ten, TOY).splitlines() if line.startswith("| ")]

    assert len(lines) == 1 + len(ARMS)
    assert {line.count("|") for line in lines} == {8}


def test_names_of_tables_are_unique_and_the_contents_short(ten: Findings) -> None:
    document = build_document(ten, ())
    tables = document.tables

    assert len({table.name for table in tables}) == len(tables)
    assert len(document.appendix.blocks) < 36
