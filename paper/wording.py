"""Words about the arms that a study has."""

from collections.abc import Sequence

from analysis.findings import Findings
from analysis.printing import arm_name, is_matched, is_trained, start_of

ARMS = {
    "base": "is the model before training",
    "sft": "trains on the chosen answers alone",
    "sft-matched": "is SFT for as many distinct tokens as the arm that takes most",
    "orpo": "trains on both answers of each pair",
    "orpo-from-sft": "is ORPO's loss",
    "dpo": "raises the odds of the chosen answer over those under its start, the reference",
    "ipo": "draws DPO's gain, per token, to a fixed size",
    "kto": "judges each answer by itself against its start",
    "simpo": "asks for a margin per token, without a reference",
    "cpo": "is DPO's loss without a reference, and the NLL of chosen answers",
}
CITED = {
    "dpo": "rafailov2023dpo",
    "ipo": "azar2024ipo",
    "kto": "ethayarajh2024kto",
    "simpo": "meng2024simpo",
    "cpo": "xu2024cpo",
}
"""Arm -> where it comes from; ORPO's source stands in the question."""
OTHER_ARM = "is trained as its recipe says"
COUNTS = (
    "no arm", "one arm", "two arms", "three arms", "four arms", "five arms", "six arms",
    "seven arms", "eight arms", "nine arms", "ten arms",
)  # fmt: skip
FEW = 2
"""Methods that a title names one by one."""
LISTED = 4
"""Arms that stand in one sentence; more of them are a list."""


def title(arms: Sequence[str]) -> str:
    """Ask the study's question.

    Args:
        arms: printed names of the methods, without the base and matched controls.
    """
    if len(arms) > FEW:
        return f"How should I train my small model: {_choice(arms)}?"
    return f"Should I train my small model with {' or with '.join(arms)}?"


def short_title(arms: Sequence[str]) -> str:
    """Ask the same in a few words, for the head of a window."""
    return f"{_choice(arms)} for a small model?"


def question(findings: Findings) -> str:
    """Say what is asked and what ORPO adds, with the methods of these records."""
    names = methods(findings)
    others = " or with another preference method" if len(names) > FEW else ""
    return (
        "Should a small language model be trained with plain supervised fine-tuning (SFT), with "
        f"ORPO [@hong2024orpo]{others}, at which settings, and is the difference real?\n"
        if others
        else "Should a small language model be trained with plain supervised fine-tuning (SFT) or "
        "with ORPO [@hong2024orpo], at which learning rate and β, and is the difference real?\n"
    ) + (
        "ORPO adds to the usual loss a term that rewards the model for finding the chosen answer "
        "more likely than the rejected one; it needs no reference model."
    )


def methods(findings: Findings) -> list[str]:
    """List the printed names of trained arms, without matched controls."""
    asked = (row.arm for row in findings.arms if is_trained(row.arm) and not is_matched(row.arm))
    return list(dict.fromkeys(map(arm_name, asked)))


def subtitle(findings: Findings) -> str:
    """Say in one line what kind of study this is."""
    trained = [row for row in findings.arms if is_trained(row.arm)]
    n_arms = len({row.arm for row in trained})
    n_seeds = max((row.n_seeds for row in trained), default=0)
    differ = (
        "arms that differ in the loss, one in its number of updates"
        if any(is_matched(row.arm) for row in trained)
        else "arms that differ in the loss alone"
        if n_arms > 1
        else "one trained arm"
    )
    seeds = "several seeds" if n_seeds > 1 else "one seed"
    return f"A reproduction study: {differ}, {seeds}, held-out pairs."


def are_many(findings: Findings) -> bool:
    """Tell whether there are more arms than one sentence holds."""
    return len({row.arm for row in findings.arms}) > LISTED


def arms(findings: Findings) -> str:
    """Say what the arms of these records are: in one sentence, or in a list where they are many."""
    names = list(dict.fromkeys(row.arm for row in findings.arms))
    said = [f"**{arm_name(arm)}** {_said(arm)}" for arm in names]
    if are_many(findings):
        return "\n".join(f"- {line}." for line in said)
    return f"This report has {_count(names)}: {', '.join(said)}."


def alike(findings: Findings) -> str:
    """Say what is alike in all arms of these records."""
    names = list(dict.fromkeys(row.arm for row in findings.arms))
    many = are_many(findings)
    trained = [arm_name(arm) for arm in names if is_trained(arm) and not is_matched(arm)]
    who = "All trained arms" if many else " and ".join(trained)
    budget = (
        "; arms that continue SFT spend half of them there. They differ in the loss, its "
        "hyperparameters and their start; the matched arm in its number of updates.\n"
        if many
        else "; they differ only in the loss and its hyperparameters.\n"
    )
    shared = (
        f"{who} see the same pairs in the same order, with the same adapter, optimiser, schedule "
        f"and number of updates{budget}"
        if len(trained) > 1
        else ""
    )
    searched = list(dict.fromkeys(arm_name(row.arm) for row in findings.searches))
    who = "every method" if many and set(searched) == set(trained) else " and ".join(searched)
    count = f"This report has {_count(names)}.\n" if many else ""
    tuned = f"A search tuned {who} alike.\n" if searched else ""
    return (
        f"{count}{shared}{tuned}Every score in the tables of arms and tests comes from pairs used "
        "neither in training nor in a search."
    )


def _said(arm: str) -> str:
    """Say what an arm is, what it continues and where it comes from."""
    start = start_of(arm)
    after = f", after {arm_name(start)}" if start else ""
    cited = f" [@{CITED[arm]}]" if arm in CITED else ""
    return f"{ARMS.get(arm, OTHER_ARM)}{after}{cited}"


def _count(names: Sequence[str]) -> str:
    return COUNTS[len(names)] if len(names) < len(COUNTS) else f"{len(names)} arms"


def _choice(arms: Sequence[str]) -> str:
    if len(arms) > FEW + 1:
        return f"{', '.join(arms[:FEW])} or another preference method"
    if len(arms) > FEW:
        return f"{', '.join(arms[:FEW])} or {arms[FEW]}"
    return " or ".join(arms)
