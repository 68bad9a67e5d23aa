"""Words about the arms that a study has."""

from analysis.findings import Findings
from analysis.printing import arm_name, is_matched, is_trained

ARMS = {
    "base": "is the model before training",
    "sft": "trains on the chosen answers alone",
    "sft-matched": "is SFT for as many distinct tokens as the arm that takes most",
    "orpo": "trains on both answers of each pair",
}
OTHER_ARM = "is trained as its recipe says"


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


def arms(findings: Findings) -> str:
    """Say what the arms of these records are, and what is alike in them."""
    names = list(dict.fromkeys(row.arm for row in findings.arms))
    listed = ", ".join(f"**{arm_name(arm)}** {ARMS.get(arm, OTHER_ARM)}" for arm in names)
    trained = [arm_name(arm) for arm in names if is_trained(arm) and not is_matched(arm)]
    alike = (
        f"{' and '.join(trained)} see the same pairs in the same order, with the same adapter, "
        "optimiser, schedule and number of updates; they differ only in the loss and its "
        "hyperparameters.\n"
        if len(trained) > 1
        else ""
    )
    searched = dict.fromkeys(arm_name(row.arm) for row in findings.searches)
    tuned = f"A search tuned {' and '.join(searched)} alike.\n" if searched else ""
    count = {1: "one arm", 2: "two arms", 3: "three arms", 4: "four arms"}
    return (
        f"This report has {count.get(len(names), f'{len(names)} arms')}: {listed}.\n{alike}"
        f"{tuned}Every score in the tables of arms and tests comes from pairs used neither in "
        "training nor in a search."
    )
