"""Answers in slots against those in batches: joins, leaves, the cache's bound."""

from types import SimpleNamespace

import pytest
import torch

from study.engine import greedy
from study.engine.forward import install
from study.engine.greedy import answer_greedily, by_chance, draw_answers, likeliest, n_slots
from study.engine.lora import fuse_adapters, merged_adapters
from study.engine.slots import Slots, opening_of, token_bytes

VOCABULARY, LIMIT, NEVER = 97, 12, 97
PROMPTS = [[(7 * n + 3 * k) % VOCABULARY for k in range(3 + 5 * n % 17)] for n in range(11)]


def random_causal():
    """A random model whose answers wander: its output layer is not its embedding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3}
        heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape, **heads))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    install(model)
    return model.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def causal():
    return random_causal()


def answers(causal, way, *, end=NEVER, limit=LIMIT, **options):
    with torch.inference_mode():
        return answer_greedily(causal, PROMPTS, limit=limit, end=end, pad=0, way=way, **options)


@pytest.mark.parametrize("most", [1, 2, 3, 64])
@pytest.mark.parametrize("prefill", [1, 2048])
def test_slots_give_the_answers_of_batches(causal, monkeypatch, most, prefill) -> None:
    """A token that answers meet at different lengths ends them, so that slots change hands."""
    monkeypatch.setattr(greedy, "SLOTS_ON_CPU", most)
    monkeypatch.setattr(greedy, "PREFILL_TOKENS", prefill)
    free = answers(causal, "batched")
    lengths = {t: len({a.index(t) for a in free if t in a}) for a in free for t in a}
    end = max(lengths, key=lengths.get)
    expected = answers(causal, "batched", end=end)

    assert lengths[end] > 2
    assert answers(causal, "in slots") == free
    assert answers(causal, "in slots", end=end) == expected
    assert answers(causal, "in slots", limit=1) == [answer[:1] for answer in free]


def test_batches_of_any_size_give_the_same_answers(causal) -> None:
    assert answers(causal, "batched", batch=4) == answers(causal, "batched")


def test_a_slot_that_is_free_is_taken_at_once(causal, monkeypatch) -> None:
    """With as many tokens in all, no pass but the last ones has a free slot."""
    monkeypatch.setattr(greedy, "SLOTS_ON_CPU", 4)
    passes = []

    def watched(given):
        passes.append(int(given.slot_of.max()) + 1)
        return original(given=given)

    original = causal.forward
    monkeypatch.setattr(causal, "forward", watched)
    answers(causal, "in slots")
    n_prompts = len(PROMPTS)

    assert max(passes) == 4
    assert len(passes) < 3 + LIMIT * -(-n_prompts // 4)  # and not one batch after the other


def test_prompts_that_wait_join_together(causal, monkeypatch) -> None:
    """Not before two of four slots are free, or all that wait have room."""
    monkeypatch.setattr(greedy, "SLOTS_ON_CPU", 4)
    monkeypatch.setattr(greedy, "JOINING_SHARE", 2)
    joined = []

    def watched(given):
        joined.extend([len(given.last_at)] * (given.sequences is not None))
        return original(given=given)

    free = answers(causal, "batched")
    end = max((t for a in free for t in a), key=lambda t: sum(t in a for a in free))
    original = causal.forward
    monkeypatch.setattr(causal, "forward", watched)
    answers(causal, "in slots", end=end)

    assert joined[0] == 4
    assert sum(joined) == len(PROMPTS)
    assert min(joined[:-1]) >= 2


OPENING = [5, 6, 7, 8]


@pytest.mark.parametrize("most", [2, 3, 64])
def test_an_opening_that_prompts_share_is_computed_once(causal, monkeypatch, most) -> None:
    """Some do not have it, one is nothing else; the answers are those of batches."""
    monkeypatch.setattr(greedy, "SLOTS_ON_CPU", most)
    asked = [OPENING + prompt if n % 4 else prompt for n, prompt in enumerate(PROMPTS)]
    asked.append(OPENING)
    tokens = []

    def watched(given):
        tokens.extend([len(given.ids)] * (given.sequences is not None))
        return original(given=given)

    original = causal.forward
    with torch.inference_mode():
        options = {"limit": LIMIT, "end": NEVER, "pad": 0}
        expected = answer_greedily(causal, asked, way="batched", **options)
        monkeypatch.setattr(causal, "forward", watched)
        found = answer_greedily(causal, asked, way="in slots", **options)
    n_sharing = sum(len(p) > 4 and p[:4] == OPENING for p in asked)

    assert opening_of(asked) == OPENING
    assert found == expected
    assert sum(tokens) < sum(map(len, asked))
    if most == 64:
        assert sum(tokens) == sum(map(len, asked)) - 4 * (n_sharing - 1)


@pytest.mark.parametrize(
    ("prompts", "opening"),
    [
        ([], []),
        ([[1, 2, 3]], []),
        ([[1, 2], [3, 4]], []),
        ([[1, 2], [1, 2]], [1]),  # a prompt has a token of its own
        ([[1, 2, 3, 4], [1, 2, 3, 5], [1, 6], [1, 7]], [1, 2, 3]),  # spares 3, as [1] does
        ([[1, 2, 3, 4], [1, 2, 3, 5], [1, 6], [1, 7], [1, 8]], [1]),
    ],
)
def test_the_opening_spares_most(prompts, opening) -> None:
    assert opening_of(prompts) == opening


def test_rows_beyond_packed_attention_are_batched(causal, monkeypatch) -> None:
    monkeypatch.setattr(causal, "longest_packed_row", 20)
    monkeypatch.setattr(greedy, "_in_slots", lambda *_, **__: pytest.fail("too long for slots"))

    assert len(answers(causal, "in slots")) == len(PROMPTS)


def test_a_cache_takes_what_was_reckoned(causal) -> None:
    slots = Slots(5, 30, torch.device("cpu"))
    with torch.inference_mode():
        causal(given=slots.first_pass(0, PROMPTS[:2]))
    taken = sum(tensor.nbytes for pair in slots._kept.values() for tensor in pair)

    assert taken == 5 * 30 * token_bytes(causal.config, 4)


@pytest.mark.parametrize(
    ("width", "value_bytes", "device", "expected"),
    [
        (300, 4, "cpu", 38),  # 46,080 bytes a token: 13.8 MB a slot of 512 MiB
        (100, 4, "cpu", 64),
        (10**6, 4, "cpu", 1),
        (512, 2, "cuda", 256),
    ],
)
def test_slots_are_as_many_as_the_budget_holds(width, value_bytes, device, expected) -> None:
    config = SimpleNamespace(
        num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576
    )

    of_token = token_bytes(config, value_bytes)

    assert n_slots(of_token, width=width, device=device) == expected


@pytest.fixture
def adapted():
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(random_causal(), config).eval()
    fuse_adapters(model)
    return model


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_merged_adapters_leave_the_weights_bit_for_bit(adapted) -> None:
    x = torch.randn(3, 48)
    layer = adapted.get_base_model().model.layers[0].self_attn.q_proj
    before, expected = state(adapted), layer(x)
    calls = []
    layer.lora_A["default"].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad(), merged_adapters(adapted):
        merged = layer(x)
        plain = torch.nn.functional.linear(x, layer.base_layer.weight)
    n_calls = len(calls)
    after = state(adapted)

    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-5)
    assert n_calls == 0
    assert not torch.allclose(merged, plain)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(layer(x), expected)
    assert not layer.merged


def test_weights_come_back_where_an_answer_fails(adapted) -> None:
    before = state(adapted)
    with pytest.raises(RuntimeError, match="no memory"), merged_adapters(adapted):
        raise RuntimeError("no memory")

    assert all(torch.equal(tensor, before[name]) for name, tensor in state(adapted).items())


def test_weights_in_16_bits_are_not_merged(adapted) -> None:
    """Half of what an adapter adds would be lost in rounding."""
    adapted.to(torch.bfloat16)
    layer = adapted.get_base_model().model.layers[0].self_attn.q_proj
    with merged_adapters(adapted):
        assert not layer.merged
    adapted.float()
    with torch.autocast("cpu", torch.bfloat16), merged_adapters(adapted):
        assert not layer.merged


def drawn(causal, pick, way="batched", **options):
    options = {"limit": LIMIT, "end": NEVER, "pad": 0, "batch": 4} | options
    with torch.inference_mode():
        return draw_answers(causal, PROMPTS, pick=pick, way=way, **options)


@pytest.mark.parametrize("way", ["in slots", "batched", "one at a time"])
def test_picking_the_likeliest_token_is_answering_greedily(causal, way) -> None:
    assert drawn(causal, likeliest, way) == answers(causal, "batched")


def test_seed_is_honoured_by_what_is_drawn(causal) -> None:
    def once(seed):
        return drawn(causal, by_chance(seed=seed, temperature=2.0, top_p=0.95))

    assert once(1) == once(1) != once(2)


def test_of_the_likeliest_tokens_the_fewest_that_reach_a_share_are_drawn() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4000, 1)
    for top_p, kept in ((0.4, [0]), (0.5, [0]), (0.6, [0, 1]), (1.0, [0, 1, 2, 3])):
        found = by_chance(seed=1, temperature=1.0, top_p=top_p)(logits)
        shares = torch.bincount(found[:, 0], minlength=4) / len(found)
        expected = torch.tensor([0.5, 0.3, 0.15, 0.05])[kept]

        assert torch.nonzero(shares)[:, 0].tolist() == kept
        assert torch.allclose(shares[kept], expected / expected.sum(), atol=0.03)


def test_a_low_temperature_draws_the_likeliest_token() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.5]]).repeat(50, 1)
    found = by_chance(seed=1, temperature=0.01, top_p=1.0)(logits)

    assert found[:, 0].tolist() == [1] * 50
