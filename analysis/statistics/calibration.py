"""Simulate studies and measure whether the tests keep their promises.

``python -m analysis.statistics.calibration`` prints error rates, coverage and power beside
their bands, writes them as JSON and fails outside them. The generator is fixed,
so that a run gives the same numbers everywhere.

Model: score = prompt + prompt x arm + run + answer, each of them normal.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from analysis.rows import CalibrationRow
from analysis.statistics.closed import holm
from analysis.statistics.components import Array, Components, components, critical_value, welch_df
from analysis.statistics.contrast import compare_arms, compare_pooled
from analysis.statistics.power import planned_detectable_effect
from analysis.statistics.simulate import calibrate_verdicts

Flags = npt.NDArray[np.bool_]


RESULTS: Final = Path(__file__).with_suffix(".json")
"""The committed table, which the report's appendix shows."""


SEED: Final = 20_261_121


STUDIES: Final = 2000


CHUNK: Final = 250
"""Studies in memory at once."""


PROMPT_MAIN_SD, RESIDUAL_SD = 0.15, 0.08


MOST_REJECTED, LEAST_COVERED = 0.065, 0.935


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How many runs and prompts studies have, and where their noise comes from."""

    name: str
    seed_sd: float
    prompt_sd: float
    """Of what a prompt adds to one arm alone."""
    correlation: float = 0.0
    """Between runs of both arms that share a seed."""
    n_seeds: int = 3
    n_examples: int = 200


REGIMES: Final = (
    Regime(name="seeds dominate", seed_sd=0.02, prompt_sd=0.0),
    Regime(name="seeds and prompts", seed_sd=0.02, prompt_sd=0.04),
    Regime(name="balanced", seed_sd=0.005, prompt_sd=0.04),
    Regime(name="prompts dominate", seed_sd=0.0, prompt_sd=0.04),
    Regime(name="answers alone", seed_sd=0.0, prompt_sd=0.0),
    Regime(name="correlated seeds dominate", seed_sd=0.02, prompt_sd=0.0, correlation=0.6),
)


DESIGNS: Final = (
    Regime(name="3 seeds, 200 prompts", seed_sd=0.005, prompt_sd=0.04),
    Regime(name="3 seeds, 500 prompts", seed_sd=0.01, prompt_sd=0.04, n_examples=500),
    Regime(name="5 seeds, 500 prompts", seed_sd=0.01, prompt_sd=0.04, n_seeds=5, n_examples=500),
    Regime(
        name="10 seeds, 1000 prompts", seed_sd=0.01, prompt_sd=0.04, n_seeds=10, n_examples=1000
    ),
)


MODELS: Final = Regime(name="several models", seed_sd=0.01, prompt_sd=0.04)


@click.command()
@click.option("--studies", default=STUDIES, show_default=True, help="Studies per regime.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RESULTS,
    help="File that the table is written to.  [default: the one that the report shows]",
)
def main(studies: int, out: Path) -> None:
    """Measure type-I error, coverage and power; fail outside the bands."""
    rows = []
    for row in calibrate(n_studies=studies):
        click.echo(_line(row))
        rows.append(row)
    out.write_text(to_json(rows), encoding="utf-8")
    failed = [row for row in rows if not row.passed]
    click.echo(f"{len(rows) - len(failed)} of {len(rows)} checks are within their bands: {out}")
    sys.exit(bool(failed))


def calibrate(*, n_studies: int, seed: int = SEED) -> Iterator[CalibrationRow]:
    """Simulate every regime with a generator of its own and judge what comes out."""
    yield from calibrate_tests(n_studies=n_studies, seed=seed)
    yield from calibrate_verdicts(n_studies=n_studies, seed=seed)


def calibrate_tests(*, n_studies: int, seed: int = SEED) -> Iterator[CalibrationRow]:
    """Simulate what the comparison of two arms promises; see ``calibrate``."""
    for place, regime in enumerate(REGIMES):
        yield from _null_rows(regime, n_studies, np.random.default_rng([seed, 1, place]))
    for place, regime in enumerate(DESIGNS):
        yield from _power_rows(regime, n_studies, np.random.default_rng([seed, 2, place]))
    yield from _model_rows(n_studies, np.random.default_rng([seed, 3]))


def simulate(
    regime: Regime, n_studies: int, *, rng: np.random.Generator, effect: float = 0.0
) -> tuple[Array, Array]:
    """Draw studies: scores of baseline and treatment, ``(studies, S, N)`` each."""
    runs, prompts = (n_studies, regime.n_seeds, 1), (n_studies, 1, regime.n_examples)
    difficulty = rng.normal(0, PROMPT_MAIN_SD, prompts)
    common = np.sqrt(regime.correlation) * rng.normal(size=runs)

    def arm(mean: float) -> Array:
        own = np.sqrt(1 - regime.correlation) * rng.normal(size=runs)
        answers = rng.normal(0, RESIDUAL_SD, (n_studies, regime.n_seeds, regime.n_examples))
        favour = rng.normal(0, regime.prompt_sd, prompts)
        return np.asarray(mean + difficulty + favour + regime.seed_sd * (common + own) + answers)

    return arm(0.0), arm(effect)


def half_widths(found: Components) -> Array:
    """Return half the 95 % intervals' width of many studies, as ``compare_arms`` does."""
    v_seed, df_seed = found.seed.sum(axis=-1), welch_df(found.seed, found.seed_dfs)
    df_prompt = found.differences.shape[-1] - 1
    critical = critical_value(0.025, v_seed, df_seed, found.prompt, df_prompt)
    return np.asarray(critical * np.sqrt(v_seed + found.prompt))


def to_json(rows: list[CalibrationRow]) -> str:
    """Write the table as JSON."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1, allow_nan=False) + "\n"


def read_results(path: Path = RESULTS) -> tuple[CalibrationRow, ...]:
    """Read the table of the last complete calibration."""
    return tuple(CalibrationRow(**row) for row in json.loads(path.read_text(encoding="utf-8")))


def _null_rows(
    regime: Regime, n_studies: int, rng: np.random.Generator
) -> Iterator[CalibrationRow]:
    """Measure type-I error of both tests, coverage at another effect, and the control."""
    rejected: dict[str, list[Flags]] = {"unpaired": [], "paired": [], "rows": []}
    covered: dict[str, list[Flags]] = {"unpaired": [], "paired": []}
    for n in _chunks(n_studies):
        null = simulate(regime, n, rng=rng)
        shifted = simulate(regime, n, rng=rng, effect=0.03)
        for name in ("unpaired", "paired"):
            found = components(*null, paired=name == "paired")
            rejected[name].append(np.abs(found.estimate) > half_widths(found))
            found = components(*shifted, paired=name == "paired")
            covered[name].append(np.abs(found.estimate - 0.03) <= half_widths(found))
        rejected["rows"].append(_row_p_values(*null) < 0.05)
    for name in ("unpaired", "paired"):
        value = _share(rejected[name])
        yield _row(regime.name, name, "type I error", value, n_studies, high=MOST_REJECTED)
        value = _share(covered[name])
        yield _row(regime.name, name, "coverage", value, n_studies, low=LEAST_COVERED)
    control = regime is REGIMES[0]
    yield _row(
        regime.name,
        "rows as replicates",
        "type I error",
        _share(rejected["rows"]),
        n_studies,
        low=0.40 if control else None,
    )


def _power_rows(
    regime: Regime, n_studies: int, rng: np.random.Generator
) -> Iterator[CalibrationRow]:
    """Measure power at the effect that is said to be detectable."""
    for name in ("unpaired", "paired"):
        effect = planned_detectable_effect(
            seed_sd=regime.seed_sd,
            prompt_sd=regime.prompt_sd,
            residual_sd=RESIDUAL_SD,
            n_seeds=regime.n_seeds,
            n_examples=regime.n_examples,
            paired=name == "paired",
        )
        found = [
            components(*simulate(regime, n, rng=rng, effect=effect), paired=name == "paired")
            for n in _chunks(n_studies)
        ]
        value = _share([np.abs(part.estimate) > half_widths(part) for part in found])
        where = f"{regime.name}, effect {effect:.4f}"
        yield _row(where, name, "power", value, n_studies, low=0.77, high=0.83)


def _model_rows(n_studies: int, rng: np.random.Generator) -> Iterator[CalibrationRow]:
    """Measure pooling, Holm, equivalence and clusters with the public functions."""
    se = np.sqrt(2 * (0.01**2 / 3 + 0.04**2 / 200 + RESIDUAL_SD**2 / 600))

    def rate(study: Callable[[], bool]) -> float:
        return float(np.mean([study() for _ in range(n_studies)]))

    def pooled(effect: float) -> bool:
        first, second = (_study(MODELS, rng, effect) for _ in range(2))
        contrast = compare_pooled(
            (first[0], second[0]), (first[1], second[1]), paired=False, scope="population"
        )
        return contrast.p_value <= 0.05

    def family() -> bool:
        studies = [_study(MODELS, rng) for _ in range(3)]
        p_values = [
            compare_arms(a, b, paired=False, scope="population").p_value for a, b in studies
        ]
        return min(holm(p_values)) <= 0.05

    def called_equal() -> bool:
        a, b = _study(MODELS, rng, 3 * se)
        return compare_arms(a, b, paired=False, scope="population").tost_p(3 * se) <= 0.05

    def clustered() -> bool:
        a, b = _clustered_study(rng)
        labels = [str(i // 5) for i in range(200)]
        contrast = compare_arms(a, b, paired=False, scope="population", clusters=labels)
        return contrast.p_value <= 0.05

    size, t = "type I error", "unpaired"
    yield _row("two models", f"{t}, pooled", size, rate(lambda: pooled(0)), n_studies, high=0.05)
    value = rate(lambda: pooled(2.8 * se))
    yield _row("two models, effect 2.8 SE", f"{t}, pooled", "power", value, n_studies, low=0.85)
    yield _row("three models", f"{t}, Holm", size, rate(family), n_studies, high=MOST_REJECTED)
    yield _row(
        "effect at the margin", f"{t}, equivalence", size, rate(called_equal), n_studies,
        high=MOST_REJECTED,
    )  # fmt: skip
    yield _row(
        "40 clusters of 5 prompts", f"{t}, clusters", size, rate(clustered), n_studies,
        high=MOST_REJECTED,
    )  # fmt: skip


def _study(regime: Regime, rng: np.random.Generator, effect: float = 0.0) -> tuple[Array, Array]:
    a, b = simulate(regime, 1, rng=rng, effect=effect)
    return a[0], b[0]


def _clustered_study(rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw a study whose prompts favour an arm by cluster, with an ICC of one half."""
    a, b = _study(REGIMES[3], rng)
    return a, b + np.repeat(rng.normal(0, 0.04 * np.sqrt(2), 40), 5)


def _row_p_values(a: Array, b: Array) -> Array:
    """Return the paired t's p with every row as a replicate: the mistake to be seen."""
    rows = (b - a).reshape(len(a), -1)
    return np.asarray(scipy_stats.ttest_1samp(rows, 0.0, axis=1).pvalue)


def _chunks(n: int) -> list[int]:
    return [min(CHUNK, n - start) for start in range(0, n, CHUNK)]


def _share(parts: list[Flags]) -> float:
    return float(np.concatenate(parts).mean())


def _row(
    regime: str,
    test: str,
    quantity: str,
    value: float,
    n_studies: int,
    *,
    low: float | None = None,
    high: float | None = None,
) -> CalibrationRow:
    return CalibrationRow(
        regime=regime,
        test=test,
        quantity=quantity,
        value=value,
        low=low,
        high=high,
        n_studies=n_studies,
        passed=(low is None or value >= low) and (high is None or value <= high),
    )


def _line(row: CalibrationRow) -> str:
    bounds = [f"at least {row.low:.1%}"] if row.low is not None else []
    bounds += [f"at most {row.high:.1%}"] if row.high is not None else []
    state = ("ok" if row.passed else "OUTSIDE") if bounds else "shown"
    return (
        f"{row.regime:38} {row.test:22} {row.quantity:13} {row.value:6.1%}  {state:8}"
        f"{', '.join(bounds)}"
    ).rstrip()


if __name__ == "__main__":
    main()
