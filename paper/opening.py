"""What a reader sees first: the verdict in a table and a figure, its standing, what to do."""

from collections.abc import Iterator

from analysis.findings import CoPrimaryRow, DecisionRow, Findings
from analysis.printing import (
    arm_name,
    count,
    is_matched,
    is_trained,
    plain,
    settings,
)
from analysis.words.several import by_outcome
from paper import many
from paper.blocks import Block, Bullets, Facts, ForestBlock, TableBlock
from paper.forest import arms_forest, forest
from paper.tables import decisions, several


def first_screen(findings: Findings) -> list[Block]:
    """Put the table of decisions beside what it rests on, above the registered metrics."""
    table = decisions.answer(findings)
    if table is None:
        return [status(findings)]
    main = decisions.overall(findings)
    if several.is_many(main):
        forests = [arms_forest(findings, by_outcome(main))]
    else:
        forests = [
            forest(findings, found.baseline, found.treatment, decisions.compared(found))
            for found in main
            if not is_matched(found.treatment)
        ]
    return [
        TableBlock(table=table),
        status(findings),
        *(ForestBlock(forest=drawn) for drawn in forests if drawn is not None),
    ]


def status(findings: Findings) -> Facts:
    """Say on what the answer rests: data, plan, looks, seeds, pairs."""
    sources = list(dict.fromkeys(row.source for row in findings.data))
    made_up = ["a toy language, not real data" if name == "toy" else name for name in sources]
    late = [
        findings.metrics[one.metric].label
        for one in (findings.decisions[0].metrics if findings.decisions else ())
        if one.late
    ]
    changes, earlier = len(findings.history) - findings.n_earlier, findings.n_earlier
    since = " since these runs were begun" if earlier else ""
    chosen = [
        *([f"{earlier} {_choices_word(earlier)} noted by the authors"] if earlier else []),
        *late,
    ]
    items = [
        ("Data", f"{' and '.join(made_up)}"),
        (
            "Plan",
            f"amended: {changes} {'change' if changes == 1 else 'changes'} after results"
            if changes
            else f"kept{since}: nothing on record was changed after results",
        ),
        ("Chosen after seeing test scores", " and ".join(chosen) or "nothing on record"),
        ("Models", ", ".join(findings.recipes)),
        ("Seeds", _range({row.n_seeds for row in findings.arms if is_trained(row.arm)}) + " each"),
        ("Pairs", _pairs(findings)),
        ("Diverged", ", ".join(_diverged(findings)) or "–"),
    ]
    return Facts(title="On what this rests", items=tuple(items))


def _choices_word(n: int) -> str:
    return "choice" if n == 1 else "choices"


def advice(findings: Findings) -> list[Block]:
    """Say which settings to use, when to take each arm and what would change the verdict."""
    if several.is_many(decisions.overall(findings)):
        return [Bullets(items=tuple(many.advice(findings)))]
    items: list[tuple[str, str]] = [
        (
            f"Settings for {arm_name(row.arm)} on {row.recipe}",
            settings(row.settings)
            + (", chosen by the search" if row.tuned else ", from the recipe and untuned"),
        )
        for row in findings.arms
        if row.settings and not is_matched(row.arm)
    ]
    for found in decisions.overall(findings):
        items += _choices(findings, found)
    items += many.edges(findings)
    return [Bullets(items=tuple(items))] if items else []


def _choices(findings: Findings, found: DecisionRow) -> Iterator[tuple[str, str]]:
    treatment, baseline = arm_name(found.treatment), arm_name(found.baseline)
    purposes = ("where the model ranks or scores given answers", "where its own answers count")
    for one, purpose in zip(found.metrics, purposes, strict=False):
        if one.low is None:
            continue
        metric = findings.metrics[one.metric]
        taken = treatment if one.better else baseline
        why = f"{_why(one, treatment)} ({metric.label})."
        if len({row.treatment for row in findings.decisions}) > 1:
            yield f"{treatment} against {baseline}, {purpose}", f"take {taken}: {why}"
        else:
            yield f"Take {taken} {purpose}", why
    for one in () if is_matched(found.treatment) else found.metrics:
        row = many.tested(findings, found, one)
        if row is not None and row.detectable is not None:
            yield many.what_would_change(findings, one, [row.detectable])


def _why(one: CoPrimaryRow, treatment: str) -> str:
    if one.better:
        return f"{treatment} is shown to be better"
    if one.worse:
        return f"{treatment} is shown to be worse"
    if one.equivalent:
        return f"{treatment} is equivalent, and has to earn its cost"
    if one.not_inferior:
        return f"{treatment} is not worse by {plain(one.sesoi)}, and not shown to be better"
    return f"a loss of {plain(one.sesoi)} or more by {treatment} is not excluded"


def _pairs(findings: Findings) -> str:
    pairs = _range({row.splits["test"][0] for row in findings.data})
    if not findings.decisions or len(findings.decisions[0].metrics) < 2:
        return f"{pairs} held out"
    found = findings.decisions[0]
    row = many.tested(findings, found, found.metrics[1])
    return f"{pairs} held out" + (f", {count(row.n_examples)} of them answered" if row else "")


def _diverged(findings: Findings) -> list[str]:
    found = findings.decisions[:1]
    if several.is_many(decisions.overall(findings)):
        lost = [arm for arm in findings.arms if arm.n_diverged]
        named = [f"{arm.n_diverged} {arm_name(arm.arm)} on {arm.recipe}" for arm in lost]
        n_runs = sum(arm.n_seeds + arm.n_diverged for arm in findings.arms if is_trained(arm.arm))
        return named or [f"0 of {n_runs} runs"]
    return [
        f"{k} of {n} {arm_name(arm)}"
        for one in found
        for arm, k, n in zip(
            (one.baseline, one.treatment), one.n_diverged, one.n_begun, strict=True
        )
    ]


def _range(values: set[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return count(low) if low == high else f"{count(low)} to {count(high)}"
