"""The gate and norm that are computed again, with LoRA layers that keep only their sources."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2Config, Gemma2MLP
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3Config, Qwen3MLP

from study.engine.gates import fuse_gates
from study.engine.lora import fuse_adapters
from study.engine.norms import fuse_norms

SIZES = {"hidden_size": 6, "intermediate_size": 10, "num_attention_heads": 2}
N_TOKENS = 7


class Scaled(LlamaMLP):
    """A gated layer of another formula."""

    def forward(self, x):
        return 2 * super().forward(x)


class Layer(nn.Module):
    """A norm and a feed-forward layer, as a decoder has them."""

    def __init__(self, mlp) -> None:
        super().__init__()
        self.norm, self.mlp = LlamaRMSNorm(6), mlp

    def forward(self, x):
        return x + self.mlp(self.norm(x))


def adapted(mlp, dtype, *, dropout=0.0):
    """A layer with LoRA on all three projections, without any layer of ours."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        targets = ["gate_proj", "up_proj", "down_proj"]
        config = LoraConfig(
            r=3, target_modules=targets, init_lora_weights=False, lora_dropout=dropout
        )
        layer = Layer(mlp).requires_grad_(requires_grad=False).to(dtype)
        return get_peft_model(layer, config).train()


def fused(model):
    """The same with ours: norms and gates first, as `install` does it."""
    model = copy.deepcopy(model)
    fuse_gates(model)
    fuse_norms(model)
    fuse_adapters(model)
    return model


def outcome(model, dtype, *, through=lambda model, x: model(x)):
    """Output, gradient of the input and gradients of the adapter."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, N_TOKENS, 6, dtype=torch.float64, generator=generator)
    x = x.to(dtype).requires_grad_()
    model.zero_grad()
    out = through(model, x)
    (out.double() ** 2).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


def exact_norm(self, x):
    """RMSNorm of transformers rounds float64 to float32."""
    return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


@pytest.mark.parametrize(
    "make",
    [lambda: LlamaMLP(LlamaConfig(**SIZES)), lambda: Qwen3MLP(Qwen3Config(**SIZES))],
    ids=["llama", "qwen3"],
)
def test_gradients_equal_plain_pytorchs_in_float64(make, monkeypatch) -> None:
    model = adapted(make(), torch.float64)
    ours = fused(model)
    found = outcome(ours, torch.float64)
    monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
    expected = outcome(model, torch.float64)

    assert "forward" in vars(ours.base_model.model.mlp)
    assert "forward" in vars(ours.base_model.model.norm)
    assert len(found) == 2 + 2 * 3
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_alone_gives_pytorchs_very_numbers(dtype) -> None:
    mlp = LlamaMLP(LlamaConfig(**SIZES)).to(dtype).requires_grad_(requires_grad=False)
    ours = copy.deepcopy(mlp)
    fuse_gates(ours)

    torch.testing.assert_close(outcome(ours, dtype), outcome(mlp, dtype), rtol=0, atol=0)


def test_checkpointing_changes_no_gradient() -> None:
    model = fused(adapted(LlamaMLP(LlamaConfig(**SIZES)), torch.float64))
    expected = outcome(model, torch.float64)
    found = outcome(
        model, torch.float64, through=lambda model, x: checkpoint(model, x, use_reentrant=False)
    )

    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_kept_that_can_be_computed_again(dropout, dtype) -> None:
    """Per token and layer: the norm's input and scale, gate, up and three low states."""
    model = fused(adapted(LlamaMLP(LlamaConfig(**SIZES)), dtype, dropout=dropout))
    for parameter in model.parameters():
        if parameter.requires_grad:  # as PEFT leaves them on a base of 16 bits
            parameter.data = parameter.data.float()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    x = torch.randn(1, N_TOKENS, 6).to(dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(x)

    expected = N_TOKENS * ((6 + 2 * 10) * dtype.itemsize + 4 * (1 + 3 * 3))
    assert out.requires_grad
    assert sum(storage.nbytes() for storage in kept.values()) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scaled(LlamaConfig(**SIZES)),
        lambda: Gemma2MLP(Gemma2Config(**SIZES)),  # GELU
        lambda: LlamaMLP(LlamaConfig(**SIZES, hidden_act="relu")),
    ],
    ids=["another factor", "gelu", "relu"],
)
def test_a_layer_of_another_formula_is_left_alone(make) -> None:
    mlp = make()
    fuse_gates(mlp)

    assert "forward" not in vars(mlp)


def test_a_hook_on_the_activation_is_called() -> None:
    mlp, calls = LlamaMLP(LlamaConfig(**SIZES)), []
    fuse_gates(mlp)
    mlp.act_fn.register_forward_hook(lambda *_: calls.append(1))
    mlp(torch.ones(2, 6))

    assert calls == [1]


def test_a_source_goes_no_further_than_its_tensor() -> None:
    """What was done to an activation meanwhile, such as another dropout, is in its gradient."""
    model = fused(adapted(LlamaMLP(LlamaConfig(**SIZES)), torch.float64))
    layer = model.base_model.model
    x = torch.randn(1, N_TOKENS, 6, dtype=torch.float64)
    halved = 0.5 * layer.norm(x)
    expected = torch.autograd.grad(
        layer.mlp.gate_proj(halved.detach()).sum(), layer.mlp.gate_proj.lora_A["default"].weight
    )
    found = torch.autograd.grad(
        layer.mlp.gate_proj(halved).sum(), layer.mlp.gate_proj.lora_A["default"].weight
    )

    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
