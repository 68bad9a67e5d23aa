"""Every arm's loss and gradients: the engine against its slow twin, TRL and the authors."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from exact import (
    SETTINGS,
    adapted,
    assert_same,
    gradients,
    loss_of,
    mean_mismatched_ratio,
    move,
    packed_logps,
    padded_logps,
    weights,
    weights_set,
    without_our_layers,
)
from golden import GOLDEN, golden_model, golden_pairs, summed_up
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import AUTHORS, TRL, Case, exact_head

from study.arms import ARMS

EVERY_LOSS = pytest.mark.parametrize("arm", SETTINGS)
TRLS = pytest.mark.filterwarnings("ignore")  # TRL's own use of transformers' old names
ADAPTERS = {
    "LoRA": {"dtype": torch.float32},
    "DoRA": {"kind": "dora", "dtype": torch.float32},
    "NF4": {"quantization": "nf4", "dtype": torch.float32},
}
FUSED_HEAD = ("sft", "dpo", "ipo", "kto")
"""Losses of trainers whose output layer does not know of trained rows of tokens."""


def moved(model):
    """Take the model's weights as its start, and move on."""
    start = weights(model)
    move(model, seed=6)  # KTO's z is then above zero
    return start


def test_there_is_an_oracle_for_every_loss() -> None:
    tested = {ARMS[arm].loss for arm in SETTINGS}

    assert tested == {arm.loss for arm in ARMS.values() if arm.loss is not None}
    assert set(TRL) == set(SETTINGS)


@EVERY_LOSS
def test_every_loss_equals_its_slow_twin_in_float64(arm, model_folder, encoded) -> None:
    model, pairs = adapted(model_folder).model, encoded[:12]
    start = moved(model)
    (fast,) = loss_of(arm, model, pairs, start=start)
    fast_gradients = gradients(model, fast)
    (slow,) = loss_of(arm, model, pairs, start=start, logps_of=padded_logps)

    assert any("trainable_tokens" in name for name in fast_gradients)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    assert_same(fast_gradients, gradients(model, slow), 1e-12)


@pytest.fixture(scope="module")
def split_model(model_folder, encoded):
    """A model that has moved, twelve pairs, and each loss's gradient of them as a whole."""
    model, pairs = adapted(model_folder).model, encoded[:12]
    start = moved(model)
    whole = {}
    for arm in SETTINGS:
        (loss,) = loss_of(arm, model, pairs, start=start)
        whole[arm] = (loss.item(), gradients(model, loss))
    return SimpleNamespace(model=model, pairs=pairs, start=start, whole=whole)


@EVERY_LOSS
@settings(max_examples=6, deadline=None, derandomize=True)
@given(cuts=st.sets(st.integers(1, 11)))
def test_any_split_into_micro_batches_gives_the_same_gradient(arm, split_model, cuts) -> None:
    model, pairs = split_model.model, split_model.pairs
    parts = [pairs[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), 12])]
    shares = loss_of(arm, model, pairs, start=split_model.start, parts=parts)
    loss, whole = split_model.whole[arm]

    assert len(shares) == len(parts)
    assert sum(share.item() for share in shares) == pytest.approx(loss, rel=1e-12)
    assert_same(gradients(model, sum(shares)), whole, 1e-12)


def test_the_divergence_that_kto_is_tested_with_is_not_cut_at_zero(split_model) -> None:
    model, pairs, start = split_model.model, split_model.pairs, split_model.start
    there = weights(model)
    forward = mean_mismatched_ratio(model, pairs, start=start, logps_of=packed_logps)
    with weights_set(model, start):
        backward = mean_mismatched_ratio(model, pairs, start=there, logps_of=packed_logps)

    assert forward > 0.05
    assert backward == 0


def test_at_the_start_losses_are_what_their_equations_say(model_folder, encoded) -> None:
    model = adapted(model_folder).model
    start, pairs = weights(model), encoded[:4]
    first = {
        arm: loss_of(arm, model, pairs, start=start)[0].item() for arm in ("dpo", "ipo", "kto")
    }

    assert first["dpo"] == pytest.approx(torch.tensor(2.0).log().item())
    assert first["ipo"] == pytest.approx((1 / (2 * SETTINGS["ipo"]["beta"])) ** 2)
    assert first["kto"] == pytest.approx(0.5)


@pytest.fixture
def make_case(model_folder, toy_tokenizer, tmp_path):
    def make(pairs, *, prompt_nll=True, checkpointing=False, **options) -> Case:
        model = adapted(model_folder, **options).model
        if checkpointing:
            causal = model.get_base_model()
            causal.activation_checkpointing_enable({"use_reentrant": False})
        tokenizer = toy_tokenizer.tokenizer
        start = moved(model)
        return Case(
            model=model,
            pairs=pairs,
            start=start,
            now=weights(model),
            tokenizer=tokenizer,
            folder=tmp_path,
            pad=tokenizer.pad_token_id,
            prompt_nll=prompt_nll,
        )

    return make


def ours(arm, case: Case):
    (loss,) = loss_of(arm, case.model, case.pairs, start=case.start, prompt_nll=case.prompt_nll)
    return loss.item(), gradients(case.model, loss)


def theirs(oracle, case: Case):
    without_our_layers(case.model)
    loss = oracle(case)
    return loss.item(), gradients(case.model, loss)


def assert_agree(found, expected, rtol: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=rtol)
    assert_same(found[1], expected[1], rtol)


@pytest.fixture
def exact_trl(monkeypatch, no_rounding):
    """TRL in float64 throughout."""
    for module in ("sft", "dpo", "kto"):
        monkeypatch.setattr(f"trl.trainer.{module}_trainer.add_fused_lm_head", exact_head)


@pytest.mark.parametrize("arm", AUTHORS)
def test_losses_agree_with_the_authors_formulas(arm, make_case, encoded) -> None:
    case = make_case(encoded[:8])
    found = ours(arm, case)

    assert_agree(found, theirs(AUTHORS[arm], case), 1e-10)


GOLDEN_VALUES = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", [row for row in GOLDEN_VALUES if ", " in row])
def test_losses_equal_what_oracles_once_computed(row) -> None:
    arm, expected = row.partition(", ")[0], GOLDEN_VALUES[row]
    model, start, _ = golden_model()
    (loss,) = loss_of(arm, model, golden_pairs(), start=start)
    gradient = gradients(model, loss)
    found = summed_up(loss, gradient)

    assert expected["settings"] == SETTINGS[arm]
    assert sorted(gradient) == GOLDEN_VALUES["parameters"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-10)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-10)
    assert found["projections"] == pytest.approx(expected["projections"], rel=1e-9, abs=1e-12)


def test_golden_values_are_kept_of_every_oracle() -> None:
    kept = {tuple(row.split(", ")) for row in GOLDEN_VALUES if ", " in row}

    assert kept == {(arm, "TRL") for arm in TRL} | {(arm, "authors") for arm in AUTHORS}


@TRLS
@pytest.mark.slow
@EVERY_LOSS
def test_losses_agree_with_trls_trainers_in_both_precisions(
    arm, make_case, trl_pairs, exact_trl
) -> None:
    single, double = (make_case(trl_pairs, dtype=dtype) for dtype in (torch.float32, torch.float64))
    found, found_exactly = ours(arm, single), ours(arm, double)
    expected = theirs(TRL[arm], double)

    assert_agree(found, expected, 1e-5)
    assert_agree(found_exactly, expected, 1e-10)


@TRLS
@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("checkpointing", [False, True])
@EVERY_LOSS
def test_losses_agree_with_trls_trainers_whatever_the_adapter(
    arm, make_case, encoded, adapter, checkpointing
) -> None:
    case = make_case(
        encoded[:8], checkpointing=checkpointing, chat=arm not in FUSED_HEAD, **ADAPTERS[adapter]
    )
    found = ours(arm, case)

    assert_agree(found, theirs(TRL[arm], case), 1e-5)


@TRLS
@pytest.mark.slow
def test_the_nll_of_answers_alone_agrees_with_trls_trainer(make_case, trl_pairs, exact_trl) -> None:
    case = make_case(trl_pairs, prompt_nll=False)
    found = ours("sft", case)

    assert_agree(found, theirs(TRL["sft"], case), 1e-10)
