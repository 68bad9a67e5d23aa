"""What is said of judges: how often they are right, and what exact match says of them."""

from collections.abc import Iterable

from analysis.judged_rows import JudgeRow
from analysis.printing import number

BELOW = 0.6
"""Lower bound of a judge's accuracy below which it is called little better than guessing."""

CHANCE = 0.5
"""Share of wrong answers that lose which a coin reaches too."""


def judge_remarks(judges: Iterable[JudgeRow]) -> tuple[str, ...]:
    """Say of every judge how far its win rates can be trusted."""
    return tuple(" ".join(_sentences(row)) for row in judges)


def _sentences(row: JudgeRow) -> list[str]:
    what = "a reward model" if row.kind == "reward" else "a model behind an endpoint"
    trained = f" that was trained on {row.trained_on}" if row.trained_on else ""
    if row.trained_on == "training pairs":
        trained += " alone"
    found = [f"{row.recipe}: {row.name} is {what}{trained}."]
    if row.trained_on == "other pairs":
        found.append("Test pairs may be among them, so that its accuracy may flatter it.")
    if row.accuracy is None:
        return [*found, "It gave no verdict on any held-out pair, so its win rates mean nothing."]
    bounds = "" if row.low is None else f" ({number(row.low, 3)} to {number(row.high, 3)})"
    found.append(
        f"It prefers the chosen answer in {number(row.accuracy, 3)}{bounds} of {row.n_pairs} "
        "held-out pairs."
    )
    if row.low is None or row.low < BELOW:
        found.append("That is little better than guessing: do not rest anything on its win rates.")
    if row.turned is not None:
        found.append(
            f"Of its verdicts {number(row.turned, 3)} turned with the order of the answers; they "
            "count as ties."
        )
    return found + _against_exact_match(row)


def _against_exact_match(row: JudgeRow) -> list[str]:
    """Hold win rates against exact match, where the right answer is known."""
    if row.caught is None or row.kept is None:
        return []
    told = (
        f"By exact match, which is known here, {number(row.caught, 3)} of {row.n_wrong} wrong "
        f"answers lose and {number(row.kept, 3)} of {row.n_right} right ones win or tie; where "
        "right answers are the chosen ones, a faultless judge's win rate is half the exact match."
    )
    found = [told]
    if row.caught <= CHANCE:
        found.append(
            "Of these answers, unlike the pairs it was made for, it knows no more than a coin: "
            "its win rates do not say which arm is right more often."
        )
    if row.correlation is None:
        return found
    also = (
        f"Over {row.n_runs} runs the rank correlation of its win rate with exact match is "
        f"{number(row.correlation, 2)}."
    )
    return [*found, also]
