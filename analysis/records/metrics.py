"""The scores of a run: what each means, and its value for every example."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from analysis.rows import Metric

GENERATED = (
    "response_tokens",
    "ended",
    "rouge1",
    "rouge2",
    "rougeL",
    "exact_match",
    "distinct_2",
)
"""Scores of generated answers; null for pairs that none was generated for. One for
each distinct prompt; in older records for each pair, and without ``distinct_2``."""


LARGEST_LOGP = -1e-7
"""Mean log-probabilities are clamped here, where the odds are still finite."""


def _metrics(*rows: tuple[str, str, str, bool | None, int, str]) -> Mapping[str, Metric]:
    return MappingProxyType(
        {
            name: Metric(
                name=name,
                label=label,
                unit=unit,
                higher_is_better=higher,
                digits=digits,
                meaning=meaning,
            )
            for name, label, unit, higher, digits, meaning in rows
        }
    )


METRICS = _metrics(
    (
        "accuracy", "preference accuracy", "", True, 3,
        "Share of pairs whose chosen answer has the higher mean log-probability; ties count half.",
    ),
    (
        "margin", "margin", "nats/token", True, 3,
        ("Mean log-probability per token of the chosen answer minus that of the rejected one, "
        "free of β."),
    ),
    (
        "log_odds", "log odds ratio", "", True, 3,
        "Log of the odds of the chosen answer over the odds of the rejected one.",
    ),
    (
        "nll", "NLL of chosen answers", "nats/token", False, 3,
        "Negative log-likelihood of all chosen answers divided by the number of their tokens.",
    ),
    (
        "chosen_logps", "log-probability of chosen answers", "nats/token", True, 3,
        "Mean over pairs of the chosen answer's log-probability per token.",
    ),
    (
        "rejected_logps", "log-probability of rejected answers", "nats/token", None, 3,
        "Mean over pairs of the rejected answer's log-probability per token.",
    ),
    (
        "exact_match", "exact match", "", True, 3,
        "Share of generated answers that state the known right answer.",
    ),
    (
        "rouge1", "ROUGE-1", "", True, 3,
        "F score of the words that the generated answer shares with the chosen one.",
    ),
    (
        "rouge2", "ROUGE-2", "", True, 3,
        "F score of the word pairs that the generated answer shares with the chosen one.",
    ),
    (
        "rougeL", "ROUGE-L", "", True, 3,
        "F score of the longest common subsequence of generated and chosen answer.",
    ),
    (
        "response_tokens", "length of answers", "tokens", None, 1,
        "Tokens of the generated answer, its end-of-turn token included.",
    ),
    (
        "ended", "answers that end by themselves", "", True, 3,
        "Share of generated answers that end within the limit of new tokens.",
    ),
    (
        "distinct_2", "distinct word pairs", "", None, 3,
        ("Share of distinct ones among an answer's pairs of neighbouring words, its reasoning "
        "included; near 0 where it goes round in circles."),
    ),
)  # fmt: skip
"""Every score that is reported, in the order of the tables."""

SHARES = frozenset({"accuracy", "exact_match", "ended"})
"""Scores that are 0 or 1 for an example; a tie counts half."""


def example_scores(examples: pd.DataFrame) -> pd.DataFrame:
    """Derive every score for each held-out pair of one run.

    The column of a score averages to the run's corpus value. For ``nll`` the
    value is the token-weighted influence: the pair's summed negative
    log-likelihood over the mean number of tokens, since the corpus value is a
    ratio of sums. Scores of generated answers are NaN where none was generated.

    Args:
        examples: rows of ``examples.parquet`` of one run.
    """
    chosen = examples["chosen_logp_sum"] / examples["chosen_tokens"]
    rejected = examples["rejected_logp_sum"] / examples["rejected_tokens"]
    margin = chosen - rejected
    derived = {
        "accuracy": 1.0 * (margin > 0) + 0.5 * (margin == 0),
        "margin": margin,
        "log_odds": log_odds(chosen) - log_odds(rejected),
        "nll": -examples["chosen_logp_sum"] / examples["chosen_tokens"].mean(),
        "chosen_logps": chosen,
        "rejected_logps": rejected,
    }
    generated = {name: examples[name].astype(float) for name in GENERATED if name in examples}
    return pd.DataFrame(derived | generated)


def log_odds(logps: pd.Series) -> pd.Series:
    """Return log(P / (1 - P)) of mean log-probabilities, clamped below zero."""
    clamped = logps.clip(upper=LARGEST_LOGP)
    return clamped - np.log(-np.expm1(clamped))
