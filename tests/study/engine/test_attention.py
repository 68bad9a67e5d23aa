"""Both forms of the shared-prompt attention against attention written out."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from study.engine import attention
from study.engine.attention import (
    agrees_with_rows,
    attend_in_rows,
    longest_plain_row,
    packed_attention,
    varlen_kernel,
)
from study.engine.layout import PADDING_SHARE, Sequences, lay_out
from study.errors import ModelError

SCALING = 0.4
CONVERSATIONS = [(5, [3, 9]), (1, [1, 1]), (12, [2, 30]), (7, [4])]

lengths = st.integers(1, 40)
conversations = st.lists(
    st.tuples(lengths, st.lists(lengths, min_size=1, max_size=2)), min_size=1, max_size=6
)


def slow_varlen(q: Tensor, k: Tensor, v: Tensor, at: Sequences, scaling: float | None) -> Tensor:
    """What a kernel of variable length computes, one segment after the other."""
    k, v = (tensor[at.key_index] for tensor in (k, v))
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    out = []
    for number in range(len(at.query_ends) - 1):
        mine = slice(at.query_ends[number], at.query_ends[number + 1])
        seen = slice(at.key_ends[number], at.key_ends[number + 1])
        scores = torch.einsum("qad,kad->aqk", q[mine], k[seen]) * scaling
        n_queries, n_keys = scores.shape[1:]
        visible = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
        out.append(torch.einsum("aqk,kad->qad", weights, v[seen]))
    return torch.cat(out)


def random_tensors(n_tokens: int, *, n_heads=4, n_key_heads=2, size=8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n_tokens)
    heads = (n_heads, n_key_heads, n_key_heads)
    return [
        torch.randn(n_tokens, n, size, dtype=torch.float64, generator=generator).requires_grad_()
        for n in heads
    ]


def n_tokens(conversations: list[tuple[int, list[int]]]) -> int:
    return sum(n_prompt + sum(answers) for n_prompt, answers in conversations)


def assert_equal_with_gradients(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    slope = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    gradients = [torch.autograd.grad(out, inputs, slope) for out in (found, expected)]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(conversations=conversations, n_key_heads=st.sampled_from([1, 2, 4]))
def test_segments_and_rows_are_the_same_function(conversations, n_key_heads) -> None:
    sequences = lay_out(conversations)
    inputs = random_tensors(n_tokens(conversations), n_key_heads=n_key_heads)
    rows = attend_in_rows(*inputs, sequences, scaling=SCALING)
    segments = slow_varlen(*inputs, sequences, SCALING)

    assert_equal_with_gradients(rows, segments, inputs)


def test_an_answer_sees_its_prompt_and_itself_only() -> None:
    inputs = random_tensors(n_tokens(CONVERSATIONS))
    together = attend_in_rows(*inputs, lay_out(CONVERSATIONS), scaling=SCALING)
    prompt, rejected = 17, 19  # of the second conversation; 18 is its chosen answer
    alone = [tensor[[prompt, rejected]] for tensor in inputs]
    expected = attend_in_rows(*alone, lay_out([(1, [1])]), scaling=SCALING)

    torch.testing.assert_close(together[rejected], expected[1], rtol=1e-12, atol=0)


def test_keys_of_a_segment_are_the_prompt_and_the_answer() -> None:
    sequences = lay_out([(2, [1, 3]), (1, [2])])

    assert sequences.key_index.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5, 6, 6, 7, 8]
    assert sequences.query_ends.tolist() == [0, 2, 3, 6, 7, 9]
    assert sequences.key_ends.tolist() == [0, 2, 5, 10, 11, 14]
    assert sequences.query_ends.dtype == sequences.key_ends.dtype == torch.int32
    assert (sequences.longest_query, sequences.longest_key) == (3, 5)


def test_padding_of_rows_stays_below_its_share() -> None:
    sequences = lay_out([(n, [n, 3 * n]) for n in range(1, 40)])
    real = sum(n + n + n + 3 * n for n in range(1, 40))
    gathered = sum(len(index) for index in sequences.row_index)

    assert gathered <= real / (1 - PADDING_SHARE)


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "head_size"),
    [
        ("mps", torch.float32, (9, 0), 64),
        ("cuda", torch.float32, (9, 0), 64),
        ("cuda", torch.bfloat16, (7, 5), 64),
        ("cuda", torch.bfloat16, (9, 0), 12),
        ("cuda", torch.bfloat16, (9, 0), 512),
    ],
)
def test_rows_serve_where_no_kernel_of_variable_length_does(
    monkeypatch, device, dtype, capability, head_size
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    varlen_kernel.cache_clear()

    assert varlen_kernel(torch.device(device), dtype, head_size) is None


def test_a_cpu_takes_segments_in_strips() -> None:
    varlen_kernel.cache_clear()

    assert varlen_kernel(torch.device("cpu"), torch.float32, 64) is attention.attend_in_strips


@pytest.mark.parametrize(("length", "form"), [(8, "attend_in_rows"), (400, "attend_in_strips")])
def test_short_segments_on_a_cpu_take_rows(monkeypatch, length, form) -> None:
    varlen_kernel.cache_clear()
    taken = []
    for name in ("attend_in_rows", "attend_in_strips"):
        original = getattr(attention, name)

        def watched(*given, name=name, original=original, **named):
            taken.append(name)
            return original(*given, **named)

        monkeypatch.setattr(attention, name, watched)
    layout = [(length, [length, length])]
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in random_tensors(n_tokens(layout)))
    packed_attention(torch.nn.Identity(), q, k, v, None, sequences=lay_out(layout))
    varlen_kernel.cache_clear()

    assert taken == [form]


def test_torchs_own_kernel_serves_where_flash_attn_is_absent(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "_flash_attn", lambda: None)
    monkeypatch.setattr(attention, "agrees_with_rows", lambda *_: True)
    varlen_kernel.cache_clear()
    kernel = varlen_kernel(torch.device("cuda"), torch.bfloat16, 64)
    varlen_kernel.cache_clear()

    assert kernel is not None
    assert kernel.__qualname__.startswith("_torch_varlen")


def test_a_kernel_that_fails_the_check_leaves_rows(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "agrees_with_rows", lambda *_: False)
    varlen_kernel.cache_clear()
    kernel = varlen_kernel(torch.device("cuda"), torch.bfloat16, 64)
    varlen_kernel.cache_clear()

    assert kernel is None


def test_attention_that_was_not_foreseen_is_refused() -> None:
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in random_tensors(n_tokens(CONVERSATIONS)))
    sequences = lay_out(CONVERSATIONS)

    for option in ({"softcap": 30.0}, {"s_aux": torch.ones(4)}, {"sliding_window": 8}):
        with pytest.raises(ModelError, match="sliding window, soft capping or sinks"):
            packed_attention(torch.nn.Identity(), q, k, v, None, sequences=sequences, **option)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, math.inf),
        ({"sliding_window": 64}, 64),
        ({"sliding_window": 64, "use_sliding_window": False}, math.inf),
        ({"sliding_window": 64, "layer_types": ["full_attention"]}, math.inf),
        ({"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, 64),
        ({"layer_types": ["full_attention", "linear_attention"]}, 0),
        ({"layer_types": ["chunked_attention"]}, 0),
        ({"attn_logit_softcapping": 50.0}, 0),
    ],
)
def test_how_long_attention_is_plainly_causal_is_read_from_the_configuration(
    options, expected
) -> None:
    config = SimpleNamespace(**options)
    config.get_text_config = lambda: config
    causal = torch.nn.Identity()
    causal.config, causal._supports_attention_backend, causal._is_stateful = config, True, False

    assert longest_plain_row(causal) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("find", ["_flash_attn", "_torch_varlen"])
def test_kernels_of_variable_length_equal_rows_on_a_gpu(find, head_size) -> None:
    kernel = getattr(attention, find)()
    if kernel is None:
        pytest.skip(f"{find}: not installed")
    sequences = Sequences(
        *(
            [item.cuda() if isinstance(item, Tensor) else item for item in value]
            if isinstance(value, list)
            else (value.cuda() if isinstance(value, Tensor) else value)
            for value in lay_out(CONVERSATIONS)
        )
    )
    exact = [
        t.detach().to("cuda", torch.bfloat16).double().requires_grad_()
        for t in random_tensors(n_tokens(CONVERSATIONS), size=head_size)
    ]
    low = [t.detach().bfloat16().requires_grad_() for t in exact]
    expected = attend_in_rows(*exact, sequences, scaling=SCALING)
    found = kernel(*low, sequences, SCALING)
    slope = torch.randn_like(expected)
    gradients = [torch.autograd.grad(found, low, slope.bfloat16())]
    gradients.append(torch.autograd.grad(expected, exact, slope))

    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.05)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=0.2)


def test_a_kernel_with_another_causal_alignment_is_not_taken() -> None:
    """The check that guards every kernel on a device before it is used."""

    def from_upper_left(q, k, v, at, scaling):
        ends = at.key_ends.clone()
        ends[1:] = ends[:-1] + at.query_ends.diff()  # answers see too little
        return slow_varlen(q, k, v, at._replace(key_ends=ends), scaling)

    cpu, double = torch.device("cpu"), torch.float64

    assert agrees_with_rows(slow_varlen, cpu, double, 8)
    assert not agrees_with_rows(from_upper_left, cpu, double, 8)
