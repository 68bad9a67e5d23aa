"""Losses as pure functions of log-probabilities: the method on one screen.

Shapes: B pairs in a micro-batch. A *sum* is over tokens, in nats; ``logps``
without *sum* is the mean per answer token, Eq. 3 of the ORPO paper.

``beta`` weighs the odds-ratio term; it is λ in the paper (Hong, Lee and
Thorne 2024, arXiv 2403.07691) and ``alpha`` in xfactlab/orpo.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor
else:  # annotations are evaluated, and recipes need the arms without torch
    Tensor = Any

LARGEST_LOGP = -1e-7
"""Log-probabilities above this are clamped: 1 - p must not round to zero."""


class PairLogps(NamedTuple):
    """Log-probabilities of B pairs under the model, and their token counts.

    ``prompt_sum`` counts only where the NLL covers the prompt, else it is zero
    with zero tokens; the rejected side is None for arms that do not use it.
    """

    prompt_sum: Tensor  # (B,)
    prompt_tokens: Tensor  # (B,)
    chosen_sum: Tensor  # (B,)
    chosen_tokens: Tensor  # (B,)
    rejected_sum: Tensor | None = None  # (B,)
    rejected_tokens: Tensor | None = None  # (B,)

    @property
    def chosen(self) -> Tensor:
        """Mean log-probability per token of the chosen answers, (B,)."""
        return self.chosen_sum / self.chosen_tokens

    @property
    def rejected(self) -> Tensor:
        """Mean log-probability per token of the rejected answers, (B,)."""
        assert self.rejected_sum is not None
        assert self.rejected_tokens is not None
        return self.rejected_sum / self.rejected_tokens

    @property
    def nll_sum(self) -> Tensor:
        """Negative log-likelihood of the chosen side, ()."""
        return -(self.prompt_sum.sum() + self.chosen_sum.sum())


def sft(logps: PairLogps, *, n_tokens: int, n_pairs: int) -> Tensor:  # noqa: ARG001
    """Return the chosen side's share of the NLL per token of a whole update.

    The counts are of the whole update, over all micro-batches and devices, so
    that losses of micro-batches add up to the loss of the update.
    """
    return logps.nll_sum / n_tokens


def orpo(logps: PairLogps, *, n_tokens: int, n_pairs: int, beta: float) -> Tensor:
    """Return the NLL plus ``beta`` times the odds-ratio loss, Eq. 6."""
    or_loss = odds_ratio_loss(logps.chosen, logps.rejected)
    return sft(logps, n_tokens=n_tokens, n_pairs=n_pairs) + beta * or_loss.sum() / n_pairs


def odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return -log σ(log odds ratio) per pair, Eq. 7, in (0, ∞).

    >>> import torch
    >>> c, r = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    >>> odds_ratio_loss(c, r)  # odds 1 and 1/3: -log σ(log 3) = log(4/3)
    tensor([0.2877])
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(log_odds(chosen, rejected))


def log_odds(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return log of odds(chosen) / odds(rejected), Eq. 4, in at least float32.

    Args:
        chosen: Mean log-probability per token of the chosen answers, (B,).
        rejected: The same of the rejected answers, (B,).

    >>> import torch
    >>> log_odds(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
    tensor([1.0986])
    """
    chosen, rejected = (_clamp(logps) for logps in (chosen, rejected))
    return (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) for x < 0, with a finite gradient on both branches.

    Mächler (2012) gives the switch at -log 2. Each branch sees only arguments
    that it is made for: `where` sends NaN back through the branch that it
    did not take (the defect of TRL's function of this name).
    """
    near_zero = x > -0.6931471805599453
    small = x.where(near_zero, -0.5)
    large = x.where(~near_zero, -1.0)
    return (-small.expm1()).log().where(near_zero, (-large.exp()).log1p())


def _clamp(logps: Tensor) -> Tensor:
    wide = logps.float() if logps.dtype.itemsize < 4 else logps
    return wide.clamp(max=LARGEST_LOGP)
