"""Per-example scores on held-out pairs: log-probabilities, generation, ROUGE.

Greedy decoding under the chat template; ROUGE compares the *response* alone
with the chosen answer. Corpus figures are means of the rows written here.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from study.data import Pair
from study.engine import pack, pair_logps
from study.losses import log_odds
from study.records import EXAMPLES, GENERATIONS, write_bytes, write_jsonl
from study.tokens import Encoded, end_of_turn
from study.workbench import Workbench

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


def evaluate_run(workbench: Workbench, *, folder: Path) -> dict[str, float]:
    """Score the test split with the current adapter; write rows, return means.

    Writes ``examples.parquet``, a row per test pair, and ``generations.jsonl``.
    """
    pairs = workbench.test
    columns = score_pairs(workbench, pairs)
    answered = pairs[: workbench.recipe.evaluation.generated_answers]
    answers = generate(workbench, answered)
    blank = [None] * (len(pairs) - len(answered))
    for name in ("response_tokens", "ended", *ROUGE_TYPES, "exact_match"):
        columns[name] = [answer[name] for answer in answers] + blank
    write_bytes(folder / EXAMPLES, _parquet(columns))
    write_jsonl(folder / GENERATIONS, (_generation(workbench, a) for a in answers))
    return {**preference_scores(columns), **_generation_scores(answers)}


def score_validation(workbench: Workbench) -> dict[str, float]:
    """Score the validation split with the current adapter."""
    return preference_scores(score_pairs(workbench, workbench.validation))


def validation_rouge(workbench: Workbench) -> float:
    """Return the mean ROUGE-L of answers to validation prompts."""
    answered = workbench.validation[: workbench.recipe.evaluation.generated_answers]
    return _generation_scores(generate(workbench, answered))["rougeL"]


def score_pairs(workbench: Workbench, pairs: Sequence[Encoded]) -> dict[str, list[Any]]:
    """Return log-probability sums and token counts of both answers, by column.

    Rows stand in the order of ``pairs``; what they are batched with does not
    change them beyond rounding.
    """
    model = workbench.base.model.eval()
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].n_tokens, reverse=True)
    rows: list[tuple[float, ...]] = [()] * len(pairs)
    with torch.inference_mode(), workbench.base.precision():
        for indices in _chunks(order, workbench.recipe.evaluation.batch_pairs):
            batch = pack([pairs[i] for i in indices], rejected=True, prompt_nll=False)
            logps = pair_logps(model, to_device(batch, workbench.device))
            assert logps.rejected_sum is not None
            sums = torch.stack([logps.chosen_sum, logps.rejected_sum], dim=1).tolist()
            for i, row in zip(indices, sums, strict=True):
                rows[i] = tuple(row)
    return {
        "example_id": [pair.example_id for pair in pairs],
        "cluster_id": [pair.cluster_id for pair in pairs],
        "source": [pair.source for pair in pairs],
        "chosen_logp_sum": [row[0] for row in rows],
        "chosen_tokens": [len(pair.chosen_ids) for pair in pairs],
        "rejected_logp_sum": [row[1] for row in rows],
        "rejected_tokens": [len(pair.rejected_ids) for pair in pairs],
    }


def preference_scores(columns: dict[str, list[Any]]) -> dict[str, float]:
    """Return corpus means of what `score_pairs` measured.

    ``nll`` is the corpus value of the chosen answers, nats over tokens; the
    others are means over pairs of per-token means.
    """
    chosen_sum, chosen_tokens, rejected_sum, rejected_tokens = (
        torch.tensor(columns[f"{side}_{kind}"], dtype=torch.float64)
        for side in ("chosen", "rejected")
        for kind in ("logp_sum", "tokens")
    )
    chosen, rejected = chosen_sum / chosen_tokens, rejected_sum / rejected_tokens
    odds = log_odds(chosen, rejected)
    margin = chosen - rejected
    return {
        "nll": -float(chosen_sum.sum() / chosen_tokens.sum()),
        "lor": float(torch.nn.functional.softplus(-odds).mean()),
        "log_odds": float(odds.mean()),
        "margin": float(margin.mean()),
        "accuracy": float(((margin.sign() + 1) / 2).mean()),
        "chosen_logps": float(chosen.mean()),
        "rejected_logps": float(rejected.mean()),
    }


def generate(workbench: Workbench, pairs: Sequence[Encoded]) -> list[dict[str, Any]]:
    """Answer the pairs' prompts greedily, in length-sorted batches.

    Returns:
        In the order of ``pairs``: example id, text, tokens of the answer (its
        end of turn included), whether it ended by itself, ROUGE and exact match.
    """
    base = workbench.base
    end = end_of_turn(base.tokenizer)
    answers = []
    for pair, new in zip(pairs, continue_prompts(workbench, pairs), strict=True):
        ended = end in new
        ids = new[: new.index(end)] if ended else new
        text = base.tokenizer.decode(ids, skip_special_tokens=True)
        answers.append(
            {
                "example_id": pair.example_id,
                "text": text.strip(),
                "response_tokens": len(ids) + ended,
                "ended": ended,
                **_compare(text, workbench.pairs[pair.example_id]),
            }
        )
    return answers


def continue_prompts(workbench: Workbench, pairs: Sequence[Encoded]) -> list[list[int]]:
    """Return the greedy answer's ids to each pair's prompt, in the order of ``pairs``.

    An answer ends with its end of turn, or after ``evaluation.max_new_tokens``.
    """
    workbench.base.model.eval()
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt_ids))
    found: list[list[int]] = [[]] * len(pairs)
    for indices in _chunks(order, workbench.recipe.evaluation.batch_pairs):
        with torch.inference_mode(), workbench.base.precision():
            new = _continue(workbench, [pairs[i].prompt_ids for i in indices])
        for i, ids in zip(indices, new, strict=True):
            found[i] = ids
    return found


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors of a packed batch."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return [move(item) for item in value] if isinstance(value, list) else value

    return {name: move(value) for name, value in batch.items()}


def _continue(workbench: Workbench, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Extend a batch of prompts greedily; rows that have ended leave the batch."""
    from transformers import DynamicCache

    base, limit = workbench.base, workbench.recipe.evaluation.max_new_tokens
    end, pad = end_of_turn(base.tokenizer), base.tokenizer.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=base.device)
    starts = torch.tensor([width - len(p) for p in prompts], device=base.device)
    positions = torch.arange(width, device=base.device) - starts[:, None]
    mask = (positions >= 0).long()
    cache = DynamicCache(config=base.causal.config)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for _ in range(limit):
        logits = base.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
        going = []
        for place, (row, token) in enumerate(zip(rows, ids[:, 0].tolist(), strict=True)):
            answers[row].append(token)
            if token != end:
                going.append(place)
        if not going:
            break
        positions = positions[:, -1:] + 1
        if len(going) < len(rows):
            kept = torch.tensor(going, device=base.device)
            cache.batch_select_indices(kept)
            ids, mask, positions = ids[kept], mask[kept], positions[kept]
            rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return answers


def _compare(text: str, pair: Pair) -> dict[str, float | None]:
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(list(ROUGE_TYPES)).score(reference(pair), text)
    exact = None if pair.answer is None else float(_plain(text) == _plain(pair.answer))
    return {**{name: score.fmeasure for name, score in scores.items()}, "exact_match": exact}


def reference(pair: Pair) -> str:
    """Return the chosen answer as text."""
    return "\n".join(message.content for message in pair.chosen)


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .\n").split())


def _generation(workbench: Workbench, answer: dict[str, Any]) -> dict[str, str]:
    pair = workbench.pairs[answer["example_id"]]
    return {
        "example_id": answer["example_id"],
        "prompt": "\n\n".join(f"{m.role}: {m.content}" for m in pair.prompt),
        "reference": reference(pair),
        "text": answer["text"],
    }


def _generation_scores(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return means over the answers; a score that none of them has is left out."""
    names = ("response_tokens", "ended", *ROUGE_TYPES, "exact_match")
    known = {name: [a[name] for a in answers if a[name] is not None] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in known.items() if values}


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"response_tokens": pa.int64(), "ended": pa.bool_()}
    kinds |= dict.fromkeys((*ROUGE_TYPES, "exact_match"), pa.float64())
    table = pa.table({name: pa.array(column, kinds.get(name)) for name, column in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
