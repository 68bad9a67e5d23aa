"""Losses as pure functions of log-probabilities: each method on one screen.

Shapes: B pairs in a micro-batch. A *sum* is over tokens, in nats; ``logps``
without *sum* is the mean per answer token, Eq. 3 of the ORPO paper. In the
equations w is the chosen answer, l the rejected one, σ the logistic function.

Every loss returns the share of a micro-batch in the loss of its update. The
counts ``n_tokens`` (labels of the NLL) and ``n_pairs`` are of the whole update,
over all micro-batches and devices, so that the shares add up.
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
    with zero tokens; the rejected side is None for arms that do not use it. A
    reference is the model that the run started from; without gradient.
    """

    prompt_sum: Tensor  # (B,)
    prompt_tokens: Tensor  # (B,)
    chosen_sum: Tensor  # (B,)
    chosen_tokens: Tensor  # (B,)
    rejected_sum: Tensor | None = None  # (B,)
    rejected_tokens: Tensor | None = None  # (B,)
    chosen_reference_sum: Tensor | None = None  # (B,)
    rejected_reference_sum: Tensor | None = None  # (B,)

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
    def chosen_ratio(self) -> Tensor:
        """Log-ratio of model to reference on the chosen answers, summed, (B,)."""
        assert self.chosen_reference_sum is not None
        return self.chosen_sum - self.chosen_reference_sum

    @property
    def rejected_ratio(self) -> Tensor:
        """Log-ratio of model to reference on the rejected answers, summed, (B,)."""
        assert self.rejected_sum is not None
        assert self.rejected_reference_sum is not None
        return self.rejected_sum - self.rejected_reference_sum

    @property
    def nll_sum(self) -> Tensor:
        """Negative log-likelihood of the chosen side, ()."""
        return -(self.prompt_sum.sum() + self.chosen_sum.sum())


def sft(logps: PairLogps, *, n_tokens: int, n_pairs: int) -> Tensor:
    """Return the NLL of the chosen side per token.

    >>> import torch
    >>> sft(PairLogps(*torch.tensor([[-1.0], [1], [-2], [2]])), n_tokens=3, n_pairs=1)
    tensor(1.)
    """
    return logps.nll_sum / n_tokens


def orpo(logps: PairLogps, *, n_tokens: int, n_pairs: int, beta: float) -> Tensor:
    """Return NLL - β log σ(log odds_w / odds_l), per token and per pair.

    Hong, Lee and Thorne 2024, arXiv 2403.07691, Eq. 6; ``beta`` is λ there and
    ``alpha`` in xfactlab/orpo.

    >>> import torch
    >>> halves, quarters = torch.tensor([[0.5], [0.25]]).log()
    >>> pair = PairLogps(*torch.zeros(2, 1), halves, torch.ones(1), quarters, torch.ones(1))
    >>> orpo(pair, n_tokens=1, n_pairs=1, beta=0.5)  # log 2 + 0.5 log(4/3)
    tensor(0.8370)
    """
    or_loss = odds_ratio_loss(logps.chosen, logps.rejected)
    return sft(logps, n_tokens=n_tokens, n_pairs=n_pairs) + beta * or_loss.sum() / n_pairs


def dpo(logps: PairLogps, *, n_tokens: int, n_pairs: int, beta: float) -> Tensor:
    """Return -log σ(β(r_w - r_l)) per pair, with r = log π - log π_ref.

    Rafailov et al. 2023, arXiv 2305.18290, Eq. 7; log 2 at the start.

    >>> import torch
    >>> pair = PairLogps(*torch.tensor([[0.0], [0], [-2], [2], [-6], [3], [-3], [-5]]))
    >>> dpo(pair, n_tokens=2, n_pairs=1, beta=0.5)  # r is 1 and -1: -log σ(1)
    tensor(0.3133)
    """
    return -log_sigmoid(beta * (logps.chosen_ratio - logps.rejected_ratio)).sum() / n_pairs


def ipo(logps: PairLogps, *, n_tokens: int, n_pairs: int, beta: float) -> Tensor:
    """Return (r_w/|w| - r_l/|l| - 1/(2β))² per pair, with r as in `dpo`.

    Azar et al. 2023, arXiv 2310.12036, Eq. 17, ``beta`` being τ there; (1/(2β))²
    at the start. Deviation: log-ratios are means per token, as in TRL and HALOs; with
    the sums of the equation the best τ would depend on how long answers are.

    >>> import torch
    >>> pair = PairLogps(*torch.tensor([[0.0], [0], [-2], [2], [-6], [3], [-3], [-5]]))
    >>> ipo(pair, n_tokens=2, n_pairs=1, beta=0.5)  # (1/2 + 1/3 - 1)²
    tensor(0.0278)
    """
    assert logps.rejected_tokens is not None
    chosen, rejected = logps.chosen_ratio, logps.rejected_ratio
    gap = chosen / logps.chosen_tokens - rejected / logps.rejected_tokens
    return (gap - 1 / (2 * beta)).square().sum() / n_pairs


def kto(logps: PairLogps, *, n_tokens: int, n_pairs: int, beta: float, z: Tensor | float) -> Tensor:
    """Return 1 - σ(β(r_w - z)) and 1 - σ(β(z - r_l)), their mean over answers.

    Ethayarajh et al. 2024, arXiv 2402.01306, with both weights 1 and r as in
    `dpo`; 1/2 at the start. ``z`` is of the whole update, without gradient:
    max(0, mean of r over its prompts, each with another prompt's answer).

    >>> import torch
    >>> pair = PairLogps(*torch.tensor([[0.0], [0], [-2], [2], [-6], [3], [-3], [-5]]))
    >>> kto(pair, n_tokens=2, n_pairs=1, beta=0.5, z=1.0)  # (1/2 + 1 - σ(1)) / 2
    tensor(0.3845)
    """
    chosen = (beta * (z - logps.chosen_ratio)).sigmoid()  # 1 - σ(x) is σ(-x)
    rejected = (beta * (logps.rejected_ratio - z)).sigmoid()
    return (chosen + rejected).sum() / (2 * n_pairs)


def simpo(
    logps: PairLogps, *, n_tokens: int, n_pairs: int, beta: float, gamma_beta_ratio: float
) -> Tensor:
    """Return -log σ(β(log π_w/|w| - log π_l/|l|) - γ) per pair; needs no reference.

    Meng, Xia and Chen 2024, arXiv 2405.14734, Eq. 6. As in their code the margin is
    given as γ/β; TRL's ``simpo_gamma`` is γ.

    >>> import torch
    >>> pair = PairLogps(*torch.tensor([[0.0], [0], [-2], [2], [-6], [3]]))
    >>> simpo(pair, n_tokens=2, n_pairs=1, beta=2.0, gamma_beta_ratio=0.5)  # -log σ(2 - 1)
    tensor(0.3133)
    """
    gap = logps.chosen - logps.rejected - gamma_beta_ratio
    return -log_sigmoid(beta * gap).sum() / n_pairs


def cpo(logps: PairLogps, *, n_tokens: int, n_pairs: int, beta: float) -> Tensor:
    """Return NLL - log σ(β(log π_w - log π_l)), per token and per pair; no reference.

    Xu et al. 2024, arXiv 2401.08417, Eq. 3 and its NLL with a weight of 1, TRL's
    ``cpo_alpha``.

    >>> import torch
    >>> pair = PairLogps(*torch.tensor([[0.0], [0], [-2], [2], [-6], [3]]))
    >>> cpo(pair, n_tokens=2, n_pairs=1, beta=0.25)  # 2/2 - log σ(1)
    tensor(1.3133)
    """
    assert logps.rejected_sum is not None
    preference = -log_sigmoid(beta * (logps.chosen_sum - logps.rejected_sum))
    return sft(logps, n_tokens=n_tokens, n_pairs=n_pairs) + preference.sum() / n_pairs


def odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return -log σ(log odds ratio) per pair, Eq. 7 of ORPO, in (0, ∞).

    >>> import torch
    >>> c, r = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    >>> odds_ratio_loss(c, r)  # odds 1 and 1/3: -log σ(log 3) = log(4/3)
    tensor([0.2877])
    """
    return -log_sigmoid(log_odds(chosen, rejected))


def log_odds(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return log of odds(chosen) / odds(rejected), Eq. 4, in float32 or wider.

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


def log_sigmoid(x: Tensor) -> Tensor:
    """Return log σ(x), exact for large negative x."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(x)


def _clamp(logps: Tensor) -> Tensor:
    wide = logps.float() if logps.dtype.itemsize < 4 else logps
    return wide.clamp(max=LARGEST_LOGP)
