"""The README's numbers are those of the published records."""

from pathlib import Path

import click
import pytest

from paper.readme import BEGIN, END, block, renew


def test_the_readme_shows_the_published_records(root: Path) -> None:
    from analysis.findings import build_findings
    from analysis.load import load_study

    readme = (root / "README.md").read_text(encoding="utf-8")
    published = build_findings(load_study(root / "runs" / "published"), origin="published")

    assert renew(readme, block(published)) == readme


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    assert renew(f"a\n{BEGIN}\nold\n{END}\nb\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(click.ClickException, match="needs the lines"):
        renew("no marks", "new")


def test_the_block_names_every_arm_with_its_settings(findings) -> None:
    text = block(findings)

    for row in findings.arms:
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(
                f"| {row.recipe} | {row.arm.upper() if row.arm != 'base' else 'Base'} "
            )
        ]
        assert f"| {row.n_seeds} |" in line
    assert findings.answer.split(";")[0][:20] in text
