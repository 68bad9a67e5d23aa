"""A report of runs that go on."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.findings import Findings
from paper import build
from paper.render import render_html, render_tex
from paper.watch import watch


def test_a_report_is_written_once_and_then_after_each_change(tmp_path: Path) -> None:
    written: list[int] = []
    changes = iter(
        (
            lambda: None,
            lambda: (tmp_path / "record.json").write_text("{}", encoding="utf-8"),
            lambda: (tmp_path / "weights.safetensors").write_text("x", encoding="utf-8"),
            lambda: (tmp_path / "record.json").write_text("{} ", encoding="utf-8"),
        )
    )

    def wait(seconds: float) -> None:
        change = next(changes, None)
        if change is None:
            raise KeyboardInterrupt
        change()

    watch(lambda: written.append(1), (tmp_path, tmp_path / "missing"), wait=wait)

    assert len(written) == 3


def test_a_watch_waits_for_the_first_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paper.watch.watch", lambda write, folders: write())
    result = CliRunner().invoke(
        build.main, ["--watch", "--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    )

    assert result.exit_code == 0
    assert result.stderr.startswith("waiting: ")
    assert "no finished run" in result.stderr


def test_a_report_of_unfinished_runs_says_so(findings: Findings) -> None:
    told = build._unfinished(4, 2)

    assert "4 have ended, 2 were begun" in told
    assert told in render_html(findings, (), {}, unfinished=told)
    assert told in render_tex(findings, (), unfinished=told)
    assert 'role="status"' not in render_html(findings, (), {})


def test_only_a_watched_page_renews_itself(findings: Findings) -> None:
    renews = '<meta http-equiv="refresh"'

    assert renews in render_html(findings, (), {}, watched=True)
    assert renews not in render_html(findings, (), {})


def test_the_page_is_opened_when_asked(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(build, "compile_pdf", lambda tex: (None, "no TeX"))
    monkeypatch.setattr(
        build, "build", lambda runs, out, *, say, watched: build.write_report(findings, (), out)
    )
    result = CliRunner().invoke(build.main, ["--open", "--out", str(tmp_path)])

    assert result.exit_code == 0, result.output
    assert opened == [(tmp_path / "report.html").resolve().as_uri()]
