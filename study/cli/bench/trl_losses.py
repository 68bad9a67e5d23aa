"""TRL's loss of a batch of pairs, by its own trainers, for a model that is there already.

DPO reads its reference from the batch on both sides, as with TRL's
``precompute_ref_log_probs``; by default TRL runs one more forward pass in each
step. A uniform model serves as the reference.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from study.cli.bench.pairs import padded_batch
from study.engine.encoded import Encoded

BETA = 0.1
"""Of ORPO and DPO."""

TrlLoss = Callable[[Any, Sequence[Encoded]], Tensor]
"""``loss(model, pairs)``, where the model is called as its trainer calls it."""


def trl_loss(loss: str, model: Any) -> TrlLoss:
    """Return what TRL computes as a loss in a step: ``orpo``, ``sft`` or ``dpo``."""
    return {"orpo": _orpo, "sft": _sft, "dpo": _dpo}[loss](model)


def uniform_logps(model: Any, lengths: Sequence[int]) -> list[float]:
    """Return log-probabilities of answers of so many tokens where all tokens are as likely."""
    return [-n * math.log(model.config.vocab_size) for n in lengths]


def trl_trainer() -> Any:
    """Return TRL's trainer for ORPO with what its loss needs, without a training loop."""
    from trl.experimental.orpo import ORPOTrainer

    trainer: Any = ORPOTrainer.__new__(ORPOTrainer)
    trainer.beta, trainer.is_encoder_decoder, trainer.aux_loss_enabled = BETA, False, False
    trainer.padding_value = 0
    trainer.accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda value: value
    )
    return trainer


def _orpo(model: Any) -> TrlLoss:  # noqa: ARG001 - the others make a trainer of it
    trainer = trl_trainer()

    def loss(called: Any, pairs: Sequence[Encoded]) -> Tensor:
        value: Tensor = trainer.get_batch_loss_metrics(called, padded_batch(pairs))[0]
        return value

    return loss


def _sft(model: Any) -> TrlLoss:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    trainer = _made(SFTTrainer, SFTConfig, model, {"input_ids": [[1, 2]], "labels": [[1, 2]]})

    def loss(called: Any, pairs: Sequence[Encoded]) -> Tensor:
        padded = padded_batch(pairs, sides=("chosen",))
        ids, mask = padded["chosen_input_ids"], padded["chosen_attention_mask"]
        labels = ids.masked_fill(mask == 0, -100)
        inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        value: Tensor = trainer.compute_loss(called, inputs)
        return value

    return loss


def _dpo(model: Any) -> TrlLoss:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = {"prompt": ["a"], "chosen": ["a"], "rejected": ["b"]}
    trainer = _made(DPOTrainer, DPOConfig, model, rows, beta=BETA)
    trainer.precompute_ref_logps = True

    def loss(called: Any, pairs: Sequence[Encoded]) -> Tensor:
        sides = ("chosen", "rejected")
        examples = [
            {"prompt_ids": list(pair.prompt_ids)}
            | {f"{side}_ids": list(getattr(pair, f"{side}_ids")) for side in sides}
            | {
                f"ref_{side}_logps": uniform_logps(model, [len(getattr(pair, f"{side}_ids"))])[0]
                for side in sides
            }
            for pair in pairs
        ]
        value: Tensor = trainer.compute_loss(called, trainer.data_collator(examples))
        return value

    return loss


def _made(trainer_class: Any, config_class: Any, model: Any, rows: Any, **options: Any) -> Any:
    """Return a trainer as a script makes it; its data are the caller's."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"a": 0, "b": 1, "<end>": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<end>")),
        eos_token="<end>",
        pad_token="<end>",
    )
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            folder, report_to="none", use_cpu=True, bf16=False, max_length=None, **options
        )
        return trainer_class(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
        )
