"""The tables of judges and of the win rates that they give."""

from analysis.findings import Findings, JudgeRow, WinRow
from analysis.printing import MISSING, arm_name, number, p_value, signed
from paper.cells import Cell, Column, Group, Heading, Row, Span, Table, cell, one_group, row

WINS_NOTE = (
    "A win rate is the share of prompts on which the judge prefers the arm's answer to the chosen "
    "one, a tie or a verdict that turned with the order counting half. At equal length it is the "
    "prediction of a logistic model in the difference of lengths in characters, for none. "
    "Intervals are over seeds and over prompts like these, clustered. p is of "
    "the raw difference, Holm-corrected over the treatments of one judge. The plan does not name "
    "these scores, so they are no part of the verdict."
)
JUDGES_NOTE = (
    "Prefers the chosen: of held-out pairs, chosen against rejected, ties half; exact intervals "
    "with as many trials as the prompts' clusters are worth. Wrong and right answers are the arms' "
    "own, by exact match. Rank correlation is over the runs. A missing verdict is left out and "
    "never guessed."
)


def judges(findings: Findings) -> Table:
    """Print what is known of every judge."""
    return Table(
        name="judges",
        columns=(
            Column(head="Judge", width=0.26),
            Column(head="Prefers the chosen", width=0.16, number=True),
            Column(head="Wrong answers that lose", width=0.14, number=True),
            Column(head="Right answers that do not", width=0.14, number=True),
            Column(head="Rank correlation", width=0.12, number=True),
            Column(head="Turned", width=0.09, number=True),
            Column(head="No verdict", width=0.09, number=True),
        ),
        groups=one_group([_judge(found) for found in findings.judges]),
        caption="What the judges are worth: on held-out pairs, and against exact match.",
        note=JUDGES_NOTE,
        signature=findings.signature,
    )


def wins(findings: Findings) -> Table:
    """Print every arm's win rate by every judge, raw and at equal length."""
    named = {(one.recipe, one.judge): one for one in findings.judges}
    raw = [found for found in findings.wins if not found.controlled]
    level = {(f.recipe, f.judge, f.arm): f for f in findings.wins if f.controlled}
    return Table(
        name="win-rates",
        columns=(
            Column(head="Arm", width=0.18),
            Column(head="Runs", width=0.06, number=True),
            Column(head="Raw", width=0.145, number=True, over="Win rate"),
            Column(head="At equal length", width=0.145, number=True, over="Win rate"),
            Column(head="Raw", width=0.145, number=True, over="Minus SFT's"),
            Column(head="At equal length", width=0.145, number=True, over="Minus SFT's"),
            Column(head="p (Holm)", width=0.1, number=True),
            Column(head="Exact match", width=0.08, number=True),
        ),
        groups=tuple(
            Group(
                heading=Heading(
                    spans=(
                        Span(text=f"{recipe}, ", strong=True),
                        Span(text=named[recipe, judge].name, strong=True),
                    ),
                    note=_left_out(raw, recipe, judge),
                ),
                rows=tuple(
                    _win(found, level[recipe, judge, found.arm])
                    for found in raw
                    if (found.recipe, found.judge) == (recipe, judge)
                ),
            )
            for recipe, judge in dict.fromkeys((f.recipe, f.judge) for f in raw)
        ),
        caption="Win rates against the chosen answers, raw and at equal length.",
        note=WINS_NOTE,
        signature=findings.signature,
    )


def _judge(found: JudgeRow) -> Row:
    what = "reward model" if found.kind == "reward" else "endpoint"
    trained = f", trained on {found.trained_on}" if found.trained_on else ""
    return row(
        cell(f"{found.name}, {found.recipe}", note=f"{what}{trained}; {found.identity}"),
        MISSING
        if found.accuracy is None
        else cell(
            number(found.accuracy, 3),
            note=f"{_interval(found.low, found.high)}, {found.n_pairs} pairs",
        ),
        _share(found.caught, found.n_wrong),
        _share(found.kept, found.n_right),
        MISSING
        if found.correlation is None
        else cell(number(found.correlation, 2), note=f"{found.n_runs} runs"),
        MISSING if found.turned is None else number(found.turned, 3),
        f"{found.n_missing} pairs" if found.n_missing else "0",
    )


def _share(value: float | None, n: int) -> Cell | str:
    return MISSING if value is None else cell(number(value, 3), note=f"of {n}")


def _win(raw: WinRow, level: WinRow) -> Row:
    side = "longer" if raw.longer > 0 else "shorter"
    return row(
        cell(arm_name(raw.arm), note=f"{number(abs(raw.longer), 1)} characters {side}"),
        str(raw.n_seeds),
        cell(number(raw.rate, 3), note=_interval(raw.low, raw.high)),
        cell(number(level.rate, 3), note=_interval(level.low, level.high)),
        _difference(raw),
        _difference(level),
        MISSING if raw.p_adjusted is None else p_value(raw.p_adjusted),
        MISSING if raw.exact_match is None else number(raw.exact_match, 3),
    )


def _difference(found: WinRow) -> Cell | str:
    if found.difference is None:
        return MISSING
    return cell(
        signed(found.difference, 3), note=_interval(found.difference_low, found.difference_high)
    )


def _left_out(rows: list[WinRow], recipe: str, judge: str) -> str:
    """Say on how many prompts all runs have verdicts."""
    found = next(row for row in rows if (row.recipe, row.judge) == (recipe, judge))
    left = f"; {found.n_missing} left out, on which some run has no verdict"
    return f"{found.n_items} prompts{left if found.n_missing else ''}"


def _interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None else f"{number(low, 3)} to {number(high, 3)}"
