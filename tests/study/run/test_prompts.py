"""One answer per distinct prompt, scored against all its references."""

import json

import pyarrow.parquet as pq
import pytest

from study.data.pairs import Message, make_pair
from study.data.tokens import encode
from study.model.adapter import fresh_adapter
from study.run.answers import generate
from study.run.evaluate import evaluate_run
from study.run.prompts import Asked, distinct_prompts, score_answer


def pair_of(prompt: str, chosen: str, rejected: str, answer: str | None = None):
    return make_pair(
        prompt=(Message("user", prompt),),
        chosen=(Message("assistant", chosen),),
        rejected=(Message("assistant", rejected),),
        source="test",
        answer=answer,
    )


def asked_of(*pairs) -> Asked:
    return Asked(first=None, pairs=pairs)


def encode_all(pairs, tokenizer):
    return [encode(pair, tokenizer, max_prompt_tokens=96, max_length_tokens=160) for pair in pairs]


def test_pairs_that_share_a_prompt_are_one_question(toy_tokenizer) -> None:
    pairs = [
        pair_of("What colour is snow?", "white", "red"),
        pair_of("What colour is coal?", "black", "red"),
        pair_of("What colour is snow?", "it is white", "blue"),
    ]
    by_id = {pair.example_id: pair for pair in pairs}
    snow, coal = distinct_prompts(encode_all(pairs, toy_tokenizer.tokenizer), by_id)

    assert snow.first.example_id == pairs[0].example_id
    assert snow.pairs == (pairs[0], pairs[2])
    assert coal.pairs == (pairs[1],)


def test_an_answer_that_another_pair_rejects_is_no_reference() -> None:
    best, middle, worst = "white", "it is grey", "red"
    ranking = asked_of(pair_of("?", best, middle), pair_of("?", middle, worst))
    circle = asked_of(pair_of("?", best, middle), pair_of("?", middle, best))

    assert ranking.references == (best,)
    assert circle.references == (best, middle)


def test_an_answer_counts_against_the_nearest_reference_and_any_known_answer() -> None:
    asked = asked_of(
        pair_of("?", "It is white.", "Red.", answer="it is white"),
        pair_of("?", "Snow has no colour.", "Red.", answer="snow has no colour"),
    )
    right, wrong = (score_answer(asked, text) for text in ("Snow has no colour", "Red"))

    assert [right[name] for name in ("rouge1", "rougeL", "exact_match")] == [1.0, 1.0, 1.0]
    assert [wrong[name] for name in ("rouge1", "rougeL", "exact_match")] == [0.0, 0.0, 0.0]


def test_reasoning_is_not_compared_but_its_repetition_counts() -> None:
    asked = asked_of(pair_of("?", "<think>\nFrance, so</think>\n\nIt is Paris.", "Rome."))
    scores = score_answer(asked, "It is Paris.", reasoning="so so so so")

    assert scores["rougeL"] == 1.0
    assert scores["exact_match"] is None
    assert scores["distinct_2"] == 4 / 6


@pytest.fixture
def shared_workbench(workbench):
    """The small workbench, with two more pairs on the prompts of its first two."""
    pairs = [workbench.pairs[one.example_id] for one in workbench.test[:2]]
    more = [
        make_pair(
            prompt=pair.prompt,
            chosen=(Message("assistant", "it is another one"),),
            rejected=pair.rejected,
            source=pair.source,
        )
        for pair in pairs
    ]
    workbench.pairs |= {pair.example_id: pair for pair in more}
    encoded = encode_all(more, workbench.base.tokenizer)
    workbench.test = [*workbench.test[:2], *encoded, *workbench.test[2:]]
    fresh_adapter(workbench.base, workbench.recipe.adapter, seed=0)
    return workbench


def test_a_prompt_is_answered_once_however_many_pairs_share_it(shared_workbench, tmp_path) -> None:
    scores = evaluate_run(shared_workbench, folder=tmp_path)
    rows = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    texts = [json.loads(line) for line in (tmp_path / "generations.jsonl").read_text().splitlines()]

    answered = [row["rougeL"] is not None for row in rows]
    assert answered == [True, True, False, False, *[True] * 4, *[False] * 10]
    assert [text["example_id"] for text in texts] == [
        row["example_id"] for row, known in zip(rows, answered, strict=True) if known
    ]
    assert len({text["prompt"] for text in texts}) == 6
    assert [len(text.get("references", ["one"])) for text in texts] == [2, 2, 1, 1, 1, 1]
    assert scores["distinct_2"] == pytest.approx(sum(row["distinct_2"] or 0 for row in rows) / 6)


def test_the_number_of_answers_counts_prompts(shared_workbench) -> None:
    test = shared_workbench.test

    assert len(generate(shared_workbench, test[:5])) == 3
    assert len(generate(shared_workbench, test, limit=4)) == 4
    assert generate(shared_workbench, test, limit=0) == []


def test_reasoning_is_kept_beside_the_answer_that_is_scored(workbench, monkeypatch) -> None:
    tokenizer = workbench.base.tokenizer
    pair = workbench.pairs[workbench.test[0].example_id]
    perfect = pair.chosen[0].content
    ids = tokenizer(f"<think>\n\n</think>\n\n{perfect}", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr("study.run.answers.continue_prompts", lambda wb, pairs: [ids])
    (answer,) = generate(workbench, workbench.test[:1])

    assert answer["rouge1"] == answer["rougeL"] == 1.0
    assert answer["response_tokens"] == len(ids)
    assert answer["row"]["reasoning"].startswith("<think>")
    assert answer["row"]["text"] == answer["row"]["reference"] == perfect
