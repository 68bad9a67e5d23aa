"""The report's files, from findings to PDF."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.findings import FigureFile, Findings, Sample
from paper import build, compile, document, escape  # noqa: A004 (the module compiles LaTeX)
from paper.render import render_tex, tex_environment

Draw = Callable[[Path], tuple[FigureFile, ...]]

needs_tex = pytest.mark.skipif(
    shutil.which("latexmk") is None or shutil.which("pdflatex") is None,
    reason="latexmk or pdflatex is not installed",
)
needs_scripts = pytest.mark.skipif(
    compile.missing_for_scripts(r"\script{chinese}{} \script{arabic}{}") is not None,
    reason="LuaLaTeX or Noto fonts are not installed",
)
PUBLISHED = Path(__file__).parents[2] / build.PUBLISHED


def test_the_report_is_written_from_findings(
    findings: Findings, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = build.write_report(findings, draw(tmp_path / "figures"), tmp_path)

    assert result.html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert r"\includegraphics" in result.tex.read_text(encoding="utf-8")
    assert json.loads(result.findings.read_text(encoding="utf-8"))["answer"] == findings.answer
    assert result.pdf is None
    assert result.hint is not None
    assert "install latexmk" in result.hint
    assert "\n" not in result.hint


@needs_tex
@pytest.mark.slow
def test_the_document_compiles_without_complaint(
    findings: Findings, draw: Draw, tmp_path: Path
) -> None:
    result = build.write_report(findings, draw(tmp_path / "figures"), tmp_path)

    assert result.pdf == tmp_path / "report.pdf", result.hint
    assert complaints(tmp_path / "report.log") == []


@needs_tex
@pytest.mark.slow
@pytest.mark.parametrize("missing", [None, "no fonts"])
def test_the_document_compiles_whatever_models_wrote(
    hostile_findings: Findings,
    draw: Draw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str | None,
) -> None:
    if missing:
        monkeypatch.setattr(build, "missing_for_scripts", lambda source: missing)
    result = build.write_report(hostile_findings, draw(tmp_path / "figures"), tmp_path)

    assert result.pdf == tmp_path / "report.pdf", result.hint
    assert complaints(tmp_path / "report.log") == []


SAID = {
    "Chinese": "机器学习让计算机（例如 GPT-4）从数据中学习。" * 5,
    "Japanese": "東京タワーの高さは333メートルです。" * 5,
    "Korean": "인공지능은 사람의 학습을 흉내 냅니다. " * 5,
    "Arabic": "عاصمة مصر هي القاهرة (2023) و GPT-4 بنسبة 95%! " * 4 + "\nEnglish سلام.",
    "Hebrew": "בירת ישראל היא ירושלים (Jerusalem), 754 מ'. " * 4,
}


@needs_tex
@needs_scripts
@pytest.mark.slow
def test_answers_in_other_scripts_are_printed_as_text(
    findings: Findings, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "SHOWN", len(SAID))
    samples = tuple(
        Sample(recipe="tiny-llama", example_id=name, prompt=text, reference=text, answers={})
        for name, text in SAID.items()
    )
    told = dataclasses.replace(findings, samples=samples, failed_runs=tuple(SAID.values()))
    result = build.write_report(told, draw(tmp_path / "figures"), tmp_path)

    assert result.pdf is not None, result.hint
    assert complaints(tmp_path / "report.log") == []
    shown = subprocess.run(
        ["pdftotext", str(result.pdf), "-"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("机器学习", "東京タワ", "인공지능은", "القاهرة", "ירושלים"):
        assert unicodedata.normalize("NFKC", shown).count(word) >= 12, word
    assert "U+" not in shown.partition("Chosen answer")[2].partition("What cannot be concluded")[0]


EMOJI = {"😀": "grinning face", "👩‍💻": "woman, personal computer", "🇩🇪": "flag DE"}


@needs_tex
@pytest.mark.slow
@pytest.mark.parametrize("has_font", [True, False])
def test_emoji_are_pictures_or_names_and_never_code_points(
    findings: Findings,
    draw: Draw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_font: bool,
) -> None:
    if has_font and compile.missing_for_emoji(r"\emoji{a}{b}") is not None:
        pytest.skip("LuaLaTeX or a font of emoji is not installed")
    if not has_font:
        monkeypatch.setattr(build, "missing_for_emoji", lambda source: "no font of emoji")
    sample = Sample(
        recipe="tiny-llama",
        example_id="emoji",
        prompt=f"Which? {' '.join(EMOJI)}",
        reference="😀" * 200,
        answers={},
    )
    told = dataclasses.replace(findings, samples=(sample,))
    result = build.write_report(told, draw(tmp_path / "figures"), tmp_path)

    assert result.pdf is not None, result.hint
    assert result.hint == (None if has_font else "no font of emoji")
    assert complaints(tmp_path / "report.log") == []
    shown = subprocess.run(
        ["pdftotext", str(result.pdf), "-"], capture_output=True, text=True, check=True
    ).stdout
    flat = " ".join(shown.split())
    assert "U+" not in flat.partition("Chosen answer")[2].partition("What cannot be concluded")[0]
    assert all((name in flat) != has_font for name in EMOJI.values())


def test_emoji_beside_chinese_do_without_a_font_of_their_own(findings: Findings) -> None:
    both = dataclasses.replace(findings, deviations=("漢字 😀",))
    named, alone = (
        render_tex(dataclasses.replace(findings, deviations=(text,)), (), emoji=False)
        for text in ("漢字 😀", "😀")
    )

    assert r"\newfontfamily\scriptemoji" in render_tex(both, ())
    assert r"\newfontfamily\scriptemoji" not in named
    assert r"\newfontfamily\scriptchinese" in named
    assert r"\described{grinning face}" in alone
    assert "fontspec" not in alone


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ("lualatex", "since LuaLaTeX is missing; on Debian install texlive-luatex"),
        (
            "NotoSansCJK",
            "since NotoSansCJK-Regular.ttc is missing; on Debian install fonts-noto-cjk",
        ),
    ],
)
def test_without_lualatex_or_fonts_other_scripts_are_code_points_and_the_hint_says_why(
    findings: Findings,
    draw: Draw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacking: str,
    told: str,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == lacking else f"/bin/{name}")
    monkeypatch.setattr(
        compile, "_found", lambda files: {file for file in files if not file.startswith(lacking)}
    )
    monkeypatch.setattr(build, "compile_pdf", lambda tex: (tex.with_suffix(".pdf"), None))
    chinese = dataclasses.replace(findings, deviations=("漢字",))
    result = build.write_report(chinese, draw(tmp_path / "figures"), tmp_path)

    assert result.hint == f"report.pdf prints chinese text as code points, {told}"
    assert r"\codepoint{6F22}" in result.tex.read_text(encoding="utf-8")


def test_only_a_document_with_other_scripts_is_for_lualatex(findings: Findings) -> None:
    chinese = dataclasses.replace(findings, deviations=("漢字",))

    assert render_tex(chinese, ()).startswith("% !TEX program = lualatex\n")
    assert "fontspec" not in render_tex(findings, ())


@needs_tex
def test_every_character_below_3000_has_a_printed_form(findings: Findings, tmp_path: Path) -> None:
    characters = " ".join(chr(code) for code in range(0x3000))
    step = escape.CLIP_CHARACTERS - 1
    texts = [characters[start : start + step] for start in range(0, len(characters), step)]
    source = tex_environment().from_string(
        "((* for text in texts *))\n((( text )))\n\n((* endfor *))"
    )
    head, _ = render_tex(findings, ()).split(r"\begin{document}")
    characters_tex = tmp_path / "characters.tex"
    characters_tex.write_text(
        f"{head}\\begin{{document}}\\sloppy\n{source.render(texts=texts)}\\end{{document}}\n",
        encoding="utf-8",
    )
    pdf, hint = build.compile_pdf(characters_tex)

    assert pdf is not None, hint
    assert complaints(tmp_path / "characters.log") == []


@needs_tex
@pytest.mark.parametrize(
    "body", [r"\immediate\write18{touch owned}", r"\input{/etc/passwd}", r"\input{../secret}"]
)
def test_tex_runs_no_command_and_reads_no_other_file(body: str, tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("owned", encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    source = folder / "report.tex"
    source.write_text(
        f"\\documentclass{{article}}\\begin{{document}}x {body}\\end{{document}}", encoding="utf-8"
    )
    pdf, _ = build.compile_pdf(source)

    assert not (folder / "owned").exists()
    assert pdf is None or "write18" in body


@needs_tex
def test_a_document_that_fails_gives_a_hint_and_no_old_pdf(tmp_path: Path) -> None:
    source = tmp_path / "report.tex"
    source.write_text(r"\documentclass{article}\begin{document}\nosuch", encoding="utf-8")
    source.with_suffix(".pdf").write_bytes(b"old")
    pdf, hint = build.compile_pdf(source)

    assert pdf is None
    assert not source.with_suffix(".pdf").exists()
    assert hint is not None
    assert "report.log" in hint


def test_named_records_are_taken(tmp_path: Path) -> None:
    folder, origin = build.choose_runs(tmp_path, local=Path("a"), published=Path("b"))

    assert folder == tmp_path
    assert "named on the command line" in origin


def test_published_records_are_taken_while_nothing_local_is_finished(tmp_path: Path) -> None:
    folder, origin = build.choose_runs(None, local=tmp_path / "a", published=tmp_path / "b")

    assert folder == tmp_path / "b"
    assert origin.startswith("published")


def test_local_records_are_taken_once_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.records.load.is_complete", lambda runs: True)
    folder, origin = build.choose_runs(None, local=tmp_path / "a", published=tmp_path / "b")

    assert folder == tmp_path / "a"
    assert origin.startswith("local")


def test_an_empty_folder_of_records_is_one_clear_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        build.main, ["--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    )

    assert result.exit_code == 1
    said, error = result.stderr.splitlines()[:2]
    assert said == f"judging the records in {tmp_path}"
    assert error.startswith("Error: ")
    assert "no finished run" in result.stderr
    assert not result.stdout


def test_a_folder_that_is_not_there_is_a_usage_error() -> None:
    result = CliRunner().invoke(build.main, ["--runs", "no/such/folder"])

    assert result.exit_code == 2


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, paper.build; "
        "print(sorted({'numpy', 'pandas', 'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(
    not (PUBLISHED / "tiny-llama-methods").is_dir(), reason="runs/published holds no records yet"
)
def test_the_published_records_become_a_report(tmp_path: Path) -> None:
    result = build.build(PUBLISHED, tmp_path)

    page = re.sub(r"(?:\s*</?p[^>]*>\s*)+", " ", result.html.read_text(encoding="utf-8"))
    assert result.answer in page
    assert len(list((tmp_path / "tables").glob("*.csv"))) == page.count(">CSV</a>") > 20
    if result.pdf is not None:
        assert complaints(tmp_path / "report.log") == []


def complaints(log: Path) -> list[str]:
    """List errors, undefined references, lost characters and boxes over 5 pt."""
    text = log.read_text(encoding="utf-8", errors="replace")
    boxes = re.findall(r"^Overfull \\[hv]box \(([\d.]+)pt too \w+\).*$", text, re.MULTILINE)
    return [f"overfull by {points} pt" for points in boxes if float(points) > 5] + re.findall(
        r"^(?:! .*|.*undefined.*|Missing character.*)$", text, re.MULTILINE
    )
