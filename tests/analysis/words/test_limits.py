"""What cannot be concluded, told once for each model however many arms there are."""

import dataclasses

from analysis.findings import build_findings
from analysis.records.load import load_study
from analysis.words.limits import cannot_conclude


def test_small_effects_and_untuned_arms_are_told_once_for_each_model(small_runs) -> None:
    records = load_study(small_runs)
    found = build_findings(records, origin="local")
    rows = [
        *found.contrasts,
        *(
            dataclasses.replace(row, treatment="dpo", detectable=row.detectable * 2)
            for row in found.contrasts
            if row.detectable is not None
        ),
    ]
    arms = [
        dataclasses.replace(row, arm=arm, tuned=False)
        for row in found.arms
        if row.arm == "orpo"
        for arm in ("orpo", "dpo")
    ]
    told = cannot_conclude(records, arms, rows)
    small = [sentence for sentence in told if sentence.startswith("Small effects")]
    (untuned,) = [sentence for sentence in told if "untuned" in sentence]

    assert len(small) == len(found.recipes)
    for sentence in small:
        assert sentence.count(", by arm, in ") == len(found.primary_metrics)
    assert untuned.startswith("What ORPO and DPO could reach on ")
