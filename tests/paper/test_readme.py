"""The README's numbers are those of the published records."""

import dataclasses
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from paper.readme import (
    BEGIN,
    BENCH_BEGIN,
    END,
    TOY,
    bench_block,
    block,
    headlines,
    main,
    published,
    renew,
    renewed,
)


def test_the_readme_shows_the_published_records(root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    found = published(root)

    assert TOY in found
    assert renewed(readme, found) == readme


def test_without_the_published_records_one_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(main, ["--check"])

    assert refused.exit_code == 1
    assert refused.output.startswith("Error: runs/published holds no finished run")


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    assert renew(f"a\n{BEGIN}\nold\n{END}\nb\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(click.ClickException, match="needs the lines"):
        renew("no marks", "new")


def test_the_block_names_every_arm_with_its_settings(findings) -> None:
    text = block(findings, TOY)

    for row in findings.arms:
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(
                f"| {row.recipe} | {row.arm.upper() if row.arm != 'base' else 'Base'} "
            )
        ]
        assert f"| {row.n_seeds} |" in line
    assert text.startswith(f"{TOY.about}\n**{findings.headline}**\n")
    assert findings.answer[:20] in text


def test_the_figure_of_the_readme_is_small_and_shown(root: Path) -> None:
    figure = root / TOY.figure

    assert f"]({TOY.figure.as_posix()})" in (root / "README.md").read_text(encoding="utf-8")
    assert 1_000 < figure.stat().st_size < 70_000


def test_each_block_is_replaced_by_itself() -> None:
    readme = f"{BEGIN}\nold\n{END}\nb\n{BENCH_BEGIN}\nold\n{END}\n"

    assert renew(readme, "new", begin=BENCH_BEGIN) == (
        f"{BEGIN}\nold\n{END}\nb\n{BENCH_BEGIN}\nnew\n{END}\n"
    )


def test_the_costs_are_a_table_or_a_hint(findings) -> None:
    table = bench_block(findings)
    nothing = bench_block(dataclasses.replace(findings, bench=None))

    assert headlines(findings.bench.rows)
    for row in headlines(findings.bench.rows):
        assert f"| {row.subject} | {row.reference} |" in table
    assert f"all {len(findings.bench.rows)} measurements" in table
    assert len([line for line in table.splitlines() if line.startswith("| ")]) <= 1 + 3
    assert table.endswith(f"`{findings.bench.signature}`")
    assert "`study bench`" in nothing
