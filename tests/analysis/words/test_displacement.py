"""The flag where chosen answers become less likely while the margin grows."""

import re

import pytest

from analysis.findings import build_findings
from analysis.judged_rows import DisplacementRow
from analysis.records.load import load_study
from analysis.words.displacement import displacement
from study.records.runs import run_folder


def flags(runs, builders, *, seeds, shift):
    """Return what is said where ORPO's answers are shifted from those of the base, in nats."""
    import numpy as np

    recipe = builders["recipe"]("tiny-llama")
    builders["study"](runs, recipes=("tiny-llama",), seeds=seeds)
    for seed in seeds:
        frame = builders["examples"](np.random.default_rng(seed), "base")
        for side, nats in zip(("chosen", "rejected"), shift, strict=True):
            frame[f"{side}_logp_sum"] += nats * frame[f"{side}_tokens"]
        builders["remove"](run_folder(runs, "tiny-llama", "orpo", seed).path)
        builders["run"](runs, recipe, "orpo", seed, examples=frame)
    return build_findings(load_study(runs), origin="local").displacement


@pytest.mark.parametrize(
    ("shift", "flagged"),
    [((-0.5, -2.0), True), ((0.5, -2.0), False), ((-0.5, -0.2), False), ((-0.01, -2.0), False)],
    ids=["displaced", "more likely", "smaller margin", "too little to be shown"],
)
def test_an_arm_is_flagged_where_both_effects_are_shown(tmp_path, builders, shift, flagged) -> None:
    found = flags(tmp_path, builders, seeds=(1, 2, 3), shift=shift)

    assert bool(found) == flagged
    for sentence in found:
        assert re.match(
            r"Flag, tiny-llama: ORPO makes chosen answers less likely than the base model does, "
            r"by −0\.\d+ nats/token \(95 % interval −0\.\d+ to −0\.\d+\), while its margin grows, "
            r"by \+1\.\d+ nats/token ",
            sentence,
        )


def test_one_run_is_flagged_by_its_estimates_and_says_so(tmp_path, builders) -> None:
    (found,) = flags(tmp_path, builders, seeds=(1,), shift=(-0.5, -2.0))

    assert found.count("in one run, which is not tested") == 2


def test_many_flags_are_listed_model_by_model() -> None:
    rows = [
        DisplacementRow(
            recipe=recipe,
            arm=arm,
            start="sft",
            chosen=(-0.5, -0.6, -0.4),
            margin=(0.5, 0.4, 0.6),
            flagged=arm != "cpo",
        )
        for recipe in ("one", "two")
        for arm in ("dpo", "simpo", "cpo")
    ]
    first, second = displacement(rows)

    assert first.startswith("Flag, one: ")
    assert "in DPO (−0.500 nats/token), SimPO (−0.500 nats/token);" in second
    assert "CPO" not in first + second
