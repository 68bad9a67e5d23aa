"""Tables of all pairs of arms, of the best arms, and of what became of chosen answers."""

from analysis.findings import BestSetRow, DisplacementRow, Findings
from analysis.printing import (
    MISSING,
    arm_name,
    interval,
    p_value,
    percent,
    signed,
    with_unit,
)
from analysis.words.several import in_lead
from paper.cells import Cell, Column, Group, Heading, Row, Span, Table, cell, one_group, row


def pairs(findings: Findings, found: BestSetRow) -> Table:
    """Print every pair of arms in one metric, a column for each second arm."""
    metric = findings.metrics[found.metric]
    arms = list(dict.fromkeys(arm for pair in found.pairs for arm in (pair.baseline,
                                                                      pair.treatment)))  # fmt: skip
    known = {(pair.baseline, pair.treatment): pair for pair in found.pairs}
    width = round(0.84 / max(1, len(arms) - 1), 4)

    def difference(of: str, minus: str) -> Cell:
        pair, sign = known.get((minus, of)), 1
        if pair is None:
            pair, sign = known.get((of, minus)), -1
        if pair is None:
            return cell(MISSING)
        effect = sign * pair.estimate
        shown = pair.p_adjusted <= 0.05 and metric.higher_is_better is not None
        good = (effect > 0) == (metric.higher_is_better is not False)
        word = ("better" if good else "worse") if shown else ""
        return cell(
            signed(effect, metric.digits), note=p_value(pair.p_adjusted),
            tone=word,
        )  # fmt: skip

    return Table(
        name=f"pairs-{found.metric.replace('_', '-')}",
        columns=(
            Column(head="Row minus column", width=0.16, unbroken=True),
            *(Column(head=arm_name(arm), width=width, number=True) for arm in arms[:-1]),
        ),
        groups=one_group(
            [
                row(
                    arm_name(of),
                    *(
                        difference(of, minus) if arms.index(minus) < place else ""
                        for minus in arms[:-1]
                    ),
                )
                for place, of in enumerate(arms)
                if place
            ]
        ),
        caption=f"All pairs in {with_unit(metric.label, metric.unit)}, over {found.n_models} "
        f"{'model' if found.n_models == 1 else 'models'}: row minus column, below it Holm's "
        "p-value over all pairs.",
        note=_pairs_note(len(found.pairs)),
        signature=findings.signature,
        is_dense=True,
    )


def _pairs_note(n: int) -> str:
    return (
        "Null hypothesis of each pair, two-sided: the arms do not differ over seeds and prompts "
        f"like these. Corrections: Holm's over {n} pairs. n: as in the table of verdicts. Colour "
        "marks p-values of at most 0.05."
    )


def best(findings: Findings) -> Table | None:
    """Print which arms none is shown to beat, the leader first; None with too few arms."""
    if not findings.best_sets:
        return None
    return Table(
        name="best-sets",
        columns=(
            Column(head="Metric", width=0.25),
            Column(head="Best set, the leader first", width=0.75),
        ),
        groups=one_group(
            [
                row(
                    findings.metrics[found.metric].label,
                    ", ".join(map(arm_name, in_lead(found))),
                )
                for found in findings.best_sets
            ]
        ),
        caption="Arms that none is shown to beat, on average of these models.",
        note="An arm is dropped where another beats it one-sided at 5 % over the number of its "
        "rivals; the truly best arm stays with at least 95 %. n: as in the table of verdicts.",
        signature=findings.signature,
        is_dense=True,
    )


def displaced(findings: Findings) -> Table | None:
    """Print how every arm changed the likelihood of chosen answers; None without any."""
    if not findings.displaced:
        return None
    chosen, margin = (findings.metrics[name] for name in ("chosen_logps", "margin"))
    recipes = dict.fromkeys(found.recipe for found in findings.displaced)
    return Table(
        name="displacement",
        columns=(
            Column(head="Arm", width=0.16, unbroken=True),
            Column(head="Compared\nwith", width=0.1),
            Column(head=f"Change of {with_unit(chosen.label, chosen.unit)}", width=0.22,
                   number=True),
            Column(head=f"Change of {with_unit(margin.label, margin.unit)}", width=0.2,
                   number=True),
            Column(head="Implicit reward,\nchosen / rejected", width=0.16, number=True),
            Column(head="Ranked right\nby it", width=0.09, number=True),
            Column(head="Flag", width=0.07),
        ),
        groups=tuple(
            Group(
                heading=Heading(spans=(Span(text=recipe, strong=True),)),
                rows=tuple(
                    _displaced(one, chosen.digits, margin.digits)
                    for one in findings.displaced
                    if one.recipe == recipe
                ),
            )
            for recipe in recipes
        ),
        caption="Did chosen answers become less likely while the margin grew? Changes against the "
        "arm that each one starts from, with 95 % intervals; implicit rewards as last logged on "
        "training pairs, where the loss has a reference.",
        note="Nothing is tested in this table; intervals are over seeds and prompts and not "
        "corrected. n: as in the table of scores.",
        signature=findings.signature,
        is_dense=True,
    )  # fmt: skip


def _displaced(found: DisplacementRow, *digits: int) -> Row:
    changes = [
        f"{signed(estimate, places)} {interval(low, high, places)}"
        for (estimate, low, high), places in zip((found.chosen, found.margin), digits, strict=True)
    ]
    rewards = [MISSING, MISSING]
    if found.rewards:
        good, bad, right = found.rewards
        rewards = [f"{signed(good, 2)} / {signed(bad, 2)}", percent(right)]
    return row(
        arm_name(found.arm), arm_name(found.start), *changes, *rewards,
        cell("yes" if found.flagged else "no", tone="worse" if found.flagged else ""),
    )  # fmt: skip
