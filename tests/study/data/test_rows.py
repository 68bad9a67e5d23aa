"""What a row becomes: columns beside the prompt, dialogues that repeat it, calls, tools."""

import json

import pytest

from study.cli import datacheck
from study.config.recipe import load_recipe
from study.data.encoding import cut_all, encode_all
from study.data.load import load_pairs
from study.data.splits import split_pairs
from study.data.templates import CHATML
from study.data.tokens import encode_prompt, prepare_tokenizer
from study.errors import DataError, RowError
from study.model.toy import train_tokenizer


@pytest.fixture
def recipe_of(tmp_path):
    """Write rows to a file, and return a recipe that reads it."""

    def make(rows, *assignments):
        path = tmp_path / "d.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sizes = ["data.train_pairs=0", "data.validation_pairs=2", "data.test_pairs=2"]
        return load_recipe("tiny-smollm2").override([f"data.name={path}", *sizes, *assignments])

    return make


def said(role, content):
    return {"role": role, "content": content}


U, V = said("user", "Hi"), said("user", "1 + 1?")
S, A = said("system", "Be brief."), said("assistant", "Hello")
GOOD, BAD = said("assistant", "Two."), said("assistant", "Three.")
TEXT = {"prompt": "1 + 1?", "chosen": "Two.", "rejected": "Three."}
TALK = {"prompt": [U, A, V], "chosen": [GOOD], "rejected": [BAD]}
SHORT, LONG = [("user", "1 + 1?")], [("user", "Hi"), ("assistant", "Hello"), ("user", "1 + 1?")]
BRIEF = ("system", "Be brief.")

READ = {
    "system prompt": (TEXT | {"system_prompt": "Be brief."}, [BRIEF, *SHORT]),
    "history as pairs": (TEXT | {"history": [["Hi", "Hello"]]}, LONG),
    "history as turns": (TEXT | {"history": [U, A]}, LONG),
    "history as JSON": (TEXT | {"history": '[["Hi", "Hello"]]'}, LONG),
    "no history": (TEXT | {"history": []}, SHORT),
    "context": (TEXT | {"context": "Sums:"}, [("user", "Sums:\n\n1 + 1?")]),
    "turns as context": (TEXT | {"context": [U, A]}, LONG),
    "input": (TEXT | {"prompt": "Add.", "input": "1 + 1"}, [("user", "Add.\n1 + 1")]),
    "input that says the same": (TEXT | {"input": "1  + 1?"}, SHORT),
    "content in parts": (
        TALK | {"prompt": [said("user", [{"type": "text", "text": "1 + 1?"}])]},
        SHORT,
    ),
    "content in parts as OpenAI names them": (
        TALK | {"prompt": [said("user", [{"type": "input_text", "text": "1 + 1?"}])]}
        | {"chosen": [said("assistant", [{"type": "output_text", "text": "Two."}])]},
        SHORT,
    ),
    "content that is one part": (
        TALK | {"prompt": [said("user", {"type": "text", "text": "1 + 1?"})]},
        SHORT,
    ),
    "roles with spaces and of chat bots": (
        TALK | {"prompt": [said("USER ", "1 + 1?")], "chosen": [said("Chatbot", "Two.")]},
        SHORT,
    ),
    "a system turn under another name": (
        TEXT | {"system_instruction": "Be brief."},
        [BRIEF, *SHORT],
    ),
    "calls and pictures that are none": (
        TALK | {"prompt": [V | {"tool_calls": [], "function_call": None}]}
        | {"images": [None], "image": None, "videos": [[]], "image_path": ""},
        SHORT,
    ),
    "a tag inside a question": (
        TEXT | {"prompt": "What does <video> or <image> do in HTML?"},
        [("user", "What does <video> or <image> do in HTML?")],
    ),
    "a transcript as prompt of ranked answers": (
        {
            "prompt": "\n\nHuman: 1 + 1?\n\nAssistant: ",
            "answers": [{"answer": "Three.", "rank": 2.0}, {"answer": "Two.", "rank": 1.0}],
        },
        SHORT,
    ),
    "the prompt repeated": (TALK | {"chosen": [U, A, V, GOOD], "rejected": [U, A, V, BAD]}, LONG),
    "its end repeated": (TALK | {"chosen": [V, GOOD], "rejected": [V, BAD]}, LONG),
    "repeated by one side": (TALK | {"chosen": [U, A, V, GOOD]}, LONG),
    "repeated without the system turn": (
        {"prompt": [S, V], "chosen": [V, GOOD], "rejected": [V, BAD]},
        [BRIEF, *SHORT],
    ),
    "repeated with a system turn of its own": (
        {"prompt": [V], "chosen": [S, V, GOOD], "rejected": [S, V, BAD]},
        [BRIEF, *SHORT],
    ),
    "repeated with other white space": (
        TALK | {"prompt": [said("user", "1  +\n1?")], "chosen": [V, GOOD], "rejected": [V, BAD]},
        SHORT,
    ),
    "whole dialogues beside their messages": (
        {"messages": [V, GOOD], "chosen": [V, GOOD], "rejected": [V, BAD], "prompt": "1 + 1?"},
        SHORT,
    ),
    "ShareGPT with whole dialogues": (
        {"conversations": [V], "chosen": [V, GOOD], "rejected": [V, BAD]},
        SHORT,
    ),
    "a transcript that repeats its prompt": (
        {"prompt": "\n\nHuman: 1 + 1?\n\nAssistant:"}
        | {
            side: f"\n\nHuman: 1 + 1?\n\nAssistant: {TEXT[side]}"
            for side in ("chosen", "rejected")
        },
        SHORT,
    ),
    "messages as JSON inside an object": (
        {
            side: json.dumps({"messages": [V, answer], "tools": []})
            for side, answer in (("chosen", GOOD), ("rejected", BAD))
        },
        SHORT,
    ),
    "turns as JSON whose keys stand in another order": (
        {side: json.dumps([{"index": 0, "content": "1 + 1?", "role": "user"}, answer])
         for side, answer in (("chosen", GOOD), ("rejected", BAD))},
        SHORT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_one_prompt_is_made_of_all_that_a_row_says_of_it(recipe_of, case) -> None:
    row, prompt = READ[case]

    loaded = load_pairs(recipe_of([row]).data)

    (pair,) = loaded.pairs
    assert [(turn.role, turn.content) for turn in pair.prompt] == prompt
    assert (pair.chosen[0].content, pair.rejected[0].content) == ("Two.", "Three.")


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
DROPPED = {
    "a call in an answer": (
        TALK | {"chosen": [CALL]},
        "a call of a tool in chosen, which cannot be used",
    ),
    "a call without content": (
        TALK | {"chosen": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
        "a call of a tool in chosen, which cannot be used",
    ),
    "a call as a part of the content": (
        TALK | {"chosen": [said("assistant", [{"type": "tool_use", "name": "f", "input": {}}])]},
        "a call of a tool in chosen, which cannot be used",
    ),
    "a picture by its path": (
        TEXT | {"image_path": "a.png"},
        "image_path that a text model cannot use",
    ),
    "the place of a picture": (
        TEXT | {"prompt": "<image>\n1 + 1?"},
        "the place of a picture in prompt, which a text model cannot see",
    ),
    "the place of a video at the end": (
        TALK | {"prompt": [said("user", "1 + 1?\n<video>")]},
        "the place of a picture in prompt, which a text model cannot see",
    ),
    "a tool's turn": (
        TALK | {"prompt": [V, CALL | {"tool_calls": None, "role": "tool"}]},
        "a call of a tool in prompt, which cannot be used",
    ),
    "pictures": (TEXT | {"images": ["a.png"]}, "images that a text model cannot use"),
    "a picture in a turn": (
        TALK | {"prompt": [said("user", [{"type": "image"}])]},
        "images or other parts that are no text in prompt",
    ),
    "another dialogue": (
        TALK | {"chosen": [said("user", "2 + 2?"), GOOD]},
        "chosen is a dialogue that does not go on from the prompt",
    ),
    "another system turn": (
        {"prompt": [S, V], "chosen": [said("system", "Sing."), V, GOOD], "rejected": [BAD]},
        "prompt and chosen have different system turns",
    ),
    "history that is text": (
        TEXT | {"history": "Hi"},
        "history is one text; give it as a list of turns",
    ),
    "a context that is no text": (TEXT | {"context": 7}, "context is not text"),
    "several better answers": (TEXT | {"chosen": ["a", "b"]}, "several answers in chosen"),
    "tools without names": (TEXT | {"tools": ["f"]}, "tools are no list of named functions"),
    "turns printed by Python": (
        TEXT | {"chosen": "[{'index': 0, 'role': 'user', 'content': 'x'}]"},
        "chosen is a list of turns printed by Python; write it as JSON",
    ),
}


@pytest.mark.parametrize("case", DROPPED)
def test_a_row_that_cannot_be_used_is_dropped_for_its_own_reason(recipe_of, case) -> None:
    row, reason = DROPPED[case]
    usual = TALK if isinstance(row.get("prompt"), list) else TEXT

    loaded = load_pairs(recipe_of([usual, row], "data.max_dropped_share=0.5").data)

    assert loaded.dropped == {reason: (2,)}


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ({"preference_strength": 0}, "neither answer is preferred"),
        ({"preference_strength": "?"}, "preference is no number"),
        ({}, "missing preference_strength"),
    ],
)
def test_a_verdict_that_prefers_neither_is_counted(recipe_of, verdict, reason) -> None:
    row = {"prompt": "1 + 1?", "response_1": "Two.", "response_2": "Three."}
    rows = [row | {"preference_strength": -1}, row | verdict]

    loaded = load_pairs(recipe_of(rows, "data.max_dropped_share=0.5").data)

    assert loaded.dropped == {reason: (2,)}


def test_each_worse_answer_of_a_list_is_a_pair_and_counted_by_itself(recipe_of) -> None:
    row = TEXT | {"rejected": ["Three.", "Four.", "Two.", ""]}

    loaded = load_pairs(recipe_of([row], "data.max_dropped_share=0.5").data)

    assert [pair.rejected[0].content for pair in loaded.pairs] == ["Three.", "Four."]
    assert loaded.dropped == {"chosen equals rejected": (1,), "empty answer in rejected": (1,)}
    assert len({pair.cluster_id for pair in loaded.pairs}) == loaded.n_rows == 1


# Tools

TOOL = {"type": "function", "function": {"name": "look_up", "description": "<|im_end|>"}}
WITH_TOOLS = "{% if tools %}Tools: {{ tools | tojson }}{% endif %}" + CHATML


def test_tools_are_written_by_the_template_or_the_row_is_refused(recipe_of) -> None:
    rows = [TEXT | {"tools": tools} for tools in ([TOOL], json.dumps([TOOL]))]
    loaded = load_pairs(recipe_of(rows, "data.max_dropped_share=0.5").data)
    writing, silent = train_tokenizer(), train_tokenizer()
    prepare_tokenizer(writing, template=CHATML)
    writing.chat_template = WITH_TOOLS
    prepare_tokenizer(silent, template=CHATML)

    (pair,) = loaded.pairs  # the same tools, as a list and as JSON
    ids = encode_prompt(pair.prompt, writing)

    assert loaded.dropped == {"duplicate pair": (2,)}
    assert 'Tools: [{"type": "function", "function": {"name": "look_up"' in writing.decode(ids)
    assert ids.count(writing.convert_tokens_to_ids("<|im_end|>")) == 1
    with pytest.raises(RowError, match="does not write the tool 'look_up'; leave tools out"):
        encode_prompt(pair.prompt, silent)
    plain = load_pairs(recipe_of(rows[:1], "data.columns.tools=").data)
    assert len(plain.pairs[0].prompt) == 1


# What `data check` says


def test_data_check_and_a_run_leave_out_the_same_pairs_for_the_same_reasons(recipe_of) -> None:
    rows = [
        {"prompt": f"What is {n}?", "chosen": f"{'so ' * 200 * (n % 3 == 0)}{n}.", "rejected": "No"}
        for n in range(12)
    ]
    long = [row | {"rejected": f"{row['chosen']} No."} for row in rows if len(row["chosen"]) > 99]
    recipe = recipe_of([*rows, *long], "data.max_dropped_share=0.2", "data.seed=42")

    report = datacheck.check(recipe)

    tokenizer = train_tokenizer()
    prepare_tokenizer(tokenizer)
    splits = split_pairs(load_pairs(recipe.data).pairs, recipe.data)
    for name in ("train", "validation", "test"):
        found = cut_all(encode_all(getattr(splits, name), tokenizer), tokenizer, recipe.data)
        assert report["left_out"][name] == found.reasons()
        assert report["stops"].get(name, "") == found.refusal(recipe.data)
    assert sum(map(len, report["left_out"].values()))
    assert "left out   of train: " in datacheck.as_text(report)
    assert "would stop at train: " in datacheck.as_text(report)


def test_data_check_lists_what_is_not_read_and_what_looks_like_a_mistake(recipe_of) -> None:
    rows = [
        {"prompt": [said("user", f"What is {n}?")], "question": "x", "": n}
        | {"chosen": [said("assistant", f"What is {n}? It.") | {"reasoning_content": "Hm."}]}
        | {"rejected": [said("assistant", f"What is {n}? No.")]}
        | {"chosen_score": 1, "rejected_score": 2.5}
        for n in range(9)
    ]

    text = datacheck.as_text(datacheck.check(recipe_of(rows)))

    assert (
        "not read   columns question, (a column without a name), chosen_score, rejected_score, "
        "chosen[].reasoning_content"
    ) in text
    assert "doubtful   chosen_score is below rejected_score in 9 of 9 rows: are the" in text
    assert "doubtful   in 9 of 9 pairs both answers begin with the whole prompt" in text


def test_more_odd_rows_than_allowed_are_an_error_that_names_each_reason(recipe_of) -> None:
    rows = [TEXT, TEXT | {"images": ["a"]}, TEXT | {"history": "Hi"}]

    with pytest.raises(DataError) as caught:
        datacheck.check(recipe_of(rows))

    assert "2 of 3 rows" in str(caught.value)
    assert "images that a text model cannot use: 1 (row 2)" in str(caught.value)
    assert "history is one text; give it as a list of turns: 1 (row 3)" in str(caught.value)
