"""Tables of what the searches tried and chose."""

from collections.abc import Mapping
from typing import Any

from analysis.findings import Findings, SearchRow, TuningRow
from analysis.printing import arm_name, interval, number, setting, setting_name, settings, signed
from analysis.tables.trials import score_label
from paper.cells import Cell, Column, Group, Row, Table, cell, one_group, row


def search(findings: Findings) -> Table:
    """Print what every search chose and how much of its lead was luck."""
    objectives = list(
        dict.fromkeys(f"{row.direction} {row.objective}" for row in findings.searches)
    )
    several = len(objectives) > 1
    return Table(
        name="search",
        columns=(
            Column(head="Search", width=0.15, unbroken=True),
            Column(
                head="Best settings, and the range searched",
                width=0.27 if several else 0.4,
                unbroken=True,
            ),
            *([Column(head="Objective", width=0.13)] if several else []),
            Column(head="Trials\n(pruned,\ndiverged)", width=0.12, number=True),
            Column(head="Its\ntrial", width=0.09, number=True),
            Column(head="Repeated\n(n)", width=0.12, number=True),
            Column(head="Optimism of\nthe search", width=0.12, number=True),
        ),
        groups=one_group(
            [
                row(
                    _searched(found),
                    cell(
                        *(
                            f"{setting_name(name)} {setting(value)} ({_range(found.space[name])})"
                            for name, value in found.settings.items()
                        )
                    ),
                    *([f"{found.direction} {found.objective}"] if several else []),
                    f"{found.n_trials} ({found.n_pruned}, {found.n_diverged})",
                    number(found.trial_value, 3),
                    f"{number(found.value, 3)} ({found.n_repeated})",
                    signed(found.optimism, 3),
                )
                for found in findings.searches
            ]
        ),
        caption="What the search chose and how much of its lead was luck"
        + ("." if several else f"; the objective is to {' '.join(objectives)}."),
        note=findings.table_notes["search"],
        signature=findings.signature,
    )


def published(findings: Findings) -> Table | None:
    """Print what became of published settings that a search tried first."""
    rows = [_tried(found, trial) for found in findings.searches for trial in found.published]
    if not rows:
        return None
    return Table(
        name="published",
        columns=(
            Column(head="Search", width=0.15, unbroken=True),
            Column(head="Source", width=0.24),
            Column(head="Settings", width=0.19, unbroken=True),
            Column(head="Trial", width=0.1),
            Column(head="Objective", width=0.1, number=True),
            Column(head="Repeated\n(n)", width=0.1, number=True),
            Column(head="Worse than\nthe chosen by", width=0.12, number=True),
        ),
        groups=one_group(rows),
        caption="Published settings that the search tried first, beside the chosen ones repeated "
        "with fresh seeds.",
        note=findings.table_notes["published"],
        signature=findings.signature,
    )


def weights(findings: Findings) -> Table | None:
    """Print the trial that would have won under every weight of the loss beside NLL."""
    groups = [
        Group(
            rows=tuple(
                row(
                    _one_line(found),
                    setting(winner.weight),
                    str(winner.trial),
                    settings(winner.settings),
                    number(winner.nll, 3),
                    f"{score_label(found.second)} {number(winner.second, 3)}",
                    "yes" if winner.chosen else "no",
                )
                for winner in found.weights
            )
        )
        for found in findings.tuning
        if found.weights
    ]
    if not groups:
        return None
    return Table(
        name="weights",
        columns=(
            Column(head="Search", width=0.2),
            Column(head="Weight", width=0.08, number=True),
            Column(head="Trial", width=0.08, number=True),
            Column(head="Settings", width=0.3),
            Column(head="NLL", width=0.1, number=True),
            Column(head="Other loss", width=0.12),
            Column(head="Chosen", width=0.12),
        ),
        groups=tuple(groups),
        caption="The trial with the least NLL + weight × the other loss on validation pairs.",
        note=findings.table_notes["weights"],
        signature=findings.signature,
    )


def early(findings: Findings) -> Table | None:
    """Print how well the order of the trials at a step foretells their final order."""
    groups = [
        Group(
            rows=tuple(
                row(
                    _one_line(found),
                    score_label(of_score.score),
                    str(of_score.n_trials),
                    " · ".join(
                        f"{point.step}: {number(point.correlation, 2)} "
                        f"{interval(point.low, point.high, 2)}"
                        for point in of_score.steps
                    ),
                )
                for of_score in found.early
            )
        )
        for found in findings.tuning
        if found.early
    ]
    if not groups:
        return None
    return Table(
        name="early",
        columns=(
            Column(head="Search", width=0.18),
            Column(head="Score", width=0.14),
            Column(head="n", width=0.06, number=True),
            Column(head="Correlation by step", width=0.62),
        ),
        groups=tuple(groups),
        caption="Spearman's rank correlation of a score at a step with its value at the end, over "
        "complete trials, with 95 % intervals.",
        note=findings.table_notes["early"],
        signature=findings.signature,
    )


def _tried(found: SearchRow, trial: Mapping[str, Any]) -> Row:
    return row(
        _searched(found),
        trial["source"],
        _lines_of_settings(trial["settings"]),
        trial["state"],
        number(trial["value"], 3),
        f"{number(trial['repeated'], 3)} ({trial['n_repeated']})",
        signed(trial["behind"], 3),
    )


def _searched(found: SearchRow) -> Cell:
    return cell(f"{found.recipe},", arm_name(found.arm))


def _one_line(found: TuningRow) -> str:
    return f"{found.recipe}, {arm_name(found.arm)}"


def _range(bounds: tuple[float, float]) -> str:
    return f"{setting(bounds[0])} to {setting(bounds[1])}"


def _lines_of_settings(values: Mapping[str, float]) -> Cell:
    return cell(*(f"{setting_name(name)} {setting(value)}" for name, value in values.items()))
