"""The calibrated ranking loss: what margins are worth as a forecast."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BISECTIONS = 80
"""Of a bracket that spans a factor of two: more than a double can tell apart."""


def calibrated_ranking_loss(margins: Sequence[float] | npt.NDArray[np.floating]) -> float:
    """Return the log loss of margins as forecasts, with one scale fitted to them.

    min over a >= 0 of mean log(1 + exp(-a margin)), where a margin is the score of
    the chosen answer minus that of the rejected one. It lies between 0 and log 2,
    is the same for margins in any unit, has no hyperparameter, and rewards no
    margin for being large. Convex in a, so the minimum is where the slope is zero,
    to 1e-10; it changes smoothly with the margins wherever the best a is finite.

    Two cases have no such a. Where the margins are zero or below on average,
    a = 0 is best: log 2, as good as a coin. Where no pair is ranked wrongly, the
    loss falls for ever as a grows: its limit, log 2 times the share of ties, so 0
    where every pair is ranked rightly.

    Source: Platt (1999), with the slope alone; Guo et al. (2017), temperature.

    Raises:
        ValueError: there are no margins, or some are not finite.
    """
    x = np.asarray(margins, dtype=np.float64).ravel()
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError("margins must be finite numbers, at least one")
    if x.min() >= 0:
        return float(np.log(2) * (x == 0).mean())
    x = x / float(np.abs(x).max())
    if x.mean() <= 0:
        return float(np.log(2))
    low, high = 0.0, 1.0
    while _slope(x, high) < 0:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(x, middle) < 0 else (low, middle)
    return float(np.logaddexp(0.0, -high * x).mean())


def _slope(x: npt.NDArray[np.float64], a: float) -> float:
    """Return the derivative of the loss in a, which rises with a."""
    return -float((x * np.exp(-np.logaddexp(0.0, a * x))).mean())
