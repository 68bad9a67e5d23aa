"""Oracles: Holm through statsmodels, and intersections counted by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analysis.statistics.closed import behind_gate, closed, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@settings(max_examples=20)  # statsmodels takes 0.1 s per call
@given(p_values=P_VALUES)
def test_holm_agrees_with_statsmodels(p_values):
    theirs = multipletests(p_values, method="holm")[1]

    assert holm(p_values) == pytest.approx(tuple(theirs), abs=1e-12)


@given(p_values=P_VALUES)
def test_closed_bonferroni_is_holm(p_values):
    names = [str(place) for place in range(len(p_values))]
    found = closed(
        names, lambda subset: min(1.0, len(subset) * min(p_values[int(name)] for name in subset))
    )

    assert list(found.values()) == pytest.approx(holm(p_values), abs=1e-12)


@pytest.mark.parametrize(
    ("gate", "singles", "adjusted"),
    [
        (0.01, {"a": 0.04, "b": 0.30}, {"a": 0.04, "b": 0.30}),
        (0.06, {"a": 0.01, "b": 0.30}, {"a": 0.06, "b": 0.30}),
        (0.01, {"a": 0.03, "b": None}, {"a": 0.03, "b": 1.0}),
        (0.01, {"a": 0.03}, {"a": 0.03}),
        (0.01, {"a": 0.02, "b": 0.03, "c": 0.9}, {"a": 0.04, "b": 0.06, "c": 0.9}),
    ],
)
def test_models_behind_a_gate_agree_with_intersections_counted_by_hand(gate, singles, adjusted):
    assert behind_gate(gate, singles) == pytest.approx(adjusted)


@given(gate=st.floats(0, 1), p_values=P_VALUES)
def test_no_model_is_rejected_where_the_gate_is_not(gate, p_values):
    singles = {str(place): p for place, p in enumerate(p_values)}
    found = behind_gate(gate, singles)

    assert all(found[name] >= max(p, gate) for name, p in singles.items())
