"""What is logged, scored and decided while a run trains."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback

from study.losses import PairLogps, log_odds, odds_ratio_loss
from study.model.workbench import Workbench
from study.records.files import append_jsonl
from study.records.layout import STEPS
from study.records.notice import is_noticed
from study.run.batches import PlannedBatches
from study.run.memory import peak_memory_bytes
from study.run.scores import initial_validation, score_validation

DIVERGED_FACTOR = 2.0
"""A validation NLL above this many times its initial value counts as diverged."""


OnValidation = Callable[[int, Mapping[str, float]], bool]
"""Called with (step, held-out scores); True stops the run."""


@dataclass
class Outcome:
    """How one training ended."""

    status: Literal["ok", "diverged", "stopped"] = "ok"
    validation: dict[str, float] = field(default_factory=dict)
    """The last held-out scores."""
    divergence: dict[str, Any] | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] | None = None
    """What an arm matched in tokens was given, see ``study.run.budget``."""
    start: dict[str, Any] | None = None
    """What the run continues, and what that cost, see ``study.run.start``."""
    parameters: dict[str, int] = field(default_factory=dict)
    out_of_memory: list[dict[str, int]] = field(default_factory=list)
    """Steps in which memory ran out, and the token budget that they went on with."""


class Watch(TrainerCallback):
    """Gathers metrics without waiting for the device, scores held-out pairs, stops."""

    def __init__(
        self,
        workbench: Workbench,
        batches: PlannedBatches,
        folder: Path | None,
        on_validation: OnValidation | None,
        first: Mapping[str, float] | None = None,
    ) -> None:
        """Watch one run; ``folder`` gets one line per logged step.

        ``first`` are the scores that it begins with, None those of the base. A run
        diverges by those of the base, whatever it begins with.
        """
        self.workbench = workbench
        self.first = first
        self.batches = batches
        self.folder = folder
        self.on_validation = on_validation
        self.outcome = Outcome()
        self.tokens = 0
        """Tokens computed up to the last log."""
        self.validation_s = 0.0
        self.noticed = False
        """Told between two steps that time runs out: stopped, with a checkpoint."""
        self.resumed: Mapping[str, Any] | None = None
        """The ``window`` of the checkpoint that a run goes on from."""
        self._rows: list[Tensor] = []
        self._logged = 0
        self._since = time.perf_counter()

    def add(self, row: Tensor) -> None:
        """Keep one update's sums as a tensor, where it is."""
        self._rows.append(row)

    def flush(
        self, step: int, logs: Mapping[str, float], add_up: Callable[[Tensor], Tensor]
    ) -> dict[str, float | None]:
        """Turn the sums since the last log into means and write them as one line.

        Args:
            step: Updates so far.
            logs: What the Trainer logs.
            add_up: Sums a tensor over the processes of a launch.
        """
        self._rows = list(add_up(torch.stack(self._rows)))
        metrics, n_tokens = _means(self._rows)
        self.tokens += n_tokens
        bad = self._first_bad_step()
        if bad is not None or not math.isfinite(logs.get("grad_norm", 0.0)):
            self._diverge(step, bad)
        else:
            self._write(
                {
                    "split": "train",
                    "step": step,
                    "loss": logs["loss"],
                    **metrics,
                    "learning_rate": logs["learning_rate"],
                    "grad_norm": logs.get("grad_norm"),
                    "tokens": n_tokens,
                    "seconds": round(time.perf_counter() - self._since, 4),
                    "peak_memory_bytes": peak_memory_bytes(self.workbench.device),
                }
            )
        self._clear(step)
        return metrics

    def window(self, add_up: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Return what was gathered since the last log, for a checkpoint to keep.

        Args:
            add_up: Sums a tensor over the processes of a launch.
        """
        rows = add_up(torch.stack(self._rows)) if self._rows else torch.empty(0)
        return {
            "logged": self._logged,
            "seconds": round(time.perf_counter() - self._since, 4),
            "dtype": str(rows.dtype).removeprefix("torch."),
            "rows": [[x if math.isfinite(x) else None for x in row] for row in rows.tolist()],
        }

    def note_memory(self, step: int) -> None:
        """Keep the token budget with which a step went on after memory ran out."""
        note = {"step": step, "microbatch_tokens": int(self.batches.microbatch_tokens)}
        self.outcome.out_of_memory.append(note)
        self._write({"split": "memory", **note})

    def recall_memory(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on with the token budget that a run had when it was interrupted."""
        for row in rows:
            if row["split"] == "memory":
                self.batches.microbatch_tokens = row["microbatch_tokens"]
                note = {name: row[name] for name in ("step", "microbatch_tokens")}
                self.outcome.out_of_memory.append(note)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the start of a run that is not resumed; else go on with its window."""
        self._clear(state.global_step)
        if self.resumed is not None:
            self._logged = self.resumed["logged"]
            self._since -= self.resumed["seconds"]
            # The sums of all processes are the main one's now.
            self._rows = [
                _row(numbers, self.resumed["dtype"], self.workbench.device)
                * int(state.is_world_process_zero)
                for numbers in self.resumed["rows"]
            ]
        if state.global_step == 0:
            self._validate(0, dict(self.first or initial_validation(self.workbench)))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score held-out pairs at the recipe's interval and at the end."""
        every = self.workbench.recipe.training.validate_every_steps
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            started = time.perf_counter()
            self._validate(state.global_step, score_validation(self.workbench))
            self.validation_s += time.perf_counter() - started
            self._since += time.perf_counter() - started
        control.should_log |= state.global_step == state.max_steps
        self.noticed = is_noticed() and state.global_step < state.max_steps
        if self.noticed:
            control.should_training_stop = True
            control.should_save |= self.folder is not None
        self._stop_if_over(control)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop as soon as a log showed a loss that is not finite."""
        self._stop_if_over(control)

    def _validate(self, step: int, scores: dict[str, float]) -> None:
        if not all(map(math.isfinite, scores.values())) or (
            scores["nll"] > DIVERGED_FACTOR * initial_validation(self.workbench)["nll"]
        ):
            self._diverge(step, self._first_bad_step())
            return
        self.outcome.validation = scores
        self._write({"split": "validation", "step": step, **scores})
        if self.on_validation is not None and self.on_validation(step, scores):
            self.outcome.status = "stopped"

    def _first_bad_step(self) -> int | None:
        """Return the first step since the last log whose loss is not finite."""
        if not self._rows:
            return None
        finite = torch.isfinite(torch.stack(self._rows)[:, 0]).tolist()
        return None if all(finite) else self._logged + finite.index(False) + 1

    def _diverge(self, step: int, bad: int | None) -> None:
        """End the run; name the pairs where one step's loss is known to be the first."""
        if self.outcome.status != "diverged":
            pairs = [] if bad is None else self.batches.update(bad - 1)
            self.outcome.status = "diverged"
            self.outcome.divergence = {
                "step": step if bad is None else bad,
                "example_ids": [pair.example_id for pair in pairs],
            }

    def _stop_if_over(self, control: Any) -> None:
        if self.outcome.status != "ok":
            control.should_training_stop = True
            control.should_save = False

    def _write(self, row: Mapping[str, Any]) -> None:
        if self.folder is not None:
            append_jsonl(self.folder / STEPS, row)

    def _clear(self, step: int) -> None:
        self._rows = []
        self._logged = step
        self._since = time.perf_counter()


METRICS = (
    *("nll", "chosen_logps", "rejected_logps", "margin", "accuracy", "log_odds", "or_loss"),
    *("chosen_change", "chosen_reward", "rejected_reward", "reward_accuracy"),
)
"""Of a logged step. The last four are relative to the start: nats per chosen token, and nats
per answer, which times beta are the implicit rewards of DPO."""


ROW_WIDTH = 1 + len(METRICS) + 3
"""Numbers kept of an update: its loss, sums of the metrics, and labels, pairs and tokens."""


def metric_sums(loss: Tensor, logps: PairLogps, n_tokens: int) -> Tensor:
    """Return a micro-batch's loss, sums of the metrics and what to divide by, (ROW_WIDTH,)."""
    with torch.no_grad():
        n_labels = (logps.prompt_tokens + logps.chosen_tokens).sum()
        sums = [logps.nll_sum, logps.chosen.sum()]
        if logps.rejected_sum is not None:
            odds = log_odds(logps.chosen, logps.rejected)
            margin = logps.chosen - logps.rejected
            accuracy = (margin.sign() + 1) / 2
            or_loss = odds_ratio_loss(logps.chosen, logps.rejected)
            sums += [x.sum() for x in (logps.rejected, margin, accuracy, odds, or_loss)]
        if logps.chosen_reference_sum is not None:
            chosen, rejected = logps.chosen_ratio, logps.rejected_ratio
            right = ((chosen - rejected).sign() + 1) / 2
            sums += [x.sum() for x in (chosen / logps.chosen_tokens, chosen, rejected, right)]
        sums += [torch.full_like(logps.nll_sum, math.nan)] * (len(METRICS) - len(sums))
        n_pairs, n_computed = (
            torch.full_like(logps.nll_sum, n) for n in (len(logps.chosen_sum), n_tokens)
        )
        return torch.stack([loss, *sums, n_labels.to(n_pairs.dtype), n_pairs, n_computed])


def _row(numbers: Sequence[float | None], dtype: str, device: torch.device) -> Tensor:
    """Return one update's sums as `metric_sums` made them, (ROW_WIDTH,)."""
    known = [math.nan if number is None else number for number in numbers]
    return torch.tensor(known, dtype=getattr(torch, dtype), device=device)


def _means(rows: Sequence[Tensor]) -> tuple[dict[str, float | None], int]:
    """Divide sums, NLL by labels and the others by pairs; return tokens computed too."""
    _, *totals, n_labels, n_pairs, n_computed = torch.stack(list(rows)).sum(dim=0).tolist()
    means = [totals[0] / n_labels, *(total / n_pairs for total in totals[1:])]
    metrics = {
        name: mean if math.isfinite(mean) else None
        for name, mean in zip(METRICS, means, strict=True)
    }
    return metrics, int(n_computed)
