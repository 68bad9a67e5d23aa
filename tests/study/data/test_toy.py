"""The toy language: distinct prompts, right answers, the same for the same seed."""

import itertools

import pytest

from study.config.recipe import load_recipe
from study.data.splits import split_pairs
from study.data.toy import FAMILIES, N_PAIRS, questions, toy_pairs
from study.errors import ConfigError
from study.model import toy


def test_seed_is_honoured() -> None:
    assert toy_pairs(seed=1, n_pairs=200) == toy_pairs(seed=1, n_pairs=200)
    assert toy_pairs(seed=1, n_pairs=200) != toy_pairs(seed=2, n_pairs=200)


def test_thousands_of_distinct_prompts_in_at_least_six_families() -> None:
    pairs = toy_pairs(seed=42)
    prompts = {pair.prompt[0].content for pair in pairs}

    assert len(prompts) == len(pairs) == N_PAIRS >= 4000
    assert len({pair.source for pair in pairs}) == len(FAMILIES) >= 6


def test_no_prompt_is_shared_between_splits() -> None:
    config = load_recipe("tiny-llama").data
    splits = split_pairs(toy_pairs(seed=config.seed), config)
    prompts = [
        {pair.prompt for pair in part} for part in (splits.train, splits.validation, splits.test)
    ]

    assert len(splits.train) == config.train_pairs
    assert all(not a & b for a, b in itertools.combinations(prompts, 2))


def test_chosen_answers_are_right_and_brief_and_rejected_ones_differ() -> None:
    pairs = toy_pairs(seed=5, n_pairs=500)
    wordy = [pair for pair in pairs if len(pair.rejected[0].content) > 30]

    assert all(pair.chosen[0].content.lower() == f"{pair.answer}.".lower() for pair in pairs)
    assert all(pair.chosen != pair.rejected for pair in pairs)
    assert 0.4 < len(wordy) / len(pairs) < 0.6


def test_answers_are_right() -> None:
    asked = {}
    for question in itertools.islice(questions(seed=9), 20_000):
        asked.setdefault(question.family, {})[question.text] = question

    def answers(family: str, text: str) -> set[str]:
        return {q.right for t, q in asked[family].items() if text in t}

    assert answers("addition", "What is three plus four?") == {"seven"}
    assert answers("day", "Which day comes before Monday?") == {"Sunday"}
    assert answers("opposite", "the opposite of hot?") == {"cold"}
    assert answers("kind", "What is a trout?") == {"a fish"}
    assert answers("more", "Which is more, two or nine?") == {"nine"}
    assert answers("count", "here: fig fig fig?") == {"three"}
    for question in asked["order"].values():
        listed = question.text.partition(" in ")[2].partition("?")[0].split(", ")
        assert question.right == listed[0 if "first" in question.text else 2]
    for question in asked["colour"].values():
        thing = question.text.partition("colour is the ")[2].partition("?")[0]
        assert f"he {thing} is {question.right} and" in question.text or (
            f"the {thing} is {question.right}." in question.text
        )


def test_the_usual_mistake_is_never_the_right_answer() -> None:
    assert all(q.right != q.mistake for q in itertools.islice(questions(seed=4), 5000))


def test_plain_text_mixes_right_and_wrong_answers_and_knows_no_chat_format() -> None:
    texts = list(itertools.islice(toy.plain_texts(seed=1), 3000))
    text = "".join(texts)

    assert "<|" not in text
    assert text.count("or maybe something else") > 100
    brief = sum(len(text.splitlines()[-1]) < 20 for text in texts)
    assert 0.5 < brief / len(texts) < 0.9


@pytest.mark.parametrize("shape", list(toy.SHAPES))
def test_bases_have_at_most_a_million_and_a_half_parameters(shape) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(toy.base_config(shape))

    assert model.num_parameters() <= 1_500_000


def test_the_two_bases_have_the_shapes_of_their_models() -> None:
    smollm2, llama = toy.base_config("smollm2"), toy.base_config("llama")

    assert smollm2.num_key_value_heads == smollm2.num_attention_heads
    assert llama.num_key_value_heads < llama.num_attention_heads


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(ConfigError, match="toy bases are smollm2, llama"):
        toy.base_config("gpt")


def test_pretraining_is_identical_for_the_same_seed(tmp_path, monkeypatch) -> None:
    from study.records.files import checksum

    monkeypatch.setitem(toy.PRETRAINING, "steps", 3)
    monkeypatch.setitem(toy.PRETRAINING, "tokenizer_texts", 500)
    sums = []
    for name in ("a", "b"):
        monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / name))
        folder = toy.ensure_base("llama")
        sums.append([checksum(folder / file) for file in ("model.safetensors", "tokenizer.json")])
        assert toy.ensure_base("llama") == folder

    assert sums[0] == sums[1]
    assert not list((tmp_path / "a").glob("tmp*"))
