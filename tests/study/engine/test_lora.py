"""The fused LoRA layer against PEFT's own."""

import pytest
import torch
from torch import nn

from study.engine import lora
from study.engine.dropout import draw_seed, drop, places
from study.engine.lora import fuse_adapters, restore_adapters

LAYERS = ("first", "second")


class TwoLayers(nn.Module):
    """Two linear layers, the second with a bias, and something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10, bias=False), nn.Linear(10, 4)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture
def make_model():
    from peft import LoraConfig, get_peft_model

    def make(dtype=torch.float64, **options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = LoraConfig(
                r=3, lora_alpha=7, target_modules=list(LAYERS), init_lora_weights=False, **options
            )
            return get_peft_model(TwoLayers().to(dtype), config).to(dtype)

    return make


def x_of(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, 6, dtype=torch.float64, generator=generator).to(dtype)


class SameMask(nn.Dropout):
    """Dropout as PEFT takes it, a module before the adapter, with the fused layer's masks."""

    def forward(self, x):
        if not self.training:
            return x
        ones, seed = torch.ones_like(x).flatten(0, -2), draw_seed()
        step = lora.ROWS_AT_A_TIME
        parts = [(n, ones[n : n + step]) for n in range(0, len(ones), step)]
        mask = torch.cat([drop(part, places(part, self.p, seed + n)) for n, part in parts])
        return x * mask.view_as(x) / (1 - self.p)


def with_masks(model):
    """Give PEFT's layers the masks that the fused ones draw from the same random state."""
    for layer in model.modules():
        for name, dropout in getattr(layer, "lora_dropout", {}).items():
            if isinstance(dropout, nn.Dropout):
                layer.lora_dropout[name] = SameMask(dropout.p)
    return model


def outcome(model, *, seed=2, autocast=False):
    """Output, gradient of the input and gradients of the adapter."""
    weight = next(model.parameters())
    x = x_of(weight.dtype).to(weight.device).requires_grad_()
    model.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=autocast):
            out = model(x)
    (out.float() ** 2 if autocast else out**2).sum().backward()
    trained = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    return [out.detach(), x.grad, *trained]


def both(model, **options):
    expected = outcome(model, **options)
    fuse_adapters(model)
    found = outcome(model, **options)
    return found, expected


def is_fused(model, *, autocast=False) -> bool:
    """Tell whether the output comes from the fused layer."""
    weight = next(model.parameters())
    with torch.autocast(weight.device.type, torch.bfloat16, enabled=autocast):
        out = model(x_of(weight.dtype).to(weight.device))
    return type(out.grad_fn).__name__ == "_LoraLinearBackward"


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_dropout": 0.4}])
def test_it_equals_pefts_layer_with_gradients(make_model, options, monkeypatch) -> None:
    monkeypatch.setattr(lora, "ROWS_AT_A_TIME", 4)  # of ten tokens: three parts, one shorter
    model = with_masks(make_model(**options)).train()
    found, expected = both(model)

    assert is_fused(model)
    assert len(found) == 2 + 2 * len(LAYERS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_dropout_is_left_out_in_evaluation(make_model) -> None:
    model = make_model(lora_dropout=0.4).eval()
    found, expected = both(model)
    trained = outcome(model.train())

    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(trained[0], expected[0])


def test_dropout_in_float32_equals_pefts_to_rounding(make_model) -> None:
    found, expected = both(with_masks(make_model(torch.float32, lora_dropout=0.3)).train())

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_dropout_takes_each_value_with_its_chance(share) -> None:
    """Four standard errors, per row and column too: no value is favoured."""
    kept = torch.stack(
        [drop(torch.ones(40, 50), places(torch.ones(40, 50), share, seed)) for seed in range(200)]
    )

    assert set(kept.unique().tolist()) == {0.0, 1.0}
    for dims, n in (((0, 1, 2), 400_000), ((0, 1), 8_000), ((0, 2), 10_000)):
        off = (1 - kept.mean(dims) - share).abs().max().item()
        assert off < 4 * (share * (1 - share) / n) ** 0.5


def test_seed_is_honoured_by_dropout() -> None:
    x = torch.randn(30, 40)

    assert torch.equal(places(x, 0.1, 7), places(x, 0.1, 7))
    assert not torch.equal(drop(x, places(x, 0.1, 7)), drop(x, places(x, 0.1, 8)))


def test_dropout_keeps_nothing_for_the_backward_pass(make_model) -> None:
    """What waits is as much as without it, and the input is kept itself, not a copy."""
    kept = []
    for share in (0.0, 0.4):
        model = make_model(lora_dropout=share).train()
        fuse_adapters(model)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        ):
            model(x_of())
        kept.append(sizes)

    assert kept[0] == kept[1]


@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.3}])
def test_autocast_rounds_no_more_than_pefts_layer_does(make_model, options) -> None:
    model = with_masks(make_model(torch.float32, **options)).train()
    exact = outcome(model)
    found, expected = both(model, autocast=True)

    assert is_fused(model, autocast=True)
    assert found[0].dtype == torch.bfloat16
    for ours, pefts, reference in zip(found, expected, exact, strict=True):
        assert ours.dtype == pefts.dtype
        errors = [(x.float() - reference).norm() for x in (ours, pefts)]
        assert errors[0] < 1.5 * errors[1]
        assert errors[0] < 0.02 * reference.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [True, False])
def test_on_a_gpu_it_rounds_no_more_than_pefts_layer_does(make_model, autocast) -> None:
    model = make_model()
    exact = outcome(model)
    model = model.to("cuda", torch.float32 if autocast else torch.bfloat16)
    found, expected = both(model, autocast=autocast)

    assert is_fused(model, autocast=autocast)
    assert found[0].dtype == torch.bfloat16
    for ours, pefts, reference in zip(found, expected, exact, strict=True):
        assert ours.dtype == pefts.dtype
        errors = [(x.double().cpu() - reference).norm() for x in (ours, pefts)]
        assert errors[0] < 1.5 * errors[1]
        assert errors[0] < 0.02 * reference.norm()


@pytest.mark.filterwarnings("ignore:`lora_bias=True`")  # the first layer has no bias
@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_what_it_does_not_know_stays_pefts(make_model, options) -> None:
    model = make_model(**options)
    found, expected = both(model)

    assert not is_fused(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_disabled_or_merged_adapter_is_pefts_matter(make_model) -> None:
    model = make_model()
    x = x_of()
    adapted = model(x)
    with model.disable_adapter():
        bare = model(x)
    fuse_adapters(model)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), bare, rtol=0, atol=0)
    model.merge_adapter()
    merged = model(x)
    model.unmerge_adapter()

    torch.testing.assert_close(merged, adapted)
    torch.testing.assert_close(model(x), adapted, rtol=1e-12, atol=0)
    assert not torch.allclose(bare, adapted)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapters_of_float32_on_a_base_of_16_bits_round_no_more_than_pefts(
    make_model, dropout, monkeypatch
) -> None:
    """As a recipe with bfloat16 has it on a CPU, where nothing is autocast."""
    monkeypatch.setattr(lora, "ROWS_AT_A_TIME", 4)
    model = with_masks(make_model(torch.float32, lora_dropout=dropout)).train()
    bases = [getattr(model.base_model.model, name).base_layer for name in LAYERS]
    for base in bases:
        base.bfloat16().float()
    exact = outcome(model)
    for base in bases:
        base.bfloat16()
    x = x_of(torch.float32).bfloat16()
    found = []
    for _ in range(2):
        inputs = x.clone().requires_grad_()
        model.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            out = model(inputs)
        (out.float() ** 2).sum().backward()
        trained = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        found.append((type(out.grad_fn).__name__, [out.detach(), inputs.grad, *trained]))
        fuse_adapters(model)
    (_, pefts), (name, ours) = found

    assert name == "_LoraLinearBackward"
    assert [x.dtype for x in ours] == [x.dtype for x in pefts]
    for mine, theirs, reference in zip(ours, pefts, exact, strict=True):
        errors = [(x.float() - reference).norm() for x in (mine, theirs)]
        assert errors[0] < 1.5 * errors[1] + 1e-6
        assert errors[0] < 0.02 * reference.norm()


def test_an_adapter_of_fewer_bits_than_its_base_is_pefts_matter(make_model) -> None:
    model = make_model(torch.float64)
    for name in LAYERS:
        layer = getattr(model.base_model.model, name)
        layer.lora_A.float()
        layer.lora_B.float()
    expected = model(x_of())
    fuse_adapters(model)

    assert not is_fused(model)
    torch.testing.assert_close(model(x_of()), expected, rtol=0, atol=0)


def test_an_adapter_of_two_dtypes_is_refused_as_peft_refuses_it(make_model) -> None:
    model = make_model(torch.float32)
    model.base_model.model.second.lora_B.double()
    fuse_adapters(model)
    with pytest.raises(RuntimeError, match="dtype"):
        model(x_of(torch.float32))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_base_that_is_trained_keeps_its_gradient(make_model, name) -> None:
    model = make_model()
    fuse_adapters(model)
    trained = getattr(model.base_model.model.second.base_layer, name).requires_grad_()
    model(x_of()).sum().backward()

    assert trained.grad is not None


def test_two_active_adapters_are_pefts_matter(make_model) -> None:
    model = make_model()
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])
    expected = model(x_of())
    fuse_adapters(model)

    assert not is_fused(model)
    torch.testing.assert_close(model(x_of()), expected, rtol=1e-12, atol=0)


def add_accelerates_hook(module, called):
    from accelerate.hooks import ModelHook, add_hook_to_module

    hook = ModelHook()
    hook.pre_forward = lambda module, *args, **kwargs: (called(), (args, kwargs))[1]
    add_hook_to_module(module, hook)


@pytest.mark.parametrize("part", ["base_layer", "lora_A", "lora_B"])
@pytest.mark.parametrize(
    "add_hook",
    [
        lambda module, called: module.register_forward_hook(lambda *_: called()),
        lambda module, called: module.register_forward_pre_hook(lambda *_: called()),
        lambda module, called: module.register_full_backward_hook(lambda *_: called()),
        lambda module, called: module.register_full_backward_pre_hook(lambda *_: called()),
        add_accelerates_hook,
    ],
    ids=["forward", "before forward", "backward", "before backward", "accelerate"],
)
def test_hooks_are_called(make_model, part, add_hook) -> None:
    model = make_model()
    fuse_adapters(model)
    module, calls = getattr(model.base_model.model.second, part), []
    add_hook(module if part == "base_layer" else module["default"], lambda: calls.append(1))
    model(x_of().requires_grad_()).sum().backward()

    assert calls == [1]


def test_pefts_layers_can_be_restored(make_model) -> None:
    model = make_model()
    fuse_adapters(model)
    fused = is_fused(model)
    restore_adapters(model)

    assert fused
    assert not is_fused(model)


@pytest.mark.skipif(not lora.ONEDNN, reason="this PyTorch has no oneDNN")
def test_onednns_products_equal_pytorchs_for_any_layout(monkeypatch) -> None:
    monkeypatch.setattr(lora, "ONEDNN_FROM", 0)
    x, square = torch.randn(5, 300), torch.randn(300, 301)
    for weight in (square[:, 1:], square[:, 1:].T, square[:7, :300]):
        for bias in (None, torch.randn(len(weight))):
            found, expected = lora.product(x, weight, bias), nn.functional.linear(x, weight, bias)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not lora.ONEDNN, reason="this PyTorch has no oneDNN")
def test_large_products_alone_go_to_onednn() -> None:
    weight = torch.randn(1024, 512)
    operators = []
    for n_tokens in (511, 512):
        with torch.profiler.profile() as profile:
            lora.product(torch.randn(n_tokens, 512), weight)
        operators.append({event.key for event in profile.key_averages()})

    assert ["mkldnn::_linear_pointwise" in names for names in operators] == [False, True]
