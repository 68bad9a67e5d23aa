"""Prompts with everybody's answers: who is right, and how a reader finds them."""

from pathlib import Path

import made_records
import pytest
from made_answers import PROMPTS, asked

from analysis.findings import Findings
from analysis.records.load import load_study
from paper.blocks import Answers, Said, Told
from paper.browser import agreement, browser, prompts_of, samples_of


def test_prompts_are_grouped_by_who_is_right() -> None:
    assert [PROMPTS[place].group for place in (0, 5, 7, 8)] == [
        "all are right",
        "only SFT right",
        "only ORPO right",
        "none is right",
    ]


def test_who_is_right_where_is_counted() -> None:
    table = agreement(PROMPTS, "signature")
    assert table is not None
    rows = {row.cells[0].lines[0]: row.cells[1].lines[0] for row in table.groups[0].rows}

    assert {name: text.split()[0] for name, text in rows.items()} == {
        "all are right": "5",
        "only SFT right": "2",
        "only ORPO right": "1",
        "none is right": "4",
    }


def test_nothing_is_counted_where_nobody_knows_what_is_right(findings: Findings) -> None:
    samples = samples_of(findings)

    assert samples
    assert {found.group for found in samples} == {""}
    assert agreement(samples, "signature") is None


def test_answers_of_every_seed_are_those_of_the_records(tmp_path: Path) -> None:
    records = load_study(made_records.make_whole_study(tmp_path / "runs"))
    prompts = [found for found in prompts_of(records) if found.recipe == "tiny-llama"]
    expected = set()
    for run in records.ok("tiny-llama", "orpo"):
        assert run.examples is not None
        scored = dict(zip(run.examples["example_id"], run.examples["exact_match"], strict=True))
        expected |= {
            (row["example_id"], run.seed, row["text"], scored[row["example_id"]] == 1)
            for row in run.generations
        }
    shown = {
        (found.example, seed, told.text, told.is_right)
        for found in prompts
        for said in found.answers
        if said.who == "ORPO"
        for told in said.told
        for seed in told.seeds
    }

    assert len(records.ok("tiny-llama", "orpo")) == 3
    assert shown == expected


def test_a_page_holds_a_limited_text_and_says_what_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two = (*PROMPTS, *(asked(number, sft=True, orpo=True, recipe="other") for number in range(9)))
    monkeypatch.setattr("paper.browser.MOST_CHARACTERS", 300)
    held = browser(two, shown=2)

    assert {found.recipe for found in held.prompts} == {"tiny", "other"}
    assert 2 <= len(held.prompts) < len(two)
    assert held.left_out.startswith(f"The page holds {len(held.prompts)} of {len(two)} answered")
    assert browser(PROMPTS[:2], shown=2).left_out == ""


def test_only_filters_with_a_choice_are_offered() -> None:
    names = [name for name, _, _ in browser(PROMPTS, shown=2).filters]

    assert names == ["group", "source"]
    assert browser(PROMPTS[:1], shown=2).filters == ()


def test_rare_combinations_of_many_arms_are_added_up() -> None:
    arms = [f"arm {place}" for place in range(6)]
    prompts = [
        Answers(
            recipe="tiny",
            example=str(number),
            source="",
            prompt="",
            answers=tuple(
                Said(who=arm, told=(Told(text="", seeds=(1,), is_right=bool(number >> place & 1)),))
                for place, arm in enumerate(arms)
            ),
        )
        for number in [*range(64), 0, 0]
    ]
    table = agreement(prompts, "signature")
    assert table is not None
    rows = [[cell.lines[0] for cell in row.cells] for row in table.groups[0].rows]

    assert len(rows) == 9
    assert rows[0] == ["none is right", rows[0][1]]
    assert rows[-1][0] == "56 other combinations of arms"
    assert sum(int(row[1].split()[0]) for row in rows) == len(prompts)
    assert prompts[62].group == "all but arm 0 right"
    assert prompts[3].group == "only arm 0 and arm 1 right"
