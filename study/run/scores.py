"""Scores of held-out pairs, one by one, and their means."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from study.engine.encoded import Encoded
from study.engine.forward import pair_logps
from study.engine.packing import pack, pin, to_device
from study.losses import log_odds
from study.model.workbench import Workbench
from study.run.ahead import Ahead, computes_aside
from study.run.ranking import calibrated_ranking_loss


def initial_validation(workbench: Workbench) -> dict[str, float]:
    """Score the untrained base on the validation split, once per workbench.

    A fresh adapter changes nothing, so this holds for the start of every run.
    """
    if not workbench.untrained:
        workbench.untrained.update(score_validation(workbench))
    return dict(workbench.untrained)


def score_validation(workbench: Workbench) -> dict[str, float]:
    """Score the validation split with the current adapter."""
    return preference_scores(score_pairs(workbench, workbench.validation))


def score_pairs(workbench: Workbench, pairs: Sequence[Encoded]) -> dict[str, list[Any]]:
    """Return log-probability sums of both answers, and all token counts, by column.

    Rows stand in the order of ``pairs``; what they are batched with does not
    change them beyond rounding.
    """
    model = workbench.base.model.eval()
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].n_tokens, reverse=True)
    parts = list(chunks(order, workbench.recipe.evaluation.batch_pairs))

    def lay_out(indices: Sequence[int]) -> dict[str, Any]:
        batch = pack([pairs[i] for i in indices], rejected=True, prompt_nll=False)
        return pin(batch, device=workbench.device.type)

    ahead = Ahead(lay_out, meanwhile=computes_aside(workbench.device))
    sums = []
    with workbench.base.without_gradients(), workbench.base.precision():
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            batch = to_device(ahead.take(part, following=following), workbench.device)
            logps = pair_logps(model, batch)
            assert logps.rejected_sum is not None
            sums.append(torch.stack([logps.chosen_sum, logps.rejected_sum], dim=1))
    rows = dict(zip(order, torch.cat(sums).tolist(), strict=True))
    return {
        "example_id": [pair.example_id for pair in pairs],
        "cluster_id": [pair.cluster_id for pair in pairs],
        "source": [pair.source for pair in pairs],
        "prompt_tokens": [pair.n_prompt for pair in pairs],
        "chosen_logp_sum": [rows[i][0] for i in range(len(pairs))],
        "chosen_tokens": [pair.n_chosen for pair in pairs],
        "rejected_logp_sum": [rows[i][1] for i in range(len(pairs))],
        "rejected_tokens": [pair.n_rejected for pair in pairs],
    }


def preference_scores(columns: dict[str, list[Any]]) -> dict[str, float]:
    """Return corpus means of what `score_pairs` measured.

    ``nll`` is the corpus value of the chosen answers, nats over tokens;
    ``ranking`` is the calibrated ranking loss of the margins, its scale fitted to
    these pairs; the others are means over pairs of per-token means.
    """
    chosen_sum, chosen_tokens, rejected_sum, rejected_tokens = (
        torch.tensor(columns[f"{side}_{kind}"], dtype=torch.float64)
        for side in ("chosen", "rejected")
        for kind in ("logp_sum", "tokens")
    )
    chosen, rejected = chosen_sum / chosen_tokens, rejected_sum / rejected_tokens
    odds = log_odds(chosen, rejected)
    margin = chosen - rejected
    return {
        "nll": -float(chosen_sum.sum() / chosen_tokens.sum()),
        "ranking": _ranking(margin),
        "lor": float(torch.nn.functional.softplus(-odds).mean()),
        "log_odds": float(odds.mean()),
        "margin": float(margin.mean()),
        "accuracy": float(((margin.sign() + 1) / 2).mean()),
        "chosen_logps": float(chosen.mean()),
        "rejected_logps": float(rejected.mean()),
    }


def _ranking(margins: torch.Tensor) -> float:
    """Return the calibrated ranking loss, NaN where a run has diverged."""
    finite = bool(torch.isfinite(margins).all())
    return calibrated_ranking_loss(margins.numpy()) if finite else math.nan


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield consecutive parts of a sequence."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
