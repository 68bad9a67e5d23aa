"""Prompts with everybody's answers: who is right, and how a reader finds them."""

import re
from collections.abc import Callable
from pathlib import Path

import made_records
import pytest

from analysis.findings import Findings
from analysis.records.load import load_study
from paper import build
from paper.blocks import Answers, Said
from paper.browser import agreement, prompts_of, samples_of


def asked(number: int, *, sft: bool, orpo: bool, recipe: str = "tiny") -> Answers:
    return Answers(
        place=f"{recipe}, test pair {number}",
        prompt=f"user: question {number}",
        answers=(
            Said(who="Chosen answer", text="Six."),
            Said(who="Base", text="."),
            Said(who="SFT", text="Six." if sft else "Two.", is_right=sft),
            Said(who="ORPO", text="Six." if orpo else "Two.", is_right=orpo),
        ),
    )


PROMPTS = (
    *(asked(number, sft=True, orpo=True) for number in range(5)),
    *(asked(number, sft=True, orpo=False) for number in range(5, 7)),
    asked(7, sft=False, orpo=True),
    *(asked(number, sft=False, orpo=False) for number in range(8, 12)),
)


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


def test_right_and_wrong_are_those_of_the_records(tmp_path: Path) -> None:
    records = load_study(made_records.make_whole_study(tmp_path / "runs"))
    prompts = prompts_of(records)
    run = records.ok("tiny-llama", "orpo")[0]
    assert run.examples is not None
    scored = dict(zip(run.examples["example_id"], run.examples["exact_match"], strict=True))
    shown = {
        found.place.rpartition(" ")[2]: said.is_right
        for found in prompts
        if found.place.startswith("tiny-llama,")
        for said in found.answers
        if said.who == "ORPO"
    }

    assert shown
    assert shown == {example: scored[example] == 1 for example in shown}


@pytest.mark.slow
def test_a_reader_filters_prompts_and_reads_some_without_scripts(
    findings: Findings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    title_of: Callable[[Path], str],
) -> None:
    monkeypatch.setattr(build, "compile_pdf", lambda tex: (None, None))
    build.write_report(findings, (), tmp_path, answers=PROMPTS)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<iframe id="f" src="report.html" style="width:1000px;height:900px"></iframe><script>'
        "onload = () => { const page = document.getElementById('f').contentDocument;"
        "const form = page.querySelector('form.browser'); const told = [];"
        "const tell = () => told.push(form.querySelector('output').textContent + ' / ' +"
        "[...page.querySelectorAll('article')].filter((one) => !one.hidden).length + ' / ' +"
        "[...page.querySelectorAll('[data-arm=SFT]')].filter((one) => !one.hidden).length);"
        "const set = (name, value) => { form.elements[name].value = value;"
        "form.dispatchEvent(new Event('input')); tell(); };"
        "tell(); form.elements.on.click(); tell(); set('group', 'only SFT right');"
        "set('group', ''); set('text', 'question 11'); set('text', 'zzz'); set('text', '');"
        "set('arm', 'ORPO'); document.title = told.join('; '); }</script>",
        encoding="utf-8",
    )
    told = title_of(frame)

    assert page.count("<article") - len(re.findall(r"<article[^>]* hidden>", page)) == 3
    assert told.split("; ") == [
        "1 to 3 of 12 prompts / 3 / 12",
        "4 to 6 of 12 prompts / 3 / 12",
        "1 to 2 of 2 prompts / 2 / 12",
        "1 to 3 of 12 prompts / 3 / 12",
        "1 to 1 of 1 prompts / 1 / 12",
        "no such prompt / 0 / 12",
        "1 to 3 of 12 prompts / 3 / 12",
        "1 to 3 of 12 prompts / 3 / 0",
    ]
