"""Attention in strips, the CPU's form of segments, against padded rows."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from study.engine import strips
from study.engine.attention import attend_in_rows
from study.engine.layout import lay_out
from study.engine.strips import attend_in_strips

SCALING = 0.4
LONG = [(70, [150, 3]), (1, [64]), (64, [65, 200])]

lengths = st.integers(1, 40)
conversations = st.lists(
    st.tuples(lengths, st.lists(lengths, min_size=1, max_size=2)), min_size=1, max_size=4
)


def random_tensors(conversations, *, n_key_heads=2) -> list[torch.Tensor]:
    n_tokens = sum(n_prompt + sum(answers) for n_prompt, answers in conversations)
    generator = torch.Generator().manual_seed(n_tokens)
    return [
        torch.randn(n_tokens, n, 8, dtype=torch.float64, generator=generator).requires_grad_()
        for n in (4, n_key_heads, n_key_heads)
    ]


def in_strips(inputs, sequences, *, scaling=SCALING) -> torch.Tensor:
    return attend_in_strips(*inputs, sequences, scaling)


def strips_function(node):
    """Find the node of the attention itself behind those that lay out its result."""
    while type(node).__name__ != "_StripsBackward":
        node = node.next_functions[0][0]
    return node


def with_gradients(out, inputs) -> list[torch.Tensor]:
    slope = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad(out, inputs, slope)]


@settings(deadline=None, max_examples=40)
@given(conversations, st.sampled_from([1, 2, 4]), st.sampled_from([1, 56, 512]))
def test_strips_of_any_size_equal_rows(conversations, n_key_heads, strip_bytes) -> None:
    inputs = random_tensors(conversations, n_key_heads=n_key_heads)
    sequences = lay_out(conversations)
    expected = with_gradients(attend_in_rows(*inputs, sequences, scaling=SCALING), inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP_BYTES", strip_bytes)
        found = with_gradients(in_strips(inputs, sequences), inputs)

    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept_keys", [0, strips.KEPT_KEYS])
def test_weights_that_are_computed_again_give_the_same_gradients(monkeypatch, kept_keys) -> None:
    inputs, sequences = random_tensors(LONG), lay_out(LONG)
    monkeypatch.setattr(strips, "KEPT_KEYS", kept_keys)
    out = in_strips(inputs, sequences, scaling=None)
    kept = strips_function(out.grad_fn).saved_tensors[4:]
    expected = with_gradients(attend_in_rows(*inputs, sequences, scaling=None), inputs)

    assert bool(kept) == bool(kept_keys)
    torch.testing.assert_close(with_gradients(out, inputs), expected, rtol=1e-12, atol=1e-12)


def test_scores_are_not_rounded_to_bfloat16() -> None:
    inputs, sequences = random_tensors(LONG), lay_out(LONG)
    low = [(8 * t).bfloat16().detach().requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in low]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = in_strips(low, sequences)
    expected = in_strips(exact, sequences)

    assert found.dtype == torch.bfloat16
    off = (found.double() - expected).abs().max() / expected.abs().max()
    assert off < 1e-2  # scores beyond 100, rounded to eight bits, would be off by half
    for ours, theirs in zip(
        with_gradients(found, low)[1:], with_gradients(expected, exact)[1:], strict=True
    ):
        assert (ours.double() - theirs).abs().max() < 2e-2 * theirs.abs().max()


@pytest.mark.parametrize("trained", [False, True])
def test_weights_are_let_go_where_nothing_is_trained(monkeypatch, trained) -> None:
    inputs = [tensor.detach().requires_grad_(trained) for tensor in random_tensors(LONG)]
    made, alive = [], []
    weights_of = strips._weights

    def watched(*given, **named):
        alive.append(sum(reference() is not None for reference in made))
        weights = weights_of(*given, **named)
        made.append(weakref.ref(weights))
        return weights

    monkeypatch.setattr(strips, "_weights", watched)
    out = in_strips(inputs, lay_out(LONG))

    assert out.requires_grad == trained
    assert alive == list(range(len(alive))) if trained else max(alive) <= 1


def test_what_scoring_leaves_behind_serves_training() -> None:
    inputs, sequences = random_tensors([(30, [11])]), lay_out([(30, [11])])
    with torch.inference_mode():
        expected = in_strips([t.detach() for t in inputs], sequences)
    out, *gradients = with_gradients(in_strips(inputs, sequences), inputs)

    torch.testing.assert_close(out, expected.clone(), rtol=0, atol=0)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
