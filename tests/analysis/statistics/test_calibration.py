"""The simulated promises: a short run of all checks, and the committed table."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.statistics import calibration, compare_arms, simulate
from analysis.statistics.components import components


def test_a_short_run_stays_near_the_promises():
    rows = list(calibration.calibrate_tests(n_studies=300))
    controls = [row for row in rows if row.test == "rows as replicates"]

    assert (
        max(row.value for row in rows if row.quantity == "type I error" and row not in controls)
        <= 0.09
    )
    assert min(row.value for row in rows if row.quantity == "coverage") >= 0.91
    assert all(0.72 <= row.value <= 0.99 for row in rows if row.quantity == "power")
    assert controls[0].value > 0.40


@pytest.mark.parametrize("paired", [False, True])
def test_many_studies_at_once_are_compared_as_one_at_a_time(paired):
    rng = np.random.default_rng(1)
    a, b = calibration.simulate(calibration.REGIMES[1], 5, rng=rng)
    found = components(a, b, paired=paired)
    for place, reach in enumerate(calibration.half_widths(found)):
        one = compare_arms(a[place], b[place], paired=paired, scope="population")

        assert found.estimate[place] == pytest.approx(one.estimate)
        assert one.estimate - reach == pytest.approx(one.interval()[0], rel=1e-9)


def test_simulated_scores_have_the_variances_that_were_asked_for():
    regime = dataclasses.replace(calibration.REGIMES[1], correlation=0.6, n_examples=400)
    a, b = calibration.simulate(regime, 400, rng=np.random.default_rng(2), effect=1.0)
    difference = (b - a).mean(axis=(1, 2))
    wanted = 2 * (0.02**2 * 0.4 / 3 + 0.04**2 / 400 + 0.08**2 / 1200)

    assert difference.mean() == pytest.approx(1.0, abs=0.005)
    assert difference.var() == pytest.approx(wanted, rel=0.2)


def test_the_committed_table_is_complete_and_within_its_bands():
    rows = calibration.read_results()

    assert {row.n_studies for row in rows} == {calibration.STUDIES}
    assert all(row.passed for row in rows)
    assert {row.regime for row in rows} >= {
        *(regime.name for regime in calibration.REGIMES),
        *(name for name, _, _ in simulate.KINDS),
    }


def test_the_committed_table_comes_from_this_code():
    regime = calibration.REGIMES[0]
    rng = np.random.default_rng([calibration.SEED, 1, 0])
    fresh = list(calibration._null_rows(regime, calibration.STUDIES, rng))
    committed = [row for row in calibration.read_results() if row.regime == regime.name]

    assert [dataclasses.astuple(row) for row in fresh] == [
        dataclasses.astuple(row) for row in committed
    ]


def test_a_check_outside_its_band_fails_the_command(tmp_path, monkeypatch):
    row = calibration._row("a regime", "a test", "type I error", 0.2, 10, high=0.065)
    monkeypatch.setattr(calibration, "calibrate", lambda **_: iter([row]))
    done = CliRunner().invoke(calibration.main, ["--out", str(tmp_path / "table.json")])

    assert done.exit_code == 1
    assert "OUTSIDE" in done.output
    assert calibration.read_results(tmp_path / "table.json") == (row,)
