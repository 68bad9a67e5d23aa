"""What others compute for an arm: TRL 1.16's trainers, and the authors' formulas.

Each oracle takes a PEFT model with PEFT's and transformers' own layers, whose
trained weights are ``start``, moves it to ``now`` and returns the loss of the
pairs there, with its graph.

The trainers of TRL that read a reference copy it when they are made, as a second
adapter. They leave the rows of trained tokens as they are in the base (they look
for names with ``.default.`` in them, and these end in ``.default``) and round both
adapters of a quantised model to bfloat16: here both are set to what they should be.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from exact import SETTINGS, Weights, mismatched, padded_logps, set_weights, weights_set
from torch import Tensor

from study.engine.encoded import Encoded
from study.losses import PairLogps


class Case(NamedTuple):
    """What an oracle is asked."""

    model: Any
    pairs: list[Encoded]
    start: Weights
    now: Weights
    tokenizer: Any
    folder: Path
    """For what a trainer wants to write."""
    pad: int
    prompt_nll: bool = True
    """Whether the NLL of SFT and ORPO covers the prompt."""


def orpo(case: Case) -> Tensor:
    """`ORPOTrainer`, whose NLL always covers the prompt."""
    from trl.experimental.orpo import ORPOTrainer

    assert case.prompt_nll
    trainer = _without_init(ORPOTrainer, beta=SETTINGS["orpo"]["beta"], padding_value=case.pad)
    set_weights(case.model, case.now)
    return trainer.get_batch_loss_metrics(case.model, padded_batch(case.pairs, case.pad))[0]


def cpo(case: Case) -> Tensor:
    """`CPOTrainer` as it is."""
    return _cpo(case, loss_type="sigmoid", beta=SETTINGS["cpo"]["beta"])


def simpo(case: Case) -> Tensor:
    """`CPOTrainer` with ``cpo_alpha = 0``, or it were CPO-SimPO; it takes γ, not γ/β."""
    beta, ratio = SETTINGS["simpo"].values()
    return _cpo(case, loss_type="simpo", beta=beta, simpo_gamma=ratio * beta, cpo_alpha=0.0)


def _cpo(case: Case, **options: Any) -> Tensor:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    config = CPOConfig(str(case.folder), report_to="none", use_cpu=True, bf16=False, **options)
    names = ("loss_type", "beta", "simpo_gamma", "cpo_alpha", "label_smoothing", "alpha")
    taken = {name: getattr(config, name) for name in names}
    trainer = _without_init(CPOTrainer, pad_token_id=case.pad, **taken)
    set_weights(case.model, case.now)
    return trainer.get_batch_loss_metrics(case.model, padded_batch(case.pairs, case.pad))[0]


def dpo(case: Case) -> Tensor:
    """`DPOTrainer` as it is."""
    return _dpo(case, loss_type=["sigmoid"], beta=SETTINGS["dpo"]["beta"])


def ipo(case: Case) -> Tensor:
    """`DPOTrainer` with the loss of IPO, which takes averages over tokens."""
    return _dpo(case, loss_type=["ipo"], beta=SETTINGS["ipo"]["beta"])


def _dpo(case: Case, **options: Any) -> Tensor:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    trainer = _made(DPOTrainer, DPOConfig, case, rows, **options)
    fields = ("prompt_ids", "chosen_ids", "rejected_ids")
    examples = [{field: list(getattr(p, field)) for field in fields} for p in case.pairs]
    return _loss_now(trainer, case, trainer.data_collator(examples))


def kto(case: Case) -> Tensor:
    """`KTOTrainer` on pairs taken apart as it does: all chosen answers, then all rejected.

    Its mismatched answers are those of the row before, which makes them both answers
    of the pair before.
    """
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    rows = Dataset.from_dict(
        {"prompt": ["a", "d"], "completion": ["b", "c"], "label": [True, False]}
    )
    trainer = _made(KTOTrainer, KTOConfig, case, rows, **SETTINGS["kto"])
    examples = [
        {"prompt_ids": list(p.prompt_ids), "completion_ids": list(answer_ids), "label": label}
        for label, answers in ((True, "chosen_ids"), (False, "rejected_ids"))
        for p, answer_ids in ((p, getattr(p, answers)) for p in case.pairs)
    ]
    for example, before in zip(examples, [examples[-1], *examples[:-1]], strict=True):
        example["KL_completion_ids"] = before["completion_ids"]
    return _loss_now(trainer, case, trainer.data_collator(examples))


def sft(case: Case) -> Tensor:
    """`SFTTrainer` on the chosen answers."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]]})
    trainer = _made(SFTTrainer, SFTConfig, case, rows)
    padded = padded_batch(case.pairs, case.pad)
    ids, mask = padded["chosen_input_ids"], padded["chosen_attention_mask"]
    labels = ids.masked_fill(mask == 0, -100) if case.prompt_nll else padded["chosen_labels"]
    return _loss_now(trainer, case, {"input_ids": ids, "attention_mask": mask, "labels": labels})


TRL: dict[str, Callable[[Case], Tensor]] = {
    "sft": sft,
    "orpo": orpo,
    "dpo": dpo,
    "ipo": ipo,
    "kto": kto,
    "simpo": simpo,
    "cpo": cpo,
}
"""TRL's trainer for each loss."""


def authors_simpo(case: Case) -> Tensor:
    """SimPO as princeton-nlp/SimPO has it in ``simpo_trainer.py`` (commit 15c4ff8)."""
    beta, ratio = SETTINGS["simpo"].values()
    logps = _now(case)
    chosen = logps.chosen_sum / logps.chosen_tokens
    rejected = logps.rejected_sum / logps.rejected_tokens
    return (1 + (-beta * (chosen - rejected - ratio)).exp()).log().mean()


def authors_kto(case: Case) -> Tensor:
    """KTO as ContextualAI/HALOs has it in ``trainers.py`` (commit 031a524), equal weights."""
    beta = SETTINGS["kto"]["beta"]
    mixed = mismatched(case.pairs)
    with torch.no_grad(), weights_set(case.model, case.start):
        then, mixed_then = (_both(_logps(case, some)) for some in (case.pairs, mixed))
    set_weights(case.model, case.now)
    with torch.no_grad():
        divergence = (_both(_logps(case, mixed)) - mixed_then).mean().clamp(min=0)
    gained = _both(_logps(case, case.pairs)) - then
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(len(case.pairs)).to(gained)
    return (1 - 1 / (1 + (-beta * signs * (gained - divergence)).exp())).mean()


AUTHORS: dict[str, Callable[[Case], Tensor]] = {"simpo": authors_simpo, "kto": authors_kto}
"""The formulas of the authors' code, over the slow twin's log-probabilities."""


def padded_batch(pairs: Sequence[Encoded], pad: int) -> dict[str, Tensor]:
    """Return pairs as the collators of TRL's ORPO and CPO hand them to their trainers."""
    batch = {}
    for side in ("chosen", "rejected"):
        rows = [[*p.prompt_ids, *getattr(p, f"{side}_ids")] for p in pairs]
        width = max(map(len, rows))
        labels = [
            [-100] * p.n_prompt + list(getattr(p, f"{side}_ids")) + [-100] * (width - len(r))
            for p, r in zip(pairs, rows, strict=True)
        ]
        batch[f"{side}_input_ids"] = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
        batch[f"{side}_attention_mask"] = torch.tensor(
            [[1] * len(r) + [0] * (width - len(r)) for r in rows]
        )
        batch[f"{side}_labels"] = torch.tensor(labels)
    return batch


def exact_head(model: Any, **_: Any) -> None:
    """Stand in for TRL's ``add_fused_lm_head``, which rounds to float32."""
    original = model.forward

    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return original(*args, labels=labels, **kwargs)
        logits = original(*args, **kwargs).logits[:, :-1]
        counted = labels[:, 1:] != -100
        chosen = labels[:, 1:].clamp(min=0)[..., None]
        logps = F.log_softmax(logits, -1).gather(-1, chosen)[..., 0] * counted
        nothing = torch.zeros_like(logps.detach())
        return SimpleNamespace(
            log_probs=logps,
            label_mask=counted,
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
        )

    model.forward = forward


def _without_init(trainer_class: type, **fields: Any) -> Any:
    """Return a trainer with what its loss needs; TRL's experimental ones."""
    trainer: Any = trainer_class.__new__(trainer_class)
    trainer.is_encoder_decoder, trainer.aux_loss_enabled = False, False
    trainer.accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda value: value
    )
    for name, value in fields.items():
        setattr(trainer, name, value)
    return trainer


def _made(trainer_class: type, config_class: type, case: Case, rows: Any, **options: Any) -> Any:
    """Return a trainer as a script makes it, its model at the start."""
    set_weights(case.model, case.start)
    config = config_class(
        str(case.folder), report_to="none", use_cpu=True, bf16=False, max_length=None, **options
    )
    trainer: Any = trainer_class(
        model=case.model, args=config, train_dataset=rows, processing_class=case.tokenizer
    )
    trainer.data_collator.pad_token_id = case.pad
    held = dict(trainer.model.named_parameters())
    for name, value in case.start.items():
        reference = name.replace(".default", ".ref")
        if reference != name and reference in held:
            held[reference].data = value.clone()
    return trainer


def _loss_now(trainer: Any, case: Case, batch: dict[str, Tensor]) -> Tensor:
    for name, value in case.now.items():
        trainer.model.get_parameter(name).data = value.clone()
    loss: Tensor = trainer.compute_loss(trainer.model, batch)
    return loss


def _now(case: Case) -> PairLogps:
    set_weights(case.model, case.now)
    return _logps(case, case.pairs)


def _logps(case: Case, pairs: list[Encoded]) -> PairLogps:
    return padded_logps(case.model, pairs, prompt_nll=False)


def _both(logps: PairLogps) -> Tensor:
    assert logps.rejected_sum is not None
    return torch.cat([logps.chosen_sum, logps.rejected_sum])
