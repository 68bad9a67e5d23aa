"""Findings about a made-up study, and what tries to break out of a report of them."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_records
import pytest
from chrome import PROGRAM, Chrome

from analysis.findings import FigureFile, Findings, Sample, build_findings
from analysis.records.load import load_study

DIVERGED = (("tiny-smollm2", "orpo", 3),)
HOSTILE = (
    "<script>alert(1)</script></style><img src=x onerror=alert(2)> "
    "\\input{/etc/passwd} \\write18{id} 100 % a_b $x$ & # ~ {{ 7*7 }} ((( 7*7 ))) {% raw %} "
    "^^5c^^M emoji 😀👩‍👧 עברית العربية \u202eabc\u202c 漢字仮名 ﬁ Å é ſ ĸ "
    "zero\u200bwidth\ufeff bell\x07 nul\x00 esc\x1b[31m c1\x85 lone\ud800 private\ue000 "
    "--- '' ,, `` ?` [x] * \"quoted\" ||\n\n  indented\ttab\n[line]\r\nend"
)


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser with one page."""
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    with Chrome(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="session")
def findings(tmp_path_factory: pytest.TempPathFactory, bench_report: dict[str, Any]) -> Findings:
    """Findings with every field filled: one run diverged, a benchmark lies beside."""
    runs = made_records.make_whole_study(
        tmp_path_factory.mktemp("whole") / "runs", diverged=DIVERGED
    )
    (runs / "bench.json").write_text(json.dumps(bench_report), encoding="utf-8")
    return build_findings(load_study(runs), origin="published, runs/published (made up)")


@pytest.fixture
def hostile_findings(findings: Findings) -> Findings:
    """Findings whose every free text tries to break out of the report."""
    word = "pneumono" * 1250
    samples = (
        Sample(
            recipe="tiny-llama",
            example_id="0123456789abcdef",
            prompt=HOSTILE,
            reference=word,
            answers={"base": "W" * 10_000, "sft": HOSTILE * 3, "orpo": "漢" * 2000},
        ),
    )
    return dataclasses.replace(
        findings,
        headline=HOSTILE,
        answer=HOSTILE,
        samples=samples,
        failed_runs=(HOSTILE, word),
        deviations=("W" * 10_000,),
        environment={**findings.environment, HOSTILE: HOSTILE, "[long": word},
        commands=(*findings.commands, HOSTILE, "x" * 10_000),
        signature=word[:300] + HOSTILE,
        recipes=dict.fromkeys(findings.recipes, HOSTILE),
        claims=tuple(
            dataclasses.replace(row, sentence=HOSTILE, source=word, remark=HOSTILE)
            for row in findings.claims
        ),
    )


@pytest.fixture(scope="session")
def draw() -> Callable[[Path], tuple[FigureFile, ...]]:
    """A function that draws one small figure for each section of the report."""
    return draw_figures


def draw_figures(folder: Path) -> tuple[FigureFile, ...]:
    """Draw one small figure for each section, as SVG and PDF."""
    import matplotlib.figure

    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for section in ("results", "search", "curves", "cost"):
        canvas = matplotlib.figure.Figure(figsize=(7, 3), layout="constrained")
        axes = canvas.subplots()
        axes.plot([0, 80, 160], [0.3, 0.7, 0.9], label="ORPO")
        axes.set(xlabel="step", ylabel="score", title=section)
        for suffix in ("svg", "pdf"):
            canvas.savefig(folder / f"{section}.{suffix}")
        figures.append(
            FigureFile(
                name=section,
                caption=f"The {section} of both recipes, 95 % of them & more.",
                alt=f"A line that rises from 0.3 to 0.9 over 160 steps ({section}).",
                section=section,
                tips=((60.0, 150.0, "step 0: 0.3"), (200.0, 90.0, "step 80: 0.7 & <more>")),
            )
        )
    return tuple(figures)
