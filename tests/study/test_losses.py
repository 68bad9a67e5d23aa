"""The losses against numbers worked by hand, TRL's functions and their limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from study.losses import PairLogps, log1mexp, log_odds, odds_ratio_loss, orpo, sft

LOGPS = st.floats(-100, 0)


def one_pair(chosen: float, rejected: float) -> PairLogps:
    """A pair of two-token answers with these mean log-probabilities, and a three-token prompt."""
    return PairLogps(
        prompt_sum=torch.tensor([-3.0]),
        prompt_tokens=torch.tensor([3]),
        chosen_sum=torch.tensor([2 * chosen]),
        chosen_tokens=torch.tensor([2]),
        rejected_sum=torch.tensor([2 * rejected]),
        rejected_tokens=torch.tensor([2]),
    )


def test_odds_ratio_loss_of_a_half_against_a_quarter_is_log_four_thirds() -> None:
    chosen, rejected = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()

    assert log_odds(chosen, rejected).item() == pytest.approx(math.log(3), rel=1e-6)
    assert odds_ratio_loss(chosen, rejected).item() == pytest.approx(math.log(4 / 3), rel=1e-6)


def test_orpo_adds_beta_times_the_odds_ratio_loss_to_sft() -> None:
    logps = one_pair(math.log(0.5), math.log(0.25))
    counts = {"n_tokens": torch.tensor(5.0), "n_pairs": torch.tensor(1.0)}
    nll = (3 + 2 * math.log(2)) / 5

    assert sft(logps, **counts).item() == pytest.approx(nll, rel=1e-6)
    assert orpo(logps, beta=0.5, **counts).item() == pytest.approx(
        nll + 0.5 * math.log(4 / 3), rel=1e-6
    )


def test_swapping_the_sides_flips_the_log_odds() -> None:
    chosen, rejected = torch.tensor([-0.3, -2.0]), torch.tensor([-1.0, -0.1])

    assert torch.equal(log_odds(chosen, rejected), -log_odds(rejected, chosen))


@given(LOGPS)
def test_log1mexp_agrees_with_python(x: float) -> None:
    x = min(x, -1e-7)
    expected = math.log(-math.expm1(x)) if x > -0.5 else math.log1p(-math.exp(x))

    assert log1mexp(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@given(chosen=LOGPS, rejected=LOGPS)
def test_log_odds_and_gradients_are_finite_everywhere(dtype, chosen, rejected) -> None:
    sides = [torch.tensor([side], dtype=dtype, requires_grad=True) for side in (chosen, rejected)]
    loss = odds_ratio_loss(*sides).sum()
    loss.backward()

    assert math.isfinite(loss.item())
    assert all(torch.isfinite(side.grad).all() for side in sides)


@pytest.mark.parametrize("side", [0.0, -1e-9, -3e-8, -1e-7, -1e-6, -0.6931472, -50.0, -100.0])
def test_gradients_are_finite_at_the_edges_where_trl_has_nan(side: float) -> None:
    chosen = torch.tensor([side], requires_grad=True)
    odds_ratio_loss(chosen, torch.tensor([-1.0])).sum().backward()

    assert torch.isfinite(chosen.grad).all()


def test_log_odds_agree_with_trl_where_trl_is_finite() -> None:
    from trl.experimental.orpo.orpo_trainer import log1mexp as trl_log1mexp

    logps = torch.linspace(-20, -1e-3, 400, dtype=torch.float64)
    torch.testing.assert_close(log1mexp(logps), trl_log1mexp(logps), rtol=1e-12, atol=0)
