"""Win rates as they would be at equal length: a logistic model of wins in the lengths' difference.

Shapes: ``(S, N)`` holds the verdicts of a judge on the answers of S runs to N prompts.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from analysis.statistics.components import Array

PRIOR_SD: Final = (10.0, 2.5)
"""Standard deviations of normal priors of intercept and slope, on the logit scale. They keep
both finite where every answer loses, or where length tells wins from losses without fail."""

MOST_STEPS: Final = 100


@dataclass(frozen=True, kw_only=True)
class LengthModel:
    """One run's logistic model: logit P(win) = intercept + slope tanh(difference / sd)."""

    intercept: float
    slope: float
    influences: Array
    """``(N,)`` what every prompt adds to the win rate at equal length; their mean is 0."""

    @property
    def win_rate(self) -> float:
        """Share of wins that the model predicts at equal length."""
        return float(_logistic(np.float64(self.intercept)))


def length_controlled_wins(wins: Any, lengths: Any) -> Array:
    """Return verdicts as they would be if both answers had the same length.

    Per run, wins are regressed on tanh(d / sd(d)) of the difference d in length by
    logistic regression; the win rate at equal length is the logistic of the
    intercept. A row of the result is that rate plus every prompt's influence on it, so
    that its mean is the rate and its spread over prompts is the rate's. The result
    goes where scores go, into ``compare_clustered``; a null hypothesis is that
    function's. Smallest n: three prompts.

    Source: Dubois, Galambosi, Liang and Hashimoto (2024), arXiv:2404.04475, whose
    model this is. Deviation: no term for how hard a prompt is, which there comes from
    other models' verdicts, and normal priors in the place of cross-validated
    penalties. Hampel (1974) for the influence.

    Args:
        wins: ``(S, N)`` from 0 (lost) to 1 (won).
        lengths: ``(S, N)`` length minus that of the reference answer.

    Raises:
        ValueError: shapes differ, there are fewer than three prompts, or a verdict is
            not from 0 to 1.
    """
    y, d = np.asarray(wins, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    if y.shape != d.shape or y.ndim != 2 or y.shape[1] < 3:
        raise ValueError(
            f"wins and lengths must be (runs, 3 prompts or more) alike, not {y.shape} and {d.shape}"
        )
    if not ((y >= 0) & (y <= 1)).all() or not np.isfinite(d).all():
        raise ValueError("wins must be from 0 to 1, and lengths finite")
    models = [fit_length_model(*rows) for rows in zip(y, d, strict=True)]
    return np.array([model.win_rate + model.influences for model in models])


def fit_length_model(wins: Array, differences: Array) -> LengthModel:
    """Fit one run's model by Newton's method.

    Args:
        wins: ``(N,)`` from 0 to 1.
        differences: ``(N,)`` in length.
    """
    n, sd = len(wins), float(differences.std(ddof=1))
    x = np.column_stack([np.ones(n), np.tanh(differences / sd) if sd else np.zeros(n)])
    penalty = np.diag(1 / np.array(PRIOR_SD) ** 2)
    beta = np.zeros(2)
    for _ in range(MOST_STEPS):
        p = _logistic(x @ beta)
        gradient = x.T @ (wins - p) - penalty @ beta
        curvature = (x.T * (p * (1 - p))) @ x + penalty
        step = np.linalg.solve(curvature, gradient)
        beta += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-10:
            break
    p = _logistic(x @ beta)
    curvature = (x.T * (p * (1 - p))) @ x + penalty
    shares = x * (wins - p)[:, None] - penalty @ beta / n
    rate = float(_logistic(beta[0]))
    influences = n * rate * (1 - rate) * np.linalg.solve(curvature, shares.T)[0]
    return LengthModel(
        intercept=float(beta[0]), slope=float(beta[1]), influences=np.asarray(influences)
    )


def _logistic(x: Any) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))
