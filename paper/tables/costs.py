"""Tables of what runs cost."""

from analysis.findings import Bench, Findings
from analysis.printing import arm_name, count, duration, memory, quantity, times
from paper.cells import Column, Table, one_group, row
from paper.tables import several as many


def cost(findings: Findings) -> Table:
    """Print what one run of every arm cost; devices have a column where they differ."""
    devices = list(dict.fromkeys(found.device for found in findings.costs))
    recipes = {found.recipe for found in findings.costs}
    if len(findings.costs) > many.MOST_COLUMNS * len(recipes):
        return many.cost(findings)
    several = len(devices) > 1
    return Table(
        name="cost",
        columns=(
            Column(head="Runs", width=0.2 if several else 0.35, unbroken=True),
            Column(head="Training", width=0.13, number=True),
            Column(head="Evaluation", width=0.13, number=True),
            Column(head="Tokens\ntrained on", width=0.13, number=True),
            Column(head="Tokens\nper second", width=0.13, number=True),
            Column(head="Peak\nmemory", width=0.13, number=True),
            *([Column(head="Device", width=0.15)] if several else []),
        ),
        groups=one_group(
            [
                row(
                    f"{found.recipe}, {arm_name(found.arm)}",
                    duration(found.train_s),
                    duration(found.evaluate_s),
                    count(found.train_tokens),
                    count(found.tokens_per_s),
                    memory(found.peak_memory_bytes),
                    *([found.device] if several else []),
                )
                for found in findings.costs
            ]
        ),
        caption="Cost of one run, mean over seeds"
        + ("." if several else f", on {' '.join(devices)}."),
        note=findings.table_notes["cost"],
        signature=findings.signature,
    )


def bench(measured: Bench, note: str = "") -> Table:
    """Print costs beside what they are compared with."""
    return Table(
        name="bench",
        columns=(
            Column(head="Cost", width=0.39),
            Column(head="Compared with", width=0.25),
            Column(head="This study", width=0.13, number=True),
            Column(head="Baseline", width=0.13, number=True),
            Column(head="Ratio", width=0.1, number=True),
        ),
        groups=one_group(
            [
                row(
                    found.subject,
                    found.reference,
                    quantity(found.ours, found.unit),
                    quantity(found.theirs, found.unit),
                    times(found.ratio),
                )
                for found in measured.rows
            ]
        ),
        caption="Costs beside TRL's, and how many times cheaper this study is.",
        note=note,
        signature=measured.signature,
    )
