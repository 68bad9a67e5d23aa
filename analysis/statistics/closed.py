"""Closed testing: a gate over all models, then the models one by one.

A single hypothesis is rejected where every intersection that contains it is
(Marcus, Peritz and Gabriel 1976). That keeps the familywise error at the level
in the strong sense: whichever of the hypotheses are true.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

Test = Callable[[tuple[str, ...]], float]
"""The p of an intersection: all of the named hypotheses are true."""


def closed(names: Sequence[str], test: Test) -> dict[str, float]:
    """Adjust the p-values of single hypotheses by the closed procedure.

    Null hypotheses and sides: those of ``test``, which must hold its level for
    every intersection. With Bonferroni's test it is Holm. Smallest n: one
    hypothesis, which keeps its p. All 2^K - 1 intersections are tried.

    Args:
        names: the K hypotheses.
        test: p-value of an intersection, names in the order given.

    Returns:
        Name -> the largest p of the intersections that contain it.
    """
    adjusted = dict.fromkeys(names, 0.0)
    for size in range(1, len(names) + 1):
        for subset in combinations(names, size):
            p = test(subset)
            for name in subset:
                adjusted[name] = max(adjusted[name], p)
    return adjusted


def behind_gate(gate: float, singles: Mapping[str, float | None]) -> dict[str, float]:
    """Adjust the p-values of single models behind a gate over all of them.

    The gate's null hypothesis, two-sided: the difference averaged over the models
    is zero; it is true where all single ones are, so the gate tests their
    intersection. With two models each is tested at the full level behind it
    (familywise error at most 4.5 %, where Holm behind a gate corrects twice).
    With more, intersections of some of them are tested by Bonferroni. A test
    that could not run stays in the family with p = 1. Smallest n: one model,
    whose gate is its own test.

    Args:
        gate: the p of the contrast averaged over the models.
        singles: model -> the p of its own contrast, or None.
    """
    known = {name: 1.0 if p is None else p for name, p in singles.items()}

    def test(subset: tuple[str, ...]) -> float:
        if len(subset) == len(known):
            return max(gate, known[subset[0]]) if len(known) == 1 else gate
        return min(1.0, len(subset) * min(known[name] for name in subset))

    return closed(tuple(known), test)


def holm(p_values: Sequence[float | None]) -> tuple[float, ...]:
    """Adjust the p-values of one family by Holm (1979).

    Keeps the chance of any false rejection in the family below the level,
    whatever the dependence. A test that could not run stays in the family with
    p = 1. Smallest n: one p-value, which stays as it is.
    """
    if not p_values:
        return ()
    known = [1.0 if p is None else p for p in p_values]
    if not np.isfinite(known).all():
        raise ValueError(f"p-values must be finite, not {known}")
    order = np.argsort(known, kind="stable")
    steps = np.arange(len(known), 0, -1) * np.asarray(known)[order]
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return tuple(adjusted.tolist())
