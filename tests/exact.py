"""What tests of exactness share: an adapted tiny model, two ways to compute its log-probabilities.

The engine's way is packed; the slow twin's is one padded row per answer and
``F.log_softmax``. Any arm's loss is taken from either by `loss_of`.
"""

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from study.arms import ARMS
from study.config.recipe import load_recipe
from study.engine.encoded import Encoded
from study.engine.forward import pair_logps
from study.engine.lora import restore_adapters
from study.engine.packing import pack
from study.losses import PairLogps
from study.model.adapter import fresh_adapter
from study.model.base import load_base

SETTINGS = {
    "sft": {},
    "orpo": {"beta": 0.3},
    "dpo": {"beta": 0.1},
    "ipo": {"beta": 0.5},
    "kto": {"beta": 0.2},
    "simpo": {"beta": 2.5, "gamma_beta_ratio": 0.3},
    "cpo": {"beta": 0.05},
}
"""One arm for each loss, with settings at which its gradient is far from zero."""

Weights = dict[str, Tensor]
LogpsOf = Callable[..., PairLogps]


def padded_logps(model, pairs: list[Encoded], *, prompt_nll: bool, **_: Any) -> PairLogps:
    """The slow twin: one right-padded row per side, logits of every position."""

    def side(answers: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        rows = [[*p.prompt_ids, *answer] for p, answer in zip(pairs, answers, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logps = F.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
        starts = torch.tensor([p.n_prompt - 1 for p in pairs])[:, None]
        ends = torch.tensor([len(row) - 1 for row in rows])[:, None]
        at = torch.arange(width - 1)[None]
        answer = (logps * ((at >= starts) & (at < ends))).sum(-1)
        return answer, (logps * (at < starts)).sum(-1)

    chosen, prompt = side([p.chosen_ids for p in pairs])
    rejected, _ = side([p.rejected_ids for p in pairs])
    n_prompt = torch.tensor([(p.n_prompt - 1) * prompt_nll for p in pairs])
    return PairLogps(
        prompt * prompt_nll,
        n_prompt,
        chosen,
        torch.tensor([p.n_chosen for p in pairs]),
        rejected,
        torch.tensor([p.n_rejected for p in pairs]),
    )


def packed_logps(
    model, pairs: list[Encoded], *, prompt_nll: bool = True, rejected: bool = True
) -> PairLogps:
    """The engine: each distinct token once."""
    return pair_logps(model, pack(pairs, rejected=rejected, prompt_nll=prompt_nll))


def loss_of(
    arm: str,
    model,
    pairs: list[Encoded],
    *,
    start: Weights,
    logps_of: LogpsOf = packed_logps,
    parts: list[list[Encoded]] | None = None,
    prompt_nll: bool = True,
) -> list[Tensor]:
    """Return an arm's loss of one update, as one share for each of its parts.

    Args:
        arm: Name in `SETTINGS`.
        model: As it is now.
        pairs: The whole update.
        start: The weights from which the model started: the reference.
        logps_of: Computes the log-probabilities of some pairs.
        parts: The update in micro-batches; as a whole if not given.
        prompt_nll: As a recipe says; the arm may say no.
    """
    entry = ARMS[arm]
    how = {"prompt_nll": prompt_nll and entry.prompt_nll, "rejected": entry.reads == "pair"}
    settings = dict(SETTINGS[arm])
    if entry.mismatched:
        settings["z"] = mean_mismatched_ratio(model, pairs, start=start, logps_of=logps_of)
    counts = {"n_tokens": sum(label_count(p, **how) for p in pairs), "n_pairs": len(pairs)}
    shares = []
    for part in parts or [pairs]:
        reference = None
        if entry.reference:
            with torch.no_grad(), weights_set(model, start):
                reference = logps_of(model, part, **how)
        logps = logps_of(model, part, **how)
        if reference is not None:
            logps = logps._replace(
                chosen_reference_sum=reference.chosen_sum,
                rejected_reference_sum=reference.rejected_sum,
            )
        shares.append(entry.loss(logps, **counts, **settings))
    return shares


def label_count(pair: Encoded, *, prompt_nll: bool, **_: Any) -> int:
    return pair.n_chosen + prompt_nll * (pair.n_prompt - 1)


def mean_mismatched_ratio(model, pairs: list[Encoded], *, start: Weights, logps_of: LogpsOf):
    """KTO's z: each prompt with both answers of the pair before it."""
    mixed = mismatched(pairs)
    with torch.no_grad():
        now = logps_of(model, mixed, prompt_nll=False)
        with weights_set(model, start):
            then = logps_of(model, mixed, prompt_nll=False)
    ratios = torch.cat([now.chosen_sum - then.chosen_sum, now.rejected_sum - then.rejected_sum])
    return ratios.mean().clamp(min=0)


def mismatched(pairs: list[Encoded]) -> list[Encoded]:
    return [
        pair.with_ids(pair.prompt_ids, before.chosen_ids, before.rejected_ids)
        for pair, before in zip(pairs, [pairs[-1], *pairs[:-1]], strict=True)
    ]


def gradients(model, loss: Tensor) -> Weights:
    model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert any("lora_B" in name for name in found)
    return found


def assert_same(found: Weights, expected: Weights, rtol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        scale = expected[name].abs().max().item()
        off = (value - expected[name]).abs().max().item()
        assert off <= rtol * scale, f"{name} is off by {off / scale:.1e} of its largest entry"


def weights(model) -> Weights:
    """Copy what is trained."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def set_weights(model, values: Weights) -> None:
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name).copy_(value)


@contextlib.contextmanager
def weights_set(model, values: Weights) -> Iterator[None]:
    """Compute with other weights for a while."""
    now = {name: model.get_parameter(name).data for name in values}
    for name, value in values.items():
        model.get_parameter(name).data = value
    try:
        yield
    finally:
        for name, value in now.items():
            model.get_parameter(name).data = value


def move(model, *, seed: int, by: float = 0.02) -> None:
    """Move the adapter by noise, all but the magnitudes of DoRA."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(by * noise.to(parameter))


def exact_norm(self, hidden: Tensor) -> Tensor:
    """RMSNorm in the model's own precision; transformers' rounds float64 to float32."""
    weight = self.weight + 1 if type(self).__name__.startswith("Gemma") else self.weight
    return weight * hidden * (hidden.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()


def adapted(
    model_folder,
    *,
    kind="lora",
    quantization="none",
    dtype=torch.float64,
    chat=True,
    attention="auto",
    targets=None,
    dropout=0.0,
):
    """A tiny model with an adapter that is no longer at its start."""
    recipe = load_recipe("tiny-llama")
    config = dataclasses.replace(
        recipe.model, name=str(model_folder), quantization=quantization, attention=attention
    )
    base = load_base(config, device="cpu")
    base.trained_token_ids = base.trained_token_ids if chat else ()
    if quantization == "none":
        base.model.to(dtype)
    if dtype == torch.float64:
        for module in base.model.modules():
            if type(module).__name__.endswith("RMSNorm") and "forward" not in vars(module):
                module.forward = types.MethodType(exact_norm, module)
    targets = targets or recipe.adapter.target_modules
    options = {"kind": kind, "rank": 4, "target_modules": targets, "dropout": dropout}
    adapter = dataclasses.replace(recipe.adapter, **options)
    model = fresh_adapter(base, adapter, seed=1)
    if quantization == "none":
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    move(model, seed=2)
    return SimpleNamespace(base=base, model=model.train())


def without_our_layers(model) -> None:
    """Give the layers back the forward passes that PEFT and transformers have for them."""
    restore_adapters(model)
    exact = next(model.parameters()).dtype == torch.float64
    for module in model.modules():
        if hasattr(module, "gate_proj"):
            vars(module).pop("forward", None)
        if type(module).__name__.endswith("RMSNorm"):
            vars(module).pop("forward", None)
            if exact:
                module.forward = types.MethodType(exact_norm, module)
