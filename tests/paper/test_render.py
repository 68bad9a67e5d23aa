"""The report in both formats, from made-up findings."""

import dataclasses
import html.parser
import math
import re
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest

from analysis.findings import FigureFile, Findings
from paper import render
from paper.escape import tex

SECTIONS = [
    "The answer", "Question", "Arms and scores", "Search", "Curves", "Tests",
    "Claims of the sources", "Samples", "Cost", "Failed runs", "What cannot be concluded",
    "Deviations", "Appendix", "References",
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


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(0.12345, 3, "0.123"), (-1.5, 1, "−1.5"), (-0.0004, 3, "0.000"), (None, 2, "–"),
     (math.nan, 2, "–"), (math.inf, 2, "–"), (12.0, 0, "12")],
)  # fmt: skip
def test_number(value: float | None, digits: int, expected: str) -> None:
    assert render.number(value, digits) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.06, "+0.060"), (-0.06, "−0.060"), (0.0004, "0.000"), (-0.0004, "0.000"), (None, "–")],
)
def test_signed_never_gives_a_sign_to_zero(value: float | None, expected: str) -> None:
    assert render.signed(value, 3) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.00004, "p < 0.001"), (0.001, "p = 0.001"), (0.0123, "p = 0.012"), (0.412, "p = 0.412"),
     (0.9996, "p > 0.999"), (1.0, "p > 0.999"), (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_p_value(value: float | None, expected: str) -> None:
    assert render.p_value(value) == expected.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.003, "3e-3"), (0.0031622776601683794, "3.16e-3"), (8e-6, "8e-6"), (0.01, "0.01"),
     (0.1, "0.1"), (0.5123, "0.512"), (2.0, "2"), (0.0, "0"), (1e-4, "1e-4"), (160.0, "160"),
     (4000.0, "4000"), (None, "–")],
)  # fmt: skip
def test_setting(value: float | None, expected: str) -> None:
    assert render.setting(value) == expected


def test_settings_are_named_in_words() -> None:
    assert render.settings({"learning_rate": 0.003, "beta": 0.1}) == "learning rate 3e-3, β 0.1"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.22, "[0.10, 0.22]"), (-0.1, 0.0, "[−0.10, 0.00]"), (None, 0.1, "–")],
)
def test_interval(low: float | None, high: float | None, expected: str) -> None:
    assert render.interval(low, high, 2) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(8.24, "8.2 s"), (250.0, "4 min 10 s"), (59.99, "1 min 0 s"), (7500.0, "2 h 5 min"),
     (None, "–")],
)  # fmt: skip
def test_duration(seconds: float | None, expected: str) -> None:
    assert render.duration(seconds) == expected


def test_other_numbers() -> None:
    assert render.mean_sd(-0.5, 0.012, 2) == "−0.50 ± 0.01"
    assert render.mean_sd(0.5, None, 2) == "0.50"
    assert render.count(1234567.0) == "1,234,567"
    assert render.memory(612.5 * 2**20) == "612 MiB"
    assert render.memory(1.5 * 2**30) == "1.5 GiB"
    assert render.raw_values({2: 0.5, 1: -0.123456789}) == "1: −0.123457 · 2: 0.5"


def test_a_configuration_is_flattened_as_toml_writes_it() -> None:
    section = {"model": {"name": "toy", "trust_remote_code": False}, "layers": ["q", "k"]}

    assert render.flat(section) == [
        ("model.name", '"toy"'), ("model.trust_remote_code", "false"), ("layers", '["q", "k"]'),
    ]  # fmt: skip


def test_the_page_is_well_formed_and_in_the_order_of_the_design(page: str) -> None:
    parsed = Page(page)
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)

    assert parsed.open == []
    assert [heading for heading in headings if heading != "Contents"] == SECTIONS


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    parsed = Page(page)
    policy = parsed.all("meta")[1]["content"] or ""

    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    assert "script-src" not in policy
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    assert all((image["src"] or "").startswith("data:image/svg+xml") for image in parsed.all("img"))
    assert not re.search(r"url\(|@import", page)


def test_the_page_is_accessible(page: str) -> None:
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    targets = [link["href"] or "" for link in parsed.all("a")]

    assert parsed.all("html")[0]["lang"] == "en"
    assert len(parsed.all("main")) == len(parsed.all("nav")) == 1
    assert all(image["alt"] for image in parsed.all("img"))
    assert all(cell.get("scope") for cell in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


def test_the_signature_stands_under_every_table(page: str, findings: Findings) -> None:
    assert findings.bench is not None
    of_records, of_bench = (
        page.count(f'</p>\n  <p class="signature">{signature}</p>\n</div>')
        for signature in (findings.signature, findings.bench.signature)
    )

    assert of_bench == 1
    assert of_records + of_bench == page.count("<table>")


def test_under_every_table_stands_what_is_tested(
    page: str, findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    source = render.render_tex(findings, figures)

    assert page.count('  </div>\n  <p class="tested">Note of ') == page.count("<table>")
    assert source.count(r"\tested{Note of ") == source.count(r"\end{longtable}")


def test_both_formats_print_the_same_numbers(
    page: str, findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    latex = render.render_tex(findings, figures)
    for row in findings.arms:
        for name, score in row.scores.items():
            printed = render.mean_sd(score.mean, score.sd, findings.metrics[name].digits)

            assert printed in page
            assert tex(printed) in latex
    for contrast in findings.contrasts:
        digits = findings.metrics[contrast.metric].digits

        assert render.signed(contrast.estimate, digits) in page
        assert tex(render.interval(contrast.low, contrast.high, digits)) in latex


def test_hypothesis_effect_and_interval_stand_before_the_p_value(
    page: str, findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    row = findings.contrasts[0]
    hypothesis = f"Null hypothesis:</strong> {row.null_hypothesis}."
    head = re.findall(r"<tr><th scope=\"col\">Score</th>.*Verdict</th></tr>", page)[0]
    order = [head.index(name) for name in ("Effect", "95 % interval", "p-value")]

    assert order == sorted(order)
    assert page.index(hypothesis) < page.index(render.p_value(row.p_value).replace("<", "&lt;"))
    assert tex(row.null_hypothesis) in render.render_tex(findings, figures)


def test_what_a_reader_needs_beside_a_p_value_is_printed(
    page: str, findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    latex = render.render_tex(findings, figures)
    for printed in ("all models: ORPO against SFT", "better by at least 0.02", "length changed",
                    "[−0.011, 0.220]", "0.0415"[:5], "[0.030, 0.089]", "60 %", "62 %",
                    "More seeds would help most.", "3.4 %", "77.0 % to 83.0 %, missed",
                    "at most 6.5 %"):  # fmt: skip
        text = printed.replace(" %", "\N{NO-BREAK SPACE}%")

        assert text in page
        assert str(tex(text)) in latex


def test_costs_beside_trl_stand_in_both_formats(
    page: str, findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]
) -> None:
    latex = render.render_tex(findings, figures)
    assert findings.bench is not None
    for row in findings.bench.rows:
        ours, ratio = render.quantity(row.ours, row.unit), render.times(row.ratio)

        assert f'{ours}</td><td class="n">' in page
        assert f'<td class="n">{ratio}</td>' in page
        assert f"& {tex(ratio)}" in latex
    for remark in findings.bench.remarks:
        assert remark.replace("'", "&#39;") in page
    bare = dataclasses.replace(findings, bench=None)
    assert "Beside TRL" in latex
    assert "Beside TRL" not in render.render_tex(bare, figures)
    assert "Beside TRL" not in render.render_html(bare, figures, images)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(9.0, "s", "9.0 s"), (2**31, "bytes", "2.0 GiB"), (3.14159, "pairs/s", "3.14 pairs/s"),
     (0.0123, "pairs/s", "0.0123 pairs/s"), (1234.5, "prompts/s", "1,234 prompts/s")],
)  # fmt: skip
def test_quantities(value: float, unit: str, expected: str) -> None:
    assert render.quantity(value, unit).replace("\N{NO-BREAK SPACE}", " ") == expected


def test_ratios() -> None:
    assert render.times(3.2345) == "3.23×"
    assert render.times(21.57) == "21.6×"


def test_every_claim_stands_with_its_verdict_evidence_and_scale(
    page: str, findings: Findings, figures: tuple[FigureFile, ...]
) -> None:
    document = render.render_tex(findings, figures)
    section = page[page.index('id="claims"') : page.index('id="samples"')]

    for text in (section, document):
        assert "made on Mistral-7B; UltraFeedback" in text
        assert "Contradicted" in text
        assert "tiny-llama: contradicted" in text.replace("{", "").replace("}", "")
        assert "nobody judged the generated answers" in text
        assert "both arms have the same mean score" in text
    assert '<td class="n">−0.246</td>' in section
    assert "[−0.314, −0.178]" in section
    assert "0.092" in section
    assert section.index("β 0.5 separates") < section.index("−0.246")


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
    assert parsed.all("script") == []
    assert len(parsed.all("style")) == 1
    assert len(parsed.all("img")) == len(figures)
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

    for sentence in ("No search was run", "No answers were generated", "None: every run finished"):
        assert sentence in page
        assert sentence in latex


def test_untuned_settings_are_named_so(
    findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]
) -> None:
    arms = tuple(dataclasses.replace(row, tuned=False) for row in findings.arms)
    untuned = dataclasses.replace(findings, arms=arms)

    assert "the recipe (untuned)" in render.render_html(untuned, figures, images)
    assert "the recipe (untuned)" in render.render_tex(untuned, figures)


def test_a_missing_value_is_an_error(
    findings: Findings, figures: tuple[FigureFile, ...], images: dict[str, bytes]
) -> None:
    lacking = dataclasses.replace(findings, metrics={})

    with pytest.raises(jinja2.UndefinedError):
        render.render_html(lacking, figures, images)
    with pytest.raises(jinja2.UndefinedError):
        render.render_tex(lacking, figures)


def test_a_missing_image_is_an_error(findings: Findings, figures: tuple[FigureFile, ...]) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render.render_html(findings, figures, {})
