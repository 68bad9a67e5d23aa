"""Tables of settings and scores."""

from collections.abc import Sequence

from analysis.findings import ArmRow, Findings, Metric
from analysis.printing import (
    MISSING,
    arm_name,
    arrow,
    count,
    is_trained,
    mean_sd,
    number,
    setting,
    setting_name,
    settings,
    with_unit,
)
from paper.cells import Column, Group, Table, one_group, row, slug
from paper.tables import several


def arms(findings: Findings, recipe: str) -> Table:
    """Print the settings and scores of every arm of one recipe."""
    found = [arm for arm in findings.arms if arm.recipe == recipe]
    names = dict.fromkeys(name for arm in found for name in arm.settings)
    of_settings = [
        row(setting_name(name), *(setting(arm.settings.get(name)) for arm in found))
        for name in names
    ]
    of_settings.append(row("settings come from", *(_came_from(arm) for arm in found)))
    of_settings.append(
        row("seeds (diverged)", *(f"{arm.n_seeds} ({arm.n_diverged})" for arm in found))
    )
    of_scores = [
        row(
            with_unit(metric.label, metric.unit) + arrow(metric),
            *(_score(arm, metric) for arm in found),
            primary=metric.name in findings.primary_metrics,
        )
        for metric in findings.metrics.values()
    ]
    width = 0.66 / max(1, len(found))
    return Table(
        name=f"arms-{slug(recipe)}",
        columns=(
            Column(head="Setting or score", width=0.34),
            *(Column(head=arm_name(arm.arm), width=width, number=True) for arm in found),
        ),
        groups=(Group(rows=tuple(of_settings)), Group(rows=tuple(of_scores))),
        caption=f"{recipe}: settings and scores on the test pairs, mean ± standard deviation "
        "over seeds.",
        note=findings.table_notes[f"arms:{recipe}"],
        signature=findings.signature,
    )


def scores(findings: Findings) -> Table:
    """Print one table of scores, models as groups of columns; none that repeats another."""
    shown = [
        metric
        for metric in findings.metrics.values()
        if metric.name in registered(findings) or metric.name in ALSO
    ]
    others = _others(findings, shown)
    note = "Nothing is tested here." + (
        f" {', '.join(others)} are left out: complete tables stand in the appendix."
        if others
        else ""
    )
    recipes = {arm.recipe for arm in findings.arms}
    if len(findings.arms) > several.MOST_COLUMNS * len(recipes):
        return several.scores(findings, shown, note)
    width = round(0.76 / max(1, len(findings.arms)), 3)
    seeds = [f"{arm.n_seeds} ({arm.n_diverged})" for arm in findings.arms]
    of_settings = [
        row(setting_name(name), *(setting(arm.settings.get(name)) for arm in findings.arms))
        for name in dict.fromkeys(name for arm in findings.arms for name in arm.settings)
    ]
    of_settings += [
        row("settings come from", *map(_came_from, findings.arms)),
        row("seeds (diverged)", *seeds),
    ]
    return Table(
        name="scores",
        columns=(
            Column(head="Setting or score", width=0.24),
            *(
                Column(head=arm_name(arm.arm), width=width, number=True, over=arm.recipe)
                for arm in findings.arms
            ),
        ),
        groups=(
            Group(rows=tuple(of_settings)),
            Group(
                rows=tuple(
                    row(
                        with_unit(metric.label, metric.unit) + arrow(metric),
                        *(_score(arm, metric) for arm in findings.arms),
                        primary=metric.name in findings.primary_metrics,
                    )
                    for metric in shown
                )
            ),
        ),
        caption="Settings and scores on the test pairs, mean ± standard deviation over seeds; "
        "an arrow says which direction is better, bold which scores decide.",
        note=note,
        signature=findings.signature,
    )


ALSO = {"chosen_logps", "response_tokens", "ended"}
"""Scores that no registered one repeats."""


def registered(findings: Findings) -> set[str]:
    """Name the metrics that the plan registered."""
    rows = (*findings.pooled, *findings.contrasts)
    return {*findings.primary_metrics, *(row.metric for row in rows if row.family)}


def _others(findings: Findings, shown: Sequence[Metric]) -> list[str]:
    return [metric.label for metric in findings.metrics.values() if metric not in shown]


def overview(findings: Findings, metrics: Sequence[str]) -> Table:
    """Print one row per arm with a few scores, for the README; of many the models side by side."""
    if wide := several.overview(findings):
        return wide
    chosen = [findings.metrics[name] for name in metrics]
    return Table(
        name="overview",
        columns=(
            Column(head="model", width=0.15),
            Column(head="arm", width=0.1),
            Column(head="settings", width=0.25),
            *(Column(head=metric.label, width=0.1) for metric in chosen),
            Column(head="seeds", width=0.1),
        ),
        groups=one_group(
            [
                row(
                    arm.recipe,
                    arm_name(arm.arm),
                    (settings(arm.settings) or MISSING)
                    + ("" if arm.tuned or not is_trained(arm.arm) else " (untuned)"),
                    *(_score(arm, metric) for metric in chosen),
                    str(arm.n_seeds),
                )
                for arm in findings.arms
            ]
        ),
        caption="Mean ± standard deviation over seeds, on held-out pairs.",
        note="",
        signature=findings.signature,
    )


def rouge(findings: Findings) -> Table | None:
    """Print ROUGE as this study scores it beside ROUGE as it was published."""
    if not findings.rouge:
        return None
    scores = [
        Column(head=head, width=0.1, number=True, over=over)
        for over in ("Corrected", "As published")
        for head in ("ROUGE-1", "ROUGE-2", "ROUGE-L")
    ]
    return Table(
        name="rouge",
        columns=(
            Column(head="Recipe", width=0.17, unbroken=True),
            Column(head="Arm", width=0.08),
            Column(head="Seeds", width=0.07, number=True),
            Column(head="Answers", width=0.08, number=True),
            *scores,
        ),
        groups=one_group(
            [
                row(
                    found.recipe,
                    arm_name(found.arm),
                    str(found.n_seeds),
                    count(found.n_answers),
                    *(number(value, 3) for value in found.corrected.values()),
                    *(number(value, 3) for value in found.published.values()),
                )
                for found in findings.rouge
            ]
        ),
        caption="ROUGE of the answers alone, and as the article on Llama-3.2-1B scored them; "
        "means over answers and seeds.",
        note=findings.table_notes["rouge"],
        signature=findings.signature,
    )


def _came_from(arm: ArmRow) -> str:
    if not arm.settings:
        return "no training"
    return "the search" if arm.tuned else "the recipe (untuned)"


def _score(arm: ArmRow, metric: Metric) -> str:
    if metric.name not in arm.scores:
        return MISSING
    score = arm.scores[metric.name]
    return mean_sd(score.mean, score.sd, metric.digits)
