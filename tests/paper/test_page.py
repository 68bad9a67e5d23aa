"""The page in a real browser: keyboard, widths, print, figures, tables, and axe-core."""

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chrome import Chrome
from made_answers import PROMPTS

from analysis.findings import FigureFile, Findings
from paper import build

pytestmark = pytest.mark.slow

AXE = "axe-core@4.14.1"
"""Checked by npm against what its registry says of this version."""
Draw = Callable[[Path], tuple[FigureFile, ...]]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, installed for these tests alone."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which installs axe-core, is not installed")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder,
               "--cache", folder / "cache", "--fetch-retries=0", AXE]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install axe-core within 90 s")
    if done.returncode:
        pytest.skip(f"npm cannot install axe-core: {done.stderr.strip().splitlines()[0]}")
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(findings: Findings, draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of findings with every field filled, with figures and answers."""
    out = tmp_path_factory.mktemp("page")
    return written(findings, draw(out / "figures"), out)


def written(findings: Findings, figures: tuple[FigureFile, ...], out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "compile_pdf", lambda tex: (None, None))
        return build.write_report(findings, figures, out, answers=PROMPTS).html


OPEN = "for (const one of document.querySelectorAll('details')) one.open = true;"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_violation(page: Path, chrome: Chrome, axe: str, dark: bool) -> None:
    chrome.open(page, dark=dark)
    chrome.run(OPEN)
    chrome.run(axe + "; 1")
    found = chrome.run(
        "axe.run().then((result) => result.violations.map((one) => [one.impact, one.id,"
        " one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))]))"
    )

    assert [one for one in found if one[0] in {"serious", "critical"}] == []


def test_axe_is_heard(page: Path, chrome: Chrome, axe: str) -> None:
    chrome.open(page)
    chrome.run("document.querySelector('form.browser select').parentElement.replaceWith("
               "document.querySelector('form.browser select'))")  # fmt: skip
    chrome.run(axe + "; 1")
    found = chrome.run("axe.run().then((result) => result.violations.map((one) => one.impact))")

    assert {"serious", "critical"} & set(found)


@pytest.mark.parametrize("width", [390, 1000, 1400])
def test_nothing_overflows(
    width: int, hostile_findings: Findings, draw: Draw, tmp_path: Path, chrome: Chrome
) -> None:
    told = written(hostile_findings, draw(tmp_path / "figures"), tmp_path)
    chrome.open(told, width=width)
    chrome.run(OPEN)

    assert chrome.run("document.documentElement.scrollWidth") <= width


def test_every_control_is_reached_by_tab_and_its_focus_is_seen(page: Path, chrome: Chrome) -> None:
    chrome.open(page)
    wanted = chrome.run(
        "window.controls = [...document.querySelectorAll('a[href], button, select, input, summary,"
        ' [tabindex="0"]\')].filter((one) => !one.disabled && one.checkVisibility()'
        " && one.offsetParent); controls.length"
    )
    seen, unseen = set(), []
    for _ in range(wanted + 5):
        chrome.press("Tab")
        place, outline = chrome.run(
            "[controls.indexOf(document.activeElement),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        seen.add(place)
        if place >= 0 and outline == "none":
            unseen.append(place)

    assert wanted > 60
    assert set(range(wanted)) - seen == set()
    assert unseen == []


def test_tables_are_sorted_by_keyboard_within_their_groups(page: Path, chrome: Chrome) -> None:
    chrome.open(page)
    column = (
        "[...document.querySelector('#caption-cost').closest('table').tBodies[0].rows]"
        ".map((row) => row.cells[1].innerText)"
    )
    head = "document.querySelector('#caption-cost').closest('table').tHead.rows[0].cells[1]"
    before = chrome.run(column)
    chrome.run(f"{head}.querySelector('button').focus()")
    chrome.press("Enter")
    rising, told = chrome.run(column), chrome.run(f"{head}.getAttribute('aria-sort')")
    chrome.press(" ")

    assert sorted(rising) == sorted(before)
    assert told == "ascending"
    assert rising[:2] == ["0.0 s", "0.0 s"]
    assert chrome.run(f"{head}.getAttribute('aria-sort')") == "descending"
    assert chrome.run(column)[-1] == "0.0 s"


def test_durations_and_memory_are_sorted_by_size(page: Path, chrome: Chrome) -> None:
    chrome.open(page)
    sizes = ["2 min 5 s", "1 h 0 min", "8.2 s", "1.2 GiB", "900 MiB"]
    rising = chrome.run(
        "(() => { const table = document.querySelector('#caption-cost').closest('table');"
        " const body = table.tBodies[0], first = body.rows[0];"
        f" body.replaceChildren(...{sizes}.map((size) => {{ const row = first.cloneNode(true);"
        " row.cells[1].textContent = size; return row; }));"
        " table.tHead.rows[0].cells[1].querySelector('button').click();"
        " return [...body.rows].map((row) => row.cells[1].textContent); })()"
    )

    assert [one for one in rising if "B" not in one] == ["8.2 s", "2 min 5 s", "1 h 0 min"]
    assert [one for one in rising if "B" in one] == ["900 MiB", "1.2 GiB"]


def test_a_reader_browses_answers_by_keyboard(page: Path, chrome: Chrome) -> None:
    chrome.open(page)

    def told() -> list[object]:
        return list(
            chrome.run(
                "[document.querySelector('form.browser output').textContent,"
                " [...document.querySelectorAll('article')].filter((one) => !one.hidden).length,"
                " [...document.querySelectorAll('article:not([hidden]) [data-arm=SFT]')]"
                ".filter((one) => !one.hidden).length]"
            )
        )

    def choose(name: str, value: str) -> None:
        chrome.run(
            f"{{ const field = document.querySelector('form.browser').elements['{name}'];"
            f" field.value = '{value}';"
            " field.dispatchEvent(new Event('input', {bubbles: true})) }"
        )

    start = told()
    chrome.run("document.querySelector('form.browser').elements.on.focus()")
    chrome.press("Enter")
    following = told()
    chrome.run("document.querySelector('form.browser').elements.group.focus()")
    chrome.press("o")  # the first option that begins so
    right = chrome.run("document.querySelector('form.browser').elements.group.value")
    choose("group", "only SFT right")
    filtered = told()
    choose("group", "")
    choose("source", "toy/odd")
    odd = told()
    choose("source", "")
    chrome.run("document.querySelector('form.browser').elements.text.focus()")
    for character in "11":
        chrome.press(character)
    searched = told()
    choose("text", "zzz")
    nothing = told()
    choose("text", "")
    choose("arm", "ORPO")

    assert start == ["1 to 2 of 12 prompts", 2, 2]
    assert following == ["3 to 4 of 12 prompts", 2, 2]
    assert right == "only ORPO right"
    assert filtered == ["1 to 2 of 2 prompts", 2, 2]
    assert odd == ["1 to 2 of 6 prompts", 2, 2]
    assert searched == ["1 to 1 of 1 prompts", 1, 1]
    assert nothing == ["no such prompt", 0, 0]
    assert told() == ["1 to 2 of 12 prompts", 2, 0]


def test_words_that_differ_from_the_chosen_answer_are_marked(page: Path, chrome: Chrome) -> None:
    chrome.open(page)
    marked = chrome.run(
        "[...document.querySelector('article').querySelectorAll('[data-arm=SFT] .generated')]"
        ".map((one) => [one.textContent, one.querySelectorAll('mark').length])"
    )

    assert marked == [["Six.", 0], ["Two.", 1]]


def test_points_tell_their_values_by_mouse_and_by_arrow_keys(page: Path, chrome: Chrome) -> None:
    chrome.open(page)
    chrome.run(OPEN)
    card = "document.querySelector('main [data-tips]')"
    x, y = chrome.run(
        f"{card}.scrollIntoView({{block: 'center', behavior: 'instant'}}),"
        f"(() => {{ const box = {card}.querySelector('svg').getBoundingClientRect();"
        f" const scale = box.width / {card}.querySelector('svg').viewBox.baseVal.width;"
        " return [box.left + 200 * scale, box.top + 90 * scale] })()"
    )
    tip = f"(({card}.nextElementSibling.hidden ? '' : {card}.nextElementSibling.textContent))"
    chrome.move(x + 3, y)
    near = chrome.run(tip)
    chrome.move(x + 60, y - 60)
    far = chrome.run(tip)
    chrome.run(f"{card}.focus()")
    chrome.press("ArrowRight")
    first = chrome.run(tip)
    chrome.press("ArrowRight")
    second = chrome.run(tip)
    chrome.press("Escape")

    assert near == second == "step 80: 0.7 & <more>"
    assert far == ""
    assert first == "step 0: 0.3"
    assert chrome.run(tip) == ""


def test_figures_are_dark_on_a_dark_screen(page: Path, chrome: Chrome) -> None:
    ground = (
        "getComputedStyle([...document.querySelectorAll('.card svg path')]"
        ".find((one) => one.getAttribute('style')?.includes('figure-ffffff'))).fill"
    )
    fills = []
    for dark in (False, True):
        chrome.open(page, dark=dark)
        fills.append(chrome.run(ground))

    assert fills == ["rgb(255, 255, 255)", "rgb(27, 26, 24)"]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_print_shows_what_a_screen_folds_away(
    scripts: bool, page: Path, chrome: Chrome, tmp_path: Path
) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    chrome.call("Emulation.setScriptExecutionDisabled", value=not scripts)
    chrome.open(page)
    printed = chrome.print(tmp_path / "page.pdf")
    chrome.call("Emulation.setScriptExecutionDisabled", value=False)
    text = subprocess.run(
        ["pdftotext", str(printed), "-"], capture_output=True, text=True, check=True
    ).stdout

    assert "resolved configuration." in text
    assert "Who is right" not in text.replace("Who is right where", "")
    assert chrome.run("document.querySelectorAll('details[open]').length") == 0


def test_the_page_is_short_and_its_alt_texts_say_results(
    findings: Findings, draw: Draw, tmp_path: Path, chrome: Chrome
) -> None:
    figures = tuple(
        dataclasses.replace(figure, alt=f"Result {place}.")
        for place, figure in enumerate(draw(tmp_path / "figures"))
    )
    chrome.open(written(findings, figures, tmp_path))
    labels = chrome.run(
        "[...document.querySelectorAll('.card svg')].map((one) => one.getAttribute('aria-label'))"
    )

    assert sorted(labels) == [figure.alt for figure in figures]
    assert chrome.run("document.documentElement.scrollHeight") <= 6 * 900
