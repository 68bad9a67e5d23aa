"""Products of 16 bits, on processors that have instructions for them and on others."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from study.engine import precision
from study.engine.head import Head, label_logps, picker
from study.engine.layout import lay_out
from study.engine.lora import product, product_with
from study.engine.precision import product_dtype, times
from study.engine.strips import attend_in_strips


@pytest.fixture
def on_a_plain_processor(monkeypatch):
    monkeypatch.setattr(precision, "_multiplies", lambda dtype: False)


class Products(TorchDispatchMode):
    """Record the dtypes of all factors of products."""

    NAMES = ("mm", "bmm", "addmm", "baddbmm_", "linear", "_linear_pointwise")

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, given=(), kwargs=None):
        if function.overloadpacket.__name__ in self.NAMES:
            self.dtypes |= {one.dtype for one in given if isinstance(one, torch.Tensor)}
        return function(*given, **(kwargs or {}))


def values(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_16_bits_are_widened_only_on_a_cpu_that_cannot_multiply_them(monkeypatch):
    for can, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "_multiplies", lambda dtype, can=can: can)
        assert product_dtype(torch.bfloat16, "cpu") == expected
        assert product_dtype(torch.bfloat16, "cuda") == torch.bfloat16
        assert product_dtype(torch.float64, "cpu") == torch.float64


@pytest.mark.parametrize("biased", [False, True])
def test_a_widened_product_is_the_exact_one_rounded(biased, on_a_plain_processor):
    x, weight = values(33, 48, seed=1), values(20, 48, seed=2)
    bias = values(20, seed=3) if biased else None
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())

    with Products() as products:
        made = product(x, weight, bias), product_with(weight)(x, bias=bias)
    assert products.dtypes == {torch.float32}
    for found in made:
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(times(x, weight.T), product(x, weight), rtol=2**-7, atol=1e-6)


def test_the_output_layer_rounds_no_logits_that_were_computed_in_float32(on_a_plain_processor):
    weight, hidden = values(40, 24, seed=1), values(7, 24, seed=2).requires_grad_()
    head = Head(weight, None, None, None, scale=1.0, softcap=None)
    labels = torch.arange(7)
    found = label_logps(head, hidden, labels)
    (slope,) = torch.autograd.grad(found.sum(), hidden)
    wide = hidden.detach().double().requires_grad_()
    logits = wide @ weight.double().T
    exact = logits.log_softmax(-1)[torch.arange(7), labels]
    (exact_slope,) = torch.autograd.grad(exact.sum(), wide)

    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert slope.dtype == torch.bfloat16
    torch.testing.assert_close(slope.double(), exact_slope, rtol=2**-8, atol=1e-5)
    assert picker(head)(hidden.detach()).tolist() == logits.argmax(-1).tolist()


def test_attention_takes_no_product_of_16_bits_forward_or_back(on_a_plain_processor):
    inputs = [values(12, heads, 8, seed=heads).requires_grad_() for heads in (4, 2, 2)]
    sequences = lay_out([(3, [4, 5])])

    def with_gradients(given):
        out = attend_in_strips(*given, sequences, None)
        return out, *torch.autograd.grad(out.float().square().sum(), given)

    with Products() as products:
        found = with_gradients(inputs)
    exact = with_gradients([one.detach().double().requires_grad_() for one in inputs])

    assert products.dtypes == {torch.float32}
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).abs().max() < 2e-2 * theirs.abs().max()
