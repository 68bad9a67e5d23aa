"""Per-example scores: independence of batches, generation, ROUGE of the response."""

import dataclasses
import json

import pyarrow.parquet as pq
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from study.data.tokens import end_of_turn
from study.model.adapter import fresh_adapter
from study.run.answers import continue_prompts, generate, validation_rouge
from study.run.evaluate import evaluate_run
from study.run.scores import preference_scores, score_pairs
from study.run.train import train_run


def with_batch(workbench, batch_pairs: int):
    evaluation = dataclasses.replace(workbench.recipe.evaluation, batch_pairs=batch_pairs)
    workbench.recipe = dataclasses.replace(workbench.recipe, evaluation=evaluation)
    return workbench


def test_scores_do_not_depend_on_the_batch(workbench) -> None:
    one = score_pairs(with_batch(workbench, 1), workbench.test)
    many = score_pairs(with_batch(workbench, 16), workbench.test)

    assert one["example_id"] == many["example_id"] == [p.example_id for p in workbench.test]
    for side in ("chosen", "rejected"):
        assert many[f"{side}_logp_sum"] == pytest.approx(one[f"{side}_logp_sum"], rel=1e-5)


def test_greedy_answers_do_not_depend_on_the_batch(workbench) -> None:
    one = generate(with_batch(workbench, 1), workbench.test[:6])
    many = generate(with_batch(workbench, 6), workbench.test[:6])

    assert [answer["text"] for answer in one] == [answer["text"] for answer in many]


def test_greedy_answers_are_those_of_generate(workbench, monkeypatch) -> None:
    """A token of some answers stands for the end of turn, so that rows leave the batch early."""
    fresh_adapter(workbench.base, workbench.recipe.adapter, seed=0)
    model, limit = workbench.base.model.eval(), workbench.recipe.evaluation.max_new_tokens
    cut = [
        pair.with_ids(pair.prompt_ids[: 4 + n], pair.chosen_ids, pair.rejected_ids)
        for n, pair in enumerate(workbench.test[:8])
    ]
    free = [one_by_one(model, pair, limit, end=639) for pair in cut]
    ends = [(len({ids.index(t) if t in ids else limit for ids in free}), t) for t in free[0]]
    n_lengths, end = max(ends)
    monkeypatch.setattr("study.run.answers.end_of_turn", lambda tokenizer: end)
    found = continue_prompts(with_batch(workbench, 8), cut)

    assert found == [one_by_one(model, pair, limit, end=end) for pair in cut]
    assert len({len(ids) for ids in found}) == n_lengths > 1


def one_by_one(model, pair, limit: int, *, end: int) -> list[int]:
    prompt = torch.tensor([pair.prompt_ids])
    with torch.inference_mode():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=end,
        )
    return out[0, prompt.shape[1] :].tolist()


def test_scores_of_two_pairs_by_hand() -> None:
    columns = {
        "chosen_logp_sum": [-2.0, -6.0],
        "chosen_tokens": [2, 3],
        "rejected_logp_sum": [-4.0, -2.0],
        "rejected_tokens": [2, 2],
    }
    scores = preference_scores(columns)

    assert scores["nll"] == pytest.approx(8 / 5)
    assert scores["chosen_logps"] == pytest.approx(-1.5)
    assert scores["margin"] == pytest.approx((1.0 - 1.0) / 2)
    assert scores["accuracy"] == 0.5


def test_rows_are_written_and_average_to_the_scores(workbench, tmp_path) -> None:
    train_run(workbench, arm="sft", settings={"learning_rate": 1e-2}, seed=1, folder=None)
    scores = evaluate_run(workbench, folder=tmp_path)
    rows = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    texts = [json.loads(line) for line in (tmp_path / "generations.jsonl").read_text().splitlines()]

    assert len(rows) == len(workbench.test) == 16
    assert [row["rougeL"] is not None for row in rows] == [True] * 6 + [False] * 10
    assert scores["rougeL"] == pytest.approx(sum(row["rougeL"] for row in rows[:6]) / 6)
    assert scores["nll"] == pytest.approx(
        -sum(r["chosen_logp_sum"] for r in rows) / sum(r["chosen_tokens"] for r in rows)
    )
    assert set(scores) >= {"accuracy", "margin", "lor", "ended", "exact_match", "response_tokens"}
    rouge = RougeScorer(["rougeL"]).score(texts[0]["reference"], texts[0]["text"])
    assert rows[0]["rougeL"] == pytest.approx(rouge["rougeL"].fmeasure)
    assert texts[0]["prompt"].startswith("user: ")


def test_generation_stops_at_the_end_of_turn(workbench, monkeypatch) -> None:
    end = end_of_turn(workbench.base.tokenizer)
    answers = generate(workbench, workbench.test[:4])
    limit = workbench.recipe.evaluation.max_new_tokens

    assert workbench.base.model.generation_config.eos_token_id == end
    assert all(a["ended"] or a["response_tokens"] == limit for a in answers)

    prompt = workbench.test[0]
    monkeypatch.setattr("study.run.answers.continue_prompts", lambda wb, pairs: [[5, 6, end, 7]])
    (answer,) = generate(workbench, [prompt])
    assert answer["ended"] is True
    assert answer["response_tokens"] == 3


def test_exact_match_ignores_case_and_full_stop_only(workbench, monkeypatch) -> None:
    tokenizer = workbench.base.tokenizer
    pair = workbench.pairs[workbench.test[0].example_id]

    def answer_with(text: str) -> float:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        monkeypatch.setattr("study.run.answers.continue_prompts", lambda wb, pairs: [ids])
        return generate(workbench, [workbench.test[0]])[0]["exact_match"]

    assert answer_with(f"{pair.answer.upper()}.") == 1.0
    assert answer_with(f"{pair.answer} or so") == 0.0


def test_validation_rouge_is_a_share(workbench) -> None:
    assert 0 <= validation_rouge(workbench) <= 1
