"""The report in both formats, from made-up findings."""

import base64
import dataclasses
import hashlib
import html.parser
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.findings import FigureFile, Findings
from analysis.printing import p_value
from paper import render
from paper.escape import tex
from paper.prose import FOLDER

SECTIONS = [
    "The answer", "What to do", "Design and history", "Scores", "Quality against cost", "Search",
    "Claims of the sources", "Answers and limits", "Appendix",
]  # fmt: skip


class Page(html.parser.HTMLParser):
    """Collects what the tests ask about a page, and checks its nesting."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "base"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of one name."""
        return [attributes for name, attributes in self.tags if name == tag]


Draw = Callable[[Path], tuple[FigureFile, ...]]


@pytest.fixture
def figures(draw: Draw, tmp_path: Path) -> tuple[FigureFile, ...]:
    return draw(tmp_path)


@pytest.fixture
def images(figures: tuple[FigureFile, ...], tmp_path: Path) -> dict[str, bytes]:
    return {figure.name: (tmp_path / f"{figure.name}.svg").read_bytes() for figure in figures}


@pytest.fixture
def page(findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]) -> str:
    return render.render_html(findings, figures, images)


def test_the_page_is_well_formed_and_in_the_order_of_the_design(page: str) -> None:
    parsed = Page(page)
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)

    assert parsed.open == []
    assert [heading for heading in headings if heading != "Contents"] == SECTIONS


def test_the_page_loads_nothing_and_runs_its_own_script_alone(page: str) -> None:
    parsed = Page(page)
    policy = parsed.all("meta")[1]["content"] or ""

    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]
    assert len(parsed.all("script")) == 1
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    assert not re.search(r"url\((?!#)|@import", page)


def test_the_page_is_accessible(page: str) -> None:
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    targets = [link["href"] or "" for link in parsed.all("a")]

    assert parsed.all("html")[0]["lang"] == "en"
    assert len(parsed.all("main")) == len(parsed.all("nav")) == 1
    assert all(image["aria-label"] for image in parsed.all("svg"))
    assert all(cell.get("scope") for cell in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


def test_the_signature_stands_once(page: str, findings: Findings) -> None:
    assert findings.bench is not None

    assert page.count(findings.signature) == 1
    assert page.count(findings.bench.signature) == 1


def test_records_without_claims_say_how_to_get_them(
    findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    bare = dataclasses.replace(findings, claims=(), claim_remarks=())
    images = {figure.name: b"<svg/>" for figure in figures}

    assert "<code>study claims</code> registers" in render.render_html(bare, figures, images)
    assert "\\texttt{study claims} registers" in render.render_tex(bare, figures)


def test_generated_text_cannot_leave_its_place_in_the_page(
    hostile_findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]
) -> None:
    page = render.render_html(hostile_findings, figures, images)
    parsed = Page(page)

    assert parsed.open == []
    assert len(parsed.all("script")) == 1
    assert len(parsed.all("style")) == 1
    assert len(parsed.all("img")) == 0
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", page)
    assert "W" * 10_000 in page
    assert "{{ 7*7 }}" in page


def test_generated_text_cannot_run_commands_in_the_document(
    hostile_findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    latex = render.render_tex(hostile_findings, figures)

    assert r"\input" not in latex
    assert r"\write18" not in latex
    assert "^^" not in latex
    assert r"\textbackslash{}input" in latex


def test_empty_parts_are_said_in_words(
    findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]
) -> None:
    bare = dataclasses.replace(findings, searches=(), samples=(), failed_runs=(), contrasts=())
    page = render.render_html(bare, figures, images)
    latex = render.render_tex(bare, figures)

    for sentence in ("No search was run", "No answers were generated", "every run finished"):
        assert sentence in page
        assert sentence in latex


def test_untuned_settings_are_named_so(
    findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]
) -> None:
    arms = tuple(dataclasses.replace(row, tuned=False) for row in findings.arms)
    untuned = dataclasses.replace(findings, arms=arms)

    assert "the recipe (untuned)" in render.render_html(untuned, figures, images)
    assert "the recipe (untuned)" in render.render_tex(untuned, figures)


def test_a_missing_image_is_an_error(findings: Findings, figures: tuple[FigureFile, ...]) -> None:
    with pytest.raises(KeyError):
        render.render_html(findings, figures, {})


def test_under_every_table_stands_what_is_tested(
    page: str, findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    source = render.render_tex(findings, figures)

    assert page.count('  </div>\n  <p class="tested">') == page.count("<table>")
    assert '<p class="tested"> <' not in page
    assert source.count("\n\\tested{") == source.count(r"\end{longtable}") > 5


def test_hypothesis_effect_and_interval_stand_before_the_p_value(
    page: str, findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    row = findings.pooled[0]
    hypothesis = f"Null hypothesis:</strong> {row.null_hypothesis.replace(chr(39), '&#39;')}."
    head = re.findall(r"<tr><th scope=\"col\">Score</th>.*Verdict</th></tr>", page)[0]
    order = [head.index(name) for name in ("Effect", "95 % interval", "p-value")]

    assert order == sorted(order)
    assert hypothesis in page
    after = page[page.index(hypothesis) :]
    assert p_value(row.p_value).replace("<", "&lt;") in after
    assert tex(row.null_hypothesis) in render.render_tex(findings, figures)


def test_an_unmeasured_bench_is_left_out(
    page: str, findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]
) -> None:
    bare = dataclasses.replace(findings, bench=None)

    assert "Cost beside TRL" in page
    assert "Cost beside TRL" not in render.render_tex(bare, figures)
    assert "Cost beside TRL" not in render.render_html(bare, figures, images)


def test_a_missing_value_is_an_error(findings: Findings, figures: tuple[FigureFile, ...]) -> None:
    lacking = dataclasses.replace(findings, metrics={})

    with pytest.raises(KeyError):
        render.render_tex(lacking, figures)


@pytest.mark.parametrize(
    "skin",
    [
        f"{part}.{kind}"
        for part in ("report", "blocks", "answers", "forest")
        for kind in ("html", "tex")
    ],
)
def test_skins_hold_layout_only(skin: str) -> None:
    source = (FOLDER / "templates" / skin).read_text(encoding="utf-8")

    assert "findings" not in source.replace("findings.json", "")
    assert not re.search(r"\| *(round|format|float|int)\b|%\.\d", source)
    assert len(source.splitlines()) < 150
