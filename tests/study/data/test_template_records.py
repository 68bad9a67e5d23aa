"""What a chat template does to a study: its rows, its facts, what `data check` says."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest

from study.cli import datacheck
from study.data.pairs import Message, make_pair
from study.data.templates import CHATML, mark_of_template
from study.data.tokens import prepare_tokenizer
from study.errors import DataError, ModelError, RecordError
from study.model.base import load_tokenizer
from study.model.jobs import resolved_facts
from study.model.toy import train_tokenizer
from study.model.workbench import encode_split, open_workbench
from study.records.files import RESOLVED, read_json
from study.records.folders import claim_resolved

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHATML
)
DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML


def pairs(n: int, *, with_system: int = 0):
    return [
        make_pair(
            prompt=(
                *((Message("system", "Be brief."),) if number < with_system else ()),
                Message("user", f"What is {number} plus one?"),
            ),
            chosen=(Message("assistant", f"It is {number + 1}."),),
            rejected=(Message("assistant", f"It is {number - 1}, I think."),),
            source="test",
        )
        for number in range(n)
    ]


@pytest.fixture
def base():
    tokenizer = train_tokenizer()
    prepare_tokenizer(tokenizer, template=NO_SYSTEM)
    return SimpleNamespace(tokenizer=tokenizer)


def test_a_row_that_the_template_refuses_is_left_out_and_counted(base, small_recipe) -> None:
    encoded, left_out = encode_split(pairs(40, with_system=3), base, small_recipe)

    assert len(encoded) == 37
    assert left_out == {"refused by the chat template": 3}


def test_too_many_refused_rows_are_an_error_that_names_each_reason(base, small_recipe) -> None:
    long = make_pair(
        prompt=(Message("user", "Which?"),),
        chosen=(Message("assistant", "one " * 200 + "two"),),
        rejected=(Message("assistant", "one " * 200 + "three"),),
        source="test",
    )
    with pytest.raises(DataError) as caught:
        encode_split([*pairs(8, with_system=2), long], base, small_recipe)

    first, template, truncation, last = str(caught.value).splitlines()
    assert first.startswith("3 of 9 pairs cannot be used:")
    assert "refused by the chat template: 2, e.g. pair" in template
    assert "no system role; mend these rows, or name another template" in template
    assert "useless after truncation: 1, e.g. pair" in truncation
    assert "raise data.max_length_tokens, now 160" in truncation
    assert last == "or raise data.max_dropped_share"


# Recipes


def with_model(recipe, **fields):
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **fields))


@pytest.fixture
def dated(model_folder, small_recipe, tmp_path):
    """A recipe whose model's template prints today's date."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(DATED, encoding="utf-8")
    return with_model(small_recipe, name=str(folder))


def test_a_recipe_names_template_variables_and_date(dated, tmp_path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ greeting }}" + CHATML, encoding="utf-8")
    own, no_trained = load_tokenizer(dated.model)
    chatml, trained = load_tokenizer(with_model(dated, chat_template="chatml").model)
    mine, _ = load_tokenizer(
        with_model(dated, chat_template=str(path), template_kwargs={"greeting": "Hi"}).model
    )
    chat = [{"role": "user", "content": "a"}]

    assert own.apply_chat_template(chat, tokenize=False).startswith("26 Jul 2024<|im_start|>")
    assert mine.apply_chat_template(chat, tokenize=False).startswith("Hi<|im_start|>")
    assert chatml.chat_template == CHATML
    assert (len(no_trained), len(trained)) == (0, 2)


def test_a_hostile_template_is_stopped_before_weights_are_loaded(dated, tmp_path) -> None:
    path = tmp_path / "huge.jinja"
    path.write_text("{{ 'a' * 10 ** 11 }}", encoding="utf-8")

    with pytest.raises(ModelError, match=r"huge\.jinja builds more than 200,000 characters"):
        load_tokenizer(with_model(dated, chat_template=str(path)).model)


# Fingerprints


@pytest.fixture
def facts(dated):
    bench = open_workbench(dated, device="cpu")
    other = open_workbench(with_model(dated, template_date="2026-11-26"), device="cpu")
    return resolved_facts(bench), resolved_facts(other)


def test_runs_with_other_tokens_are_refused(facts, tmp_path) -> None:
    first, other = facts
    claim_resolved(tmp_path, first)
    claim_resolved(tmp_path, first, lambda: [first])
    with pytest.raises(RecordError) as caught:
        claim_resolved(tmp_path, other)

    assert first["data"] == other["data"]
    assert "tokens.test: " in str(caught.value)
    assert ("tokens.template_date: '2024-07-26' in the records, '2026-11-26' asked for") in str(
        caught.value
    )
    with pytest.raises(RecordError, match=r"tokens\.train"):
        claim_resolved(tmp_path / "another", other, lambda: [first])


def test_records_without_fingerprints_of_tokens_are_gone_on_with(facts, tmp_path) -> None:
    first, other = facts
    old = {name: value for name, value in first.items() if name != "tokens"}
    claim_resolved(tmp_path, old)
    claim_resolved(tmp_path, first, lambda: [old])

    assert read_json(tmp_path / RESOLVED) == first
    with pytest.raises(RecordError, match=r"tokens\.train"):
        claim_resolved(tmp_path, other, lambda: [old])


# What `data check` says


@pytest.fixture
def source(tmp_path, small_recipe):
    """Write rows to a file, and return a recipe that reads it with a template."""

    def make(rows, template=CHATML):
        path = tmp_path / "d.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        own = tmp_path / "own.jinja"
        own.write_text(template, encoding="utf-8")
        recipe = with_model(small_recipe, chat_template=str(own))
        return recipe.override([f"data.name={path}", "data.max_dropped_share=0.5"])

    return make


def row(number, system=(), text="Tell me {}."):
    prompt = [*system, {"role": "user", "content": text.format(number)}]
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": f"Fact {number}."}],
        "rejected": [{"role": "assistant", "content": f"No idea, {number}."}],
    }


def test_data_check_takes_the_template_for_the_toy_language_too(small_recipe) -> None:
    recipe = with_model(small_recipe, name="toy:llama", chat_template="/absent.jinja")

    with pytest.raises(ModelError, match=r"model\.chat_template is '/absent\.jinja'"):
        datacheck.check(recipe)


def test_data_check_goes_on_past_rows_that_the_template_refuses(source) -> None:
    system = [{"role": "system", "content": "Be brief."}]
    rows = [row(number, system if number < 2 else ()) for number in range(30)]
    report = datacheck.check(source(rows, NO_SYSTEM))

    (line,) = report["refused"]
    assert line.startswith("refused by the chat template: 2, e.g. pair ")
    assert f"template   {line}" in datacheck.as_text(report)


def test_data_check_says_why_no_pair_can_be_used(source) -> None:
    refusing = CHATML + "{% if messages[0].content != 'Quetzal' %}{{ 1 / 0 }}{% endif %}"

    with pytest.raises(DataError, match="none of 8 pairs can be written as tokens: refused by"):
        datacheck.check(source([row(number) for number in range(8)], refusing))


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<|im_start|>user\nTell me {}.<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>"),
        ("<s>[INST] Tell me {}. [/INST]", "[INST]"),
        ("<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>", "<|start_header_id|>"),
        ("<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>"),
        ("Below is an instruction.\n\n### Instruction:\n{}\n", "### Instruction:"),
    ],
)
def test_data_check_flags_prompts_that_were_rendered_before(source, text, mark) -> None:
    rows = [row(number, text=text if number else "Tell me {}.") for number in range(30)]
    report = datacheck.check(source(rows))

    (line,) = report["rendered"]
    assert line.startswith(f"29 of 30 prompts carry marks of a chat template ({mark}); ")
    assert f"rendered   {line}" in datacheck.as_text(report)


@pytest.mark.parametrize("text", ["Use [brackets] < 3 | 4 >", "A user: me", "What is ### here?"])
def test_plain_prompts_are_not_flagged(text) -> None:
    assert mark_of_template(text) is None
