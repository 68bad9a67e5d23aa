"""Tables of studies with many arms: a row for each arm, and all pairs of them."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from analysis.findings import (
    ArmRow,
    CoPrimaryRow,
    CostRow,
    DecisionRow,
    Findings,
    Metric,
    SearchRow,
)
from analysis.printing import (
    MISSING,
    arm_name,
    arrow,
    count,
    duration,
    interval,
    is_trained,
    mean_sd,
    memory,
    number,
    plain,
    setting,
    setting_name,
    signed,
    with_unit,
)
from analysis.words.several import MANY, by_outcome
from paper.cells import Cell, Column, Group, Heading, Row, Span, Table, cell, one_group, row, tone

MOST_COLUMNS: Final = 4
"""Arms of one model that stand as columns beside each other; more of them are rows."""


NOTE: Final = (
    "Null hypotheses, corrections and n: with the table of verdicts in the appendix. Better: one "
    "metric better and none inferior; one better, another not shown non-inferior: trade-off."
)
WIDER: Final = 0.6
"""Share of settings in the width of a model's part of the table of searches."""
MOST_SEARCHES: Final = 6
"""Searches that each have some lines with all there is to know; of more, one line."""
HEAD_WIDTH: Final = 18
"""Characters in a line of a head of scores."""


def is_many(found: Sequence[DecisionRow]) -> bool:
    """Tell whether decisions on one scope are of so many arms that each has one row."""
    return len(found) >= MANY


def answer(findings: Findings, found: Sequence[DecisionRow]) -> Table:
    """Print the verdict in one row for each arm, the best first."""
    metrics = [findings.metrics[name] for name in findings.primary_metrics]
    width = round(0.54 / len(metrics), 3)
    first = found[0]
    margins = ", ".join(
        f"±{plain(one.sesoi)} {findings.metrics[one.metric].label}" for one in first.metrics
    )
    return Table(
        name="answer",
        columns=(
            Column(head=f"Against {arm_name(first.baseline)}", width=0.18, unbroken=True),
            *(
                Column(
                    head=f"{head}:\n{with_unit(metric.label, metric.unit)}",
                    width=width,
                    number=True,
                )
                for head, metric in zip(("Ranking", "Own answers"), metrics, strict=False)
            ),
            Column(head="Seconds", width=0.1, number=True),
            Column(head="Verdict", width=0.18, unbroken=True),
        ),
        groups=one_group([_decided(findings, one) for one in by_outcome(found)]),
        caption=f"What was decided, {first.recipe}: effects with 95 % intervals, margins "
        f"{margins}; colour and weight mark what is shown after correction.",
        note=NOTE,
        signature=findings.signature,
    )


def _decided(findings: Findings, found: DecisionRow) -> Row:
    known = {one.metric: one for one in found.metrics}
    seconds = found.costs.get("train_s")
    return row(
        arm_name(found.treatment),
        *(_effect(findings, known.get(name)) for name in findings.primary_metrics),
        MISSING if seconds is None else f"{number(seconds, 2)}×",
        cell(found.outcome, tone=tone(found.outcome)),
    )


def _effect(findings: Findings, one: CoPrimaryRow | None) -> Cell:
    if one is None:
        return cell(MISSING)
    digits = findings.metrics[one.metric].digits
    shown = "better" if one.better else "worse" if one.worse else ""
    return cell(f"{signed(one.estimate, digits)} {interval(one.low, one.high, digits)}", tone=shown)


def scores(findings: Findings, metrics: Sequence[Metric], note: str) -> Table:
    """Print settings and scores in one row for each arm, models as groups of rows."""
    width = round(0.6 / max(1, len(metrics)), 3)
    recipes = dict.fromkeys(arm.recipe for arm in findings.arms)
    untuned = any(not arm.tuned for arm in findings.arms if is_trained(arm.arm))
    return Table(
        name="scores",
        columns=(
            Column(head="Arm", width=0.13, unbroken=True),
            Column(head="Learning rate,\nothers", width=0.21, unbroken=True),
            Column(head="Seeds\n(diverged)", width=round(0.66 - width * len(metrics), 3),
                   number=True),
            *(
                Column(head=_stacked(metric), width=width, number=True) for metric in metrics
            ),
        ),
        groups=tuple(
            Group(
                heading=Heading(spans=(Span(text=recipe, strong=True),)),
                rows=tuple(
                    _scored(arm, metrics) for arm in findings.arms if arm.recipe == recipe
                ),
            )
            for recipe in recipes
        ),
        caption="Settings and scores on the test pairs, mean ± standard deviation over seeds; "
        "an arrow says which direction is better"
        + (", a star settings from the recipe that no search chose." if untuned else "."),
        note=note,
        signature=findings.signature,
        is_dense=True,
    )  # fmt: skip


def _stacked(metric: Metric) -> str:
    """Break a head into short lines."""
    unit = f" ({metric.unit.replace('/', ' per ')})" if metric.unit else ""
    return "\n".join(textwrap.wrap(f"{metric.label}{arrow(metric)}{unit}", HEAD_WIDTH))


def _scored(arm: ArmRow, metrics: Sequence[Metric]) -> Row:
    star = "" if arm.tuned or not is_trained(arm.arm) else "*"
    return row(
        arm_name(arm.arm),
        (brief(arm.settings) or MISSING) + star,
        f"{arm.n_seeds} ({arm.n_diverged})",
        *(
            MISSING
            if metric.name not in arm.scores
            else mean_sd(arm.scores[metric.name].mean, arm.scores[metric.name].sd, metric.digits)
            for metric in metrics
        ),
    )


def overview(findings: Findings) -> Table | None:
    """Print an arm's scores on every model in one row, for the README; None where they are few."""
    recipes = list(dict.fromkeys(arm.recipe for arm in findings.arms))
    if len(findings.arms) <= MOST_COLUMNS * len(recipes):
        return None
    metrics = [findings.metrics[name] for name in findings.primary_metrics]
    known = {(arm.recipe, arm.arm): arm for arm in findings.arms}
    seconds = {(found.recipe, found.arm): found.train_s for found in findings.costs}
    arms = list(dict.fromkeys(arm.arm for arm in findings.arms))

    def score(found: ArmRow | None, metric: Metric) -> str:
        if found is None or metric.name not in found.scores:
            return MISSING
        summary = found.scores[metric.name]
        return mean_sd(summary.mean, summary.sd, metric.digits)

    heads = [f"{what}, {recipe}" for what in (*(one.label for one in metrics), "training")
             for recipe in recipes]  # fmt: skip
    n_seeds = {arm.n_seeds for arm in findings.arms if is_trained(arm.arm)}
    return Table(
        name="overview",
        columns=(
            Column(head="arm", width=0.16),
            *(Column(head=head, width=round(0.84 / len(heads), 3)) for head in heads),
        ),
        groups=one_group(
            [
                row(
                    arm_name(arm),
                    *(score(known.get((r, arm)), metric) for metric in metrics for r in recipes),
                    *(
                        duration(seconds.get((r, arm))) if is_trained(arm) else MISSING
                        for r in recipes
                    ),
                )
                for arm in arms
            ]
        ),
        caption="Mean ± standard deviation over "
        f"{' or '.join(map(str, sorted(n_seeds)))} seeds, on held-out pairs.",
        note="",
        signature=findings.signature,
    )


def cost(findings: Findings) -> Table:
    """Print what one run of every arm cost in one row, averaged over the models."""
    of_arms: dict[str, list[CostRow]] = {}
    for found in findings.costs:
        if is_trained(found.arm):
            of_arms.setdefault(found.arm, []).append(found)
    devices = dict.fromkeys(found.device for found in findings.costs)
    models = len({found.recipe for found in findings.costs})
    return Table(
        name="cost",
        columns=(
            Column(head="Arm", width=0.2, unbroken=True),
            Column(head="Training", width=0.12, number=True),
            Column(head="of it start,\nreference", width=0.2, number=True),
            Column(head="Tokens", width=0.14, number=True),
            Column(head="Memory", width=0.14, number=True),
            Column(head="Its search", width=0.2, number=True),
        ),
        groups=one_group([_spent(arm, found) for arm, found in of_arms.items()]),
        caption=f"Cost of one run, mean over seeds and {models} "
        f"{'model' if models == 1 else 'models'}; of a search all trials; on "
        f"{' and '.join(devices)}.",
        note=findings.table_notes["cost"],
        signature=findings.signature,
        is_dense=True,
    )


def _spent(arm: str, found: Sequence[CostRow]) -> Row:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    searched = [one.search_s for one in found if one.search_s is not None]
    parts = [mean([one.start_s for one in found]), mean([one.reference_s for one in found])]
    return row(
        arm_name(arm),
        duration(mean([one.train_s for one in found])),
        ", ".join(duration(part) if part else MISSING for part in parts) if any(parts) else MISSING,
        count(mean([one.train_tokens for one in found])),
        memory(mean([one.peak_memory_bytes for one in found])),
        duration(mean(searched)) if searched else MISSING,
    )


def searches(findings: Findings) -> Table:
    """Print what every search chose in one row for each arm, models beside each other."""
    objectives = dict.fromkeys(f"{row.direction} {row.objective}" for row in findings.searches)
    recipes = list(dict.fromkeys(found.recipe for found in findings.searches))
    known = {(found.recipe, found.arm): found for found in findings.searches}
    width = round(0.8 / len(recipes), 3)

    def chosen(found: SearchRow | None) -> list[str]:
        if found is None:
            return [MISSING, MISSING]
        return [brief(found.settings), f"{number(found.value, 3)} ({signed(found.optimism, 3)})"]

    return Table(
        name="search",
        columns=(
            Column(head="Search", width=0.2, unbroken=True),
            *(
                Column(head=head, width=round(share * width, 4), number=share < WIDER, over=recipe)
                for recipe in recipes
                for head, share in (("Best settings", WIDER), ("Repeated", 1 - WIDER))
            ),
        ),
        groups=one_group(
            [
                row(
                    arm_name(arm),
                    *(text for recipe in recipes for text in chosen(known.get((recipe, arm)))),
                )
                for arm in dict.fromkeys(found.arm for found in findings.searches)
            ]
        ),
        caption="What the searches chose, learning rate first. Repeated: the mean objective with "
        f"fresh seeds, to {' or '.join(objectives)}, in brackets by how much the trial itself "
        "looked better. Ranges, trials and pruned ones stand in the appendix.",
        note=findings.table_notes["search"],
        signature=findings.signature,
        is_dense=True,
    )


def brief(values: Mapping[str, float]) -> str:
    """Print settings with the learning rate first and without its name."""
    told = [
        setting(value) if name == "learning_rate" else f"{setting_name(name)} {setting(value)}"
        for name, value in values.items()
    ]
    return ", ".join(told)
