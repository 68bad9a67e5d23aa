"""Turn findings into one HTML page and one LaTeX document.

Pure functions: what they need comes in, text goes out. The templates hold
words; numbers get their printed form from the filters below, the same ones
for both formats.
"""

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup

from analysis.findings import CalibrationRow, ClaimRow, ContrastRow, FigureFile, Findings, Metric
from analysis.printing import (
    MISSING,
    arm_name,
    number,
    percent,
    setting,
    setting_name,
    settings,
    signed,
    verdict_words,
)
from analysis.tables.trials import score_label
from paper.escape import generated_html, generated_tex, printable, tex
from paper.prose import FOLDER, Reference, prose_html, prose_tex, read_references, read_text

Key = TypeVar("Key")


def render_html(
    findings: Findings, figures: Sequence[FigureFile], images: Mapping[str, bytes]
) -> str:
    """Render the report as one HTML file that loads nothing.

    Args:
        findings: what the report says.
        figures: the figures, in the order in which they appear.
        images: the SVG file of each figure, by the figure's name.
    """
    references = read_references()
    environment = html_environment(references)
    page = environment.get_template("report.html").render(
        findings=findings,
        figures=figures,
        images={name: data_uri(content) for name, content in images.items()},
        references=references,
    )
    return printable(page)


def render_tex(findings: Findings, figures: Sequence[FigureFile]) -> str:
    """Render the report as LaTeX; it expects ``figures/<name>.pdf`` beside it."""
    return tex_environment().get_template("report.tex").render(findings=findings, figures=figures)


def html_environment(references: Sequence[Reference]) -> jinja2.Environment:
    """Build the environment that escapes for HTML."""
    environment = _environment()
    environment.filters |= {"generated": generated_html}
    environment.globals["prose"] = lambda name: prose_html(read_text(name), references)
    return environment


def markdown_environment() -> jinja2.Environment:
    """Build the environment for Markdown; values are escaped as in HTML."""
    return _environment()


def tex_environment() -> jinja2.Environment:
    """Build the environment that escapes for LaTeX.

    Values pass ``finalize``, which escapes all but ``Markup``; autoescape stays
    on so that macros return ``Markup`` and are not escaped a second time.
    """
    environment = _environment(
        finalize=lambda value: value if isinstance(value, Markup) else tex(value),
        block_start_string="((*",
        block_end_string="*))",
        variable_start_string="(((",
        variable_end_string=")))",
        comment_start_string="((=",
        comment_end_string="=))",
    )
    environment.filters |= {"generated": generated_tex}
    environment.globals["prose"] = lambda name: prose_tex(read_text(name))
    return environment


def data_uri(svg: bytes) -> str:
    """Return an SVG file as a ``data:`` address; scripts in it never run."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def interval(low: float | None, high: float | None, digits: int) -> str:
    """Print the bounds of an interval, or a dash where there is none."""
    if low is None or high is None:
        return MISSING
    return f"[{number(low, digits)}, {number(high, digits)}]"


def mean_sd(mean: float, sd: float | None, digits: int) -> str:
    """Print ``mean ± sd``, or the mean alone where one run has no spread."""
    return number(mean, digits) if sd is None else f"{number(mean, digits)} ± {number(sd, digits)}"


def p_value(value: float | None) -> str:
    """Print a p-value as ``p = 0.012``, ``p < 0.001`` or ``p > 0.999``, unbroken."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = "< 0.001" if value < 0.001 else "> 0.999" if value > 0.999 else f"= {value:.3f}"
    return f"p {text}".replace(" ", "\N{NO-BREAK SPACE}")


def band(row: CalibrationRow) -> str:
    """Print what a simulated rate must keep to, or a dash where nothing is asked."""
    if row.low is not None and row.high is not None:
        return f"{percent_1(row.low)} to {percent_1(row.high)}"
    if row.low is not None:
        return f"at least {percent_1(row.low)}"
    return MISSING if row.high is None else f"at most {percent_1(row.high)}"


def percent_1(value: float) -> str:
    """Print a rate in per cent with one decimal."""
    return f"{number(100 * value, 1)}\N{NO-BREAK SPACE}%"


def tests_of(
    findings: Findings,
) -> list[tuple[str, tuple[str, str], list[ContrastRow]]]:
    """List the tables of tests: pooled over models first, then each recipe's."""
    rows = (*findings.pooled, *findings.contrasts)
    groups = _grouped(rows, lambda row: (row.recipe, row.baseline, row.treatment))
    return [
        (recipe, (baseline, treatment), group) for (recipe, baseline, treatment), group in groups
    ]


def by_claim(findings: Findings) -> list[tuple[ClaimRow, list[ClaimRow]]]:
    """List every claim's first row, over all models if there are several, and its rows."""
    groups: dict[str, list[ClaimRow]] = {}
    for row in findings.claims:
        groups.setdefault(row.claim, []).append(row)
    return [(rows[0], rows) for rows in groups.values()]


def hypotheses(rows: Iterable[ClaimRow]) -> list[tuple[str, str]]:
    """List every (test, null hypothesis) that claims were judged by, once each."""
    found = [
        (part.test, part.null_hypothesis)
        for row in rows
        for part in row.parts
        if part.null_hypothesis and part.p_value is not None
    ]
    return list(dict.fromkeys(found))


def count(value: float | None) -> str:
    """Print a count with thousands separated."""
    return MISSING if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Print seconds as ``8.2 s``, ``4 min 10 s`` or ``2 h 5 min``."""
    if seconds is None:
        return MISSING
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def memory(size: float | None) -> str:
    """Print bytes in MiB or GiB."""
    if size is None:
        return MISSING
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def quantity(value: float, unit: str) -> str:
    """Print seconds, bytes, or a rate with its unit, in three figures."""
    if unit == "s":
        return duration(value)
    if unit == "bytes":
        return memory(value)
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}\N{NO-BREAK SPACE}{unit}"


def times(ratio: float) -> str:
    """Print a ratio as ``3.2×``."""
    return f"{number(ratio, 1 if ratio >= 10 else 2)}×"


def raw(value: float) -> str:
    """Print a raw value with six significant figures."""
    return f"{value:.6g}".replace("-", "−") if "e" not in f"{value:.6g}" else f"{value:.6g}"


def raw_values(by_seed: Mapping[int, float]) -> str:
    """Print every seed with its value: ``1: 0.8125 · 2: 0.8203``."""
    return " · ".join(f"{seed}: {raw(value)}" for seed, value in sorted(by_seed.items()))


def short(digest: object) -> str:
    """Print the first sixteen characters of a digest."""
    return str(digest)[:16]


def flat(section: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """List a configuration as (dotted name, value as TOML writes it)."""
    rows: list[tuple[str, str]] = []
    for name, value in section.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False, default=str)))
    return rows


def by_hypothesis(
    rows: Iterable[ContrastRow],
) -> list[tuple[tuple[str, str], list[ContrastRow]]]:
    """Group contrasts by (null hypothesis, test) in order of appearance."""
    return _grouped(rows, lambda row: (row.null_hypothesis, row.test))


def arrow(metric: Metric) -> str:
    """Say by an arrow which direction of a metric is better."""
    sign = {True: "↑", False: "↓", None: ""}[metric.higher_is_better]
    return f"\N{NO-BREAK SPACE}{sign}" if sign else ""


def with_unit(metric: Metric) -> str:
    """Print a metric's label with its unit, if it has one."""
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


FILTERS: Mapping[str, Callable[..., object]] = {
    function.__name__: function
    for function in (
        number, signed, interval, mean_sd, p_value, setting, settings, setting_name, arm_name,
        count, duration, memory, quantity, times, raw, raw_values, short, flat, tests_of,
        by_hypothesis, arrow, with_unit, score_label, percent, percent_1, verdict_words, band,
        by_claim,
        hypotheses,
    )
}  # fmt: skip


def _grouped(
    rows: Iterable[ContrastRow], key: Callable[[ContrastRow], Key]
) -> list[tuple[Key, list[ContrastRow]]]:
    groups: dict[Key, list[ContrastRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def _environment(**options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters |= FILTERS
    return environment
