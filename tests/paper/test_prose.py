"""Hand-written prose and references."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_arms import with_every_arm, with_every_section

from analysis.findings import Findings
from paper import wording
from paper.blocks import Document, Fold, Prose
from paper.document import build_document
from paper.prose import FOLDER, prose_html, prose_tex, read_references, read_text

TEXTS = sorted(path.stem for path in (FOLDER / "text").glob("*.md"))


def test_prose_in_html() -> None:
    text = "One *two* **three** `a<b` [@hong2024orpo].\n\n- a\n- b & c"
    number = [entry.key for entry in read_references()].index("hong2024orpo") + 1

    assert prose_html(text, read_references()) == (
        "<p>One <em>two</em> <strong>three</strong> <code>a&lt;b</code> "
        f'<span class="cite">[<a href="#ref-hong2024orpo">{number}</a>]</span>.</p>\n'
        "<ul><li>a</li><li>b &amp; c</li></ul>"
    )


def test_prose_in_tex() -> None:
    assert prose_tex("One *two* `a_b` [@welch1947].\n\n- a\n- b & c") == (
        r"One \emph{two} \texttt{a\_b} \citep{welch1947}."
        "\n\n\\begin{itemize}\n\\item a\n\\item b \\& c\n\\end{itemize}"
    )


def test_an_unknown_reference_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody1900"):
        prose_html("As [@nobody1900] said.", read_references())


def test_every_reference_is_cited_and_every_citation_has_one() -> None:
    cited = set(re.findall(r"@([\w-]+)", " ".join(read_text(name) for name in TEXTS)))

    assert cited | set(wording.CITED.values()) == {entry.key for entry in read_references()}


def test_every_text_is_used_by_the_report(findings: Findings) -> None:
    used = {
        block.text
        for found in (findings, with_every_arm(findings), with_every_section(findings))
        for block in everything(build_document(found, ()))
    }

    assert used >= {read_text(name) for name in TEXTS}


def everything(document: Document) -> Iterator[Prose]:
    """Yield the prose of a document, also what is folded away."""
    sections = (*document.sections, document.appendix)
    blocks = [block for section in sections for block in section.blocks]
    for block in blocks:
        if isinstance(block, Fold):
            blocks.extend(block.blocks)
        elif isinstance(block, Prose):
            yield block


def test_references_are_read_with_authors_and_venue() -> None:
    orpo = next(entry for entry in read_references() if entry.key == "hong2024orpo")
    smollm = next(entry for entry in read_references() if entry.key == "benallal2025smollm2")

    assert orpo.authors == "Jiwoo Hong, Noah Lee and James Thorne"
    assert orpo.venue == "Proceedings of EMNLP 2024, arXiv:2403.07691, 2024"
    assert smollm.authors == "Loubna Ben Allal, Anton Lozhkov, Elie Bakouch et al."
    assert all(entry.fields["url"].startswith("https://") for entry in read_references())


def test_prose_holds_one_sentence_per_line_and_no_results() -> None:
    for path in (FOLDER / "text").glob("*.md"):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            assert not re.search(r"[.?!] [A-Z]", line), f"{path.name}: {line}"
            # What others found has its numbers, each with its source.
            allowed = path.stem == "others" and "[@" in line
            assert allowed or not re.search(r"\d\.\d", line), f"{path.name}: {line}"
