"""The RMSNorm of few passes against transformers' own."""

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from study.engine.norms import _RMSNorm, fuse_norms


class Block(nn.Module):
    """The norms of a transformer's layer, and what takes their result."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, LlamaRMSNorm(6).requires_grad_(False))


def norm_of(kind, dtype=torch.float32) -> nn.Module:
    layer = kind(6, eps=1e-3).to(dtype).requires_grad_(False)
    layer.weight.copy_(torch.linspace(-1, 2, 6))
    return nn.Sequential(layer)


def outcome(model, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(4, 5, 6, generator=generator)).to(dtype).requires_grad_()
    out = model(x)
    (gradient,) = torch.autograd.grad((out.float() ** 3).sum(), x)
    return out, gradient


def is_fused(model) -> bool:
    return "forward" in vars(model[0])


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_it_equals_transformers_layer_with_its_gradient(kind, dtype, rtol) -> None:
    model = norm_of(kind, dtype)
    expected = outcome(model, dtype)
    fuse_norms(model)
    found = outcome(model, dtype)

    assert is_fused(model)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * theirs.abs().max().item())


def test_its_gradient_is_that_of_its_formula() -> None:
    weight = torch.linspace(-1, 2, 6, dtype=torch.float64)
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(
        lambda x: _RMSNorm.apply(x, weight, 1e-3, False)[0], x.requires_grad_(), atol=1e-8
    )


@pytest.mark.parametrize("kind", [Gemma2RMSNorm, Olmo2RMSNorm])
def test_a_norm_of_another_formula_or_rounding_is_left_alone(kind) -> None:
    model = norm_of(kind)
    expected = outcome(model)
    fuse_norms(model)

    assert not is_fused(model)
    torch.testing.assert_close(outcome(model), expected, rtol=0, atol=0)


def test_a_weight_that_is_trained_keeps_its_gradient() -> None:
    model = norm_of(LlamaRMSNorm)
    fuse_norms(model)
    model[0].weight.requires_grad_()
    outcome_of_training = model(torch.ones(2, 6)).sum()
    outcome_of_training.backward()

    assert model[0].weight.grad is not None


def test_autocast_reaches_only_norms_before_linear_layers() -> None:
    pre = Block("input_layernorm", "post_attention_layernorm", "q_norm")
    post = Block("post_attention_layernorm", "post_feedforward_layernorm")
    x = torch.linspace(-3, 3, 12).view(2, 6)
    exact = pre.q_norm(x)
    for block in (pre, post):
        fuse_norms(block)
    with torch.autocast("cpu", torch.bfloat16):
        results = {name: norm(x) for block in (pre, post) for name, norm in block.named_children()}
        first = pre.post_attention_layernorm(x)

    assert results["input_layernorm"].dtype == first.dtype == torch.bfloat16
    torch.testing.assert_close(first, exact.bfloat16(), rtol=0, atol=0)
    for name in ("q_norm", "post_attention_layernorm", "post_feedforward_layernorm"):
        assert results[name].dtype == torch.float32  # of the block with three norms, for the second
