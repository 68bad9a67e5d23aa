"""The printed form of numbers, settings and names."""

import math

import pytest

from analysis import printing


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(0.12345, 3, "0.123"), (-1.5, 1, "−1.5"), (-0.0004, 3, "0.000"), (None, 2, "–"),
     (math.nan, 2, "–"), (math.inf, 2, "–"), (12.0, 0, "12")],
)  # fmt: skip
def test_number(value: float | None, digits: int, expected: str) -> None:
    assert printing.number(value, digits) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.06, "+0.060"), (-0.06, "−0.060"), (0.0004, "0.000"), (-0.0004, "0.000"), (None, "–")],
)
def test_signed_never_gives_a_sign_to_zero(value: float | None, expected: str) -> None:
    assert printing.signed(value, 3) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.00004, "p < 0.001"), (0.001, "p = 0.001"), (0.0123, "p = 0.012"), (0.412, "p = 0.412"),
     (0.9996, "p > 0.999"), (1.0, "p > 0.999"), (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_p_value(value: float | None, expected: str) -> None:
    assert printing.p_value(value) == expected.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.003, "3e-3"), (0.0031622776601683794, "3.16e-3"), (8e-6, "8e-6"), (0.01, "0.01"),
     (0.1, "0.1"), (0.5123, "0.512"), (2.0, "2"), (0.0, "0"), (1e-4, "1e-4"), (160.0, "160"),
     (4000.0, "4000"), (None, "–")],
)  # fmt: skip
def test_setting(value: float | None, expected: str) -> None:
    assert printing.setting(value) == expected


def test_settings_are_named_in_words() -> None:
    assert printing.settings({"learning_rate": 0.003, "beta": 0.1}) == "learning rate 3e-3, β 0.1"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.22, "[0.10, 0.22]"), (-0.1, 0.0, "[−0.10, 0.00]"), (None, 0.1, "–")],
)
def test_interval(low: float | None, high: float | None, expected: str) -> None:
    assert printing.interval(low, high, 2) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(8.24, "8.2 s"), (250.0, "4 min 10 s"), (59.99, "1 min 0 s"), (7500.0, "2 h 5 min"),
     (None, "–")],
)  # fmt: skip
def test_duration(seconds: float | None, expected: str) -> None:
    assert printing.duration(seconds) == expected


def test_other_numbers() -> None:
    assert printing.mean_sd(-0.5, 0.012, 2) == "−0.50 ± 0.01"
    assert printing.mean_sd(0.5, None, 2) == "0.50"
    assert printing.count(1234567.0) == "1,234,567"
    assert printing.memory(612.5 * 2**20) == "612 MiB"
    assert printing.memory(1.5 * 2**30) == "1.5 GiB"
    assert printing.raw_values({2: 0.5, 1: -0.123456789}) == "1: −0.123457 · 2: 0.5"


def test_a_configuration_is_flattened_as_toml_writes_it() -> None:
    section = {"model": {"name": "toy", "trust_remote_code": False}, "layers": ["q", "k"]}

    assert printing.flat(section) == [
        ("model.name", '"toy"'), ("model.trust_remote_code", "false"), ("layers", '["q", "k"]'),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(9.0, "s", "9.0 s"), (2**31, "bytes", "2.0 GiB"), (3.14159, "pairs/s", "3.14 pairs/s"),
     (0.0123, "pairs/s", "0.0123 pairs/s"), (1234.5, "prompts/s", "1,234 prompts/s")],
)  # fmt: skip
def test_quantities(value: float, unit: str, expected: str) -> None:
    assert printing.quantity(value, unit).replace("\N{NO-BREAK SPACE}", " ") == expected


def test_ratios() -> None:
    assert printing.times(3.2345) == "3.23×"
    assert printing.times(21.57) == "21.6×"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.77, 0.83, "77.0 % to 83.0 %"), (0.935, None, "at least 93.5 %"),
     (None, 0.065, "at most 6.5 %"), (None, None, "–")],
)  # fmt: skip
def test_bands(low: float | None, high: float | None, expected: str) -> None:
    assert printing.band(low, high).replace("\N{NO-BREAK SPACE}", " ") == expected


@pytest.mark.parametrize(
    ("n", "expected"),
    [(580_000, "0.58M"), (5_460_000, "5.5M"), (12_300_000, "12M"), (134_515_008, "135M"),
     (999_700_000, "1.0B"), (1_235_814_400, "1.2B"), (8_030_261_248, "8.0B")],
)  # fmt: skip
def test_parameters(n: int, expected: str) -> None:
    assert printing.parameters(n) == expected
