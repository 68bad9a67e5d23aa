"""Tables of what the records are and how the tests behave."""

from analysis.findings import Findings
from analysis.printing import arm_name, band, count, flat, percent_1, raw_values, short, with_unit
from paper.cells import Column, Group, Table, cell, one_group, row, slug


def calibration(findings: Findings) -> Table | None:
    """Print what the tests do in simulated studies beside what they promise."""
    if not findings.calibration:
        return None
    return Table(
        name="calibration",
        columns=(
            Column(head="Noise or design", width=0.33),
            Column(head="Test", width=0.2),
            Column(head="Rate of", width=0.15),
            Column(head="Measured", width=0.12, number=True),
            Column(head="Demanded", width=0.2, number=True),
        ),
        groups=one_group(
            [
                row(
                    found.regime,
                    found.test,
                    found.quantity,
                    percent_1(found.value),
                    band(found.low, found.high) + ("" if found.passed else ", missed"),
                )
                for found in findings.calibration
            ]
        ),
        caption=f"Rates over {count(findings.calibration[0].n_studies)} simulated studies each.",
        note=findings.table_notes["calibration"],
        signature=findings.signature,
    )


def environment(findings: Findings) -> Table:
    """Print the software and hardware of the runs."""
    return Table(
        name="environment",
        columns=(
            Column(head="Name", width=0.3, long=True),
            Column(head="Value", width=0.7, long=True),
        ),
        groups=one_group([row(name, value) for name, value in findings.environment.items()]),
        caption="Software and hardware of the runs.",
        note=findings.table_notes["environment"],
        signature=findings.signature,
    )


def data(findings: Findings) -> Table:
    """Print the splits of the data with their fingerprints."""
    return Table(
        name="data",
        columns=(
            Column(head="Recipe", width=0.22, unbroken=True),
            Column(head="Source", width=0.24, long=True),
            Column(head="Split", width=0.16),
            Column(head="Pairs", width=0.1, number=True),
            Column(head="Fingerprint", width=0.28),
        ),
        groups=one_group(
            [
                row(
                    found.recipe,
                    found.source,
                    split,
                    count(pairs),
                    cell(short(fingerprint), code=True),
                )
                for found in findings.data
                for split, (pairs, fingerprint) in found.splits.items()
            ]
        ),
        caption="Splits of the data; the fingerprint is the SHA-256 of the split's pairs.",
        note=findings.table_notes["data"],
        signature=findings.signature,
    )


def digests(findings: Findings) -> Table:
    """Print the digest and the commit of every run."""
    return Table(
        name="digests",
        columns=(
            Column(head="Recipe", width=0.16, unbroken=True),
            Column(head="Arm", width=0.07),
            Column(head="Seed", width=0.06, number=True),
            Column(head="Status", width=0.1),
            Column(head="Digest", width=0.185),
            Column(head="Commit", width=0.185),
            Column(head="Finished", width=0.24, unbroken=True),
        ),
        groups=one_group(
            [
                row(
                    str(run["recipe"]),
                    arm_name(str(run["arm"])),
                    str(run["seed"]),
                    str(run["status"]),
                    cell(short(run["digest"]), code=True),
                    cell(short(run["git"]), code=True),
                    str(run["finished_at"]),
                )
                for run in findings.digests
            ]
        ),
        caption="Every run; a digest names the resolved configuration (first 16 of 64 digits).",
        note=findings.table_notes["digests"],
        signature=findings.signature,
    )


def raw(findings: Findings, recipe: str) -> Table:
    """Print every score of every seed of one recipe."""
    groups = [
        Group(
            rows=tuple(
                row(
                    with_unit(metric.label, metric.unit),
                    arm_name(arm.arm),
                    raw_values(arm.scores[metric.name].by_seed),
                )
                for arm in findings.arms
                if arm.recipe == recipe and metric.name in arm.scores
            )
        )
        for metric in findings.metrics.values()
    ]
    return Table(
        name=f"raw-{slug(recipe)}",
        columns=(
            Column(head="Score", width=0.25),
            Column(head="Arm", width=0.1),
            Column(head="Values", width=0.65, long=True),
        ),
        groups=tuple(group for group in groups if group.rows),
        caption=f"{recipe}: every score of every seed, as seed: value.",
        note=findings.table_notes[f"raw:{recipe}"],
        signature=findings.signature,
    )


def configuration(findings: Findings, recipe: str) -> Table:
    """Print the resolved configuration of one recipe."""
    return Table(
        name=f"configuration-{slug(recipe)}",
        columns=(
            Column(head="Field", width=0.4),
            Column(head="Value", width=0.6, long=True),
        ),
        groups=one_group(
            [
                row(cell(name, code=True), cell(value, code=True))
                for name, value in flat(findings.configurations[recipe])
            ]
        ),
        caption=f"{recipe}: resolved configuration.",
        note=findings.table_notes["configuration"],
        signature=findings.signature,
    )
