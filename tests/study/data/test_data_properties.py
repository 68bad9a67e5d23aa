"""Whatever pairs are written in whatever form are read back; splits keep their promises."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.config.recipe import DataConfig
from study.data.dialogues import SIDES
from study.data.forms import FORMS, forms_of
from study.data.load import load_pairs
from study.data.pairs import VISIBLE, Message, make_pair
from study.data.splits import split_pairs
from study.errors import DataError


def config(path, **fields):
    sizes = {"train_pairs": 0, "validation_pairs": 1, "test_pairs": 1, "seed": 42}
    limits = {"max_prompt_tokens": 96, "max_length_tokens": 160, "max_dropped_share": 0.5}
    return DataConfig(name=str(path), revision="", split="train", **(sizes | limits | fields))


def plain(pair):
    (prompt,) = pair.prompt
    return (prompt.content, pair.chosen[0].content, pair.rejected[0].content)


CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
WORDS = st.text(CHARACTERS, min_size=1, max_size=30)


def seen(text):
    """Tell whether a reader sees anything, and the text has no space at its ends.

    Letters are not enough: Hangul fillers are letters that leave no mark.
    """
    letters = "".join(filter(str.isalnum, text))
    return text == text.strip() and bool(VISIBLE.search(letters))


def readable(text):
    """Tell whether no form takes the text for its own marks, turns or transcripts."""
    return seen(text) and text[0] not in "[{" and "Human:" not in text and "Assistant:" not in text


TEXTS = WORDS.filter(readable)


@st.composite
def triples(draw):
    """Distinct (prompt, chosen, rejected) with answers that differ."""
    found = draw(
        st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5, unique_by=lambda t: t[0])
    )
    return [triple for triple in found if triple[1] != triple[2]] or [("Q?", "yes", "no")]


def said(role, content):
    return {"role": role, "content": content}


WRITTEN = {
    "TRL preference, text (prompt, chosen, rejected)": lambda p, c, r: {
        "prompt": p, "chosen": c, "rejected": r,
    },
    "TRL preference, conversational (prompt, chosen, rejected)": lambda p, c, r: {
        "prompt": [said("user", p)],
        "chosen": [said("assistant", c)],
        "rejected": [said("assistant", r)],
    },
    "TRL preference, conversational, implicit prompt (chosen, rejected)": lambda p, c, r: {
        "chosen": [said("user", p), said("assistant", c)],
        "rejected": [said("user", p), said("assistant", r)],
    },
    "whole dialogues (prompt, chosen, rejected)": lambda p, c, r: {
        "prompt": p,
        "chosen": [said("user", p), said("assistant", c)],
        "rejected": [said("user", p), said("assistant", r)],
    },
    "HH-RLHF transcripts (chosen, rejected)": lambda p, c, r: {
        "chosen": f"\n\nHuman: {p}\n\nAssistant: {c}",
        "rejected": f"\n\nHuman: {p}\n\nAssistant: {r}",
    },
    "ShareGPT (conversations, chosen, rejected)": lambda p, c, r: {
        "conversations": [{"from": "human", "value": p}],
        "chosen": {"from": "gpt", "value": c},
        "rejected": {"from": "gpt", "value": r},
    },
    "Alpaca-style (instruction, input, chosen, rejected)": lambda p, c, r: {
        "instruction": p, "input": "", "chosen": c, "rejected": r,
    },
    "orca (system, question, chosen, rejected)": lambda p, c, r: {
        "system": None, "question": p, "chosen": c, "rejected": r,
    },
    "axolotl (system, input, chosen, rejected)": lambda p, c, r: {
        "system": "", "input": p, "chosen": c, "rejected": r,
    },
    "axolotl (messages, chosen, rejected)": lambda p, c, r: {
        "messages": [said("user", p)],
        "chosen": said("assistant", c),
        "rejected": said("assistant", r),
    },
    "argilla (prompt, chosen_response, rejected_response)": lambda p, c, r: {
        "prompt": p, "chosen_response": c, "rejected_response": r,
    },
    "argilla (instruction, chosen_response, rejected_response)": lambda p, c, r: {
        "instruction": p, "chosen_response": c, "rejected_response": r,
    },
    "ms-swift (messages, rejected_response)": lambda p, c, r: {
        "messages": [said("user", p), said("assistant", c)], "rejected_response": r,
    },
    "ms-swift (messages, rejected_messages)": lambda p, c, r: {
        "messages": [said("user", p), said("assistant", c)],
        "rejected_messages": [said("user", p), said("assistant", r)],
    },
    "OpenAI preference (input, preferred_output, non_preferred_output)": lambda p, c, r: {
        "input": {"messages": [said("user", p)]},
        "preferred_output": [said("assistant", c)],
        "non_preferred_output": [said("assistant", r)],
    },
    "Stack Exchange (question, response_j, response_k)": lambda p, c, r: {
        "question": p, "response_j": c, "response_k": r,
    },
    "two answers and a verdict (history, human_ref_A, human_ref_B, labels)": lambda p, c, r: {
        "history": p, "human_ref_A": r, "human_ref_B": c, "labels": 0,
    },
    "two answers and a verdict (prompt, response_1, response_2, preference_strength)": (
        lambda p, c, r: {
            "prompt": p, "response_1": c, "response_2": r, "preference_strength": -2,
        }
    ),
    "two answers and a verdict (context, response1, response2, overall_preference)": (
        lambda p, c, r: {
            "context": [said("user", p)], "response1": r, "response2": c,
            "overall_preference": 3,
        }
    ),
    "two answers and a verdict (prompt, response_0, response_1, better_response_id)": (
        lambda p, c, r: {
            "prompt": p, "response_0": r, "response_1": c, "better_response_id": 1,
        }
    ),
    "two answers and a verdict (prompt, response_a, response_b, winner)": lambda p, c, r: {
        "prompt": p, "response_a": c, "response_b": r, "winner": "model_a",
    },
    "two dialogues and a verdict (conversation_a, conversation_b, winner)": lambda p, c, r: {
        "conversation_a": [said("user", p), said("assistant", r)],
        "conversation_b": [said("user", p), said("assistant", c)],
        "winner": "model_b",
    },
}  # fmt: skip
IN_LISTS = {
    "Alpaca (instruction, input, output: the better answer, then worse ones)": lambda p, c, r: {
        "instruction": p, "input": "", "output": [c, r],
    },
    "ranked answers (prompt, answers)": lambda p, c, r: {
        "prompt": p, "answers": [{"answer": r, "rank": 7}, {"answer": c, "rank": 1}],
    },
    "ranked answers (instruction, completions)": lambda p, c, r: {
        "instruction": p,
        "completions": [{"response": r, "score": 1.5}, {"response": c, "score": 8.0}],
    },
    "ranked answers (prompt, responses, scores)": lambda p, c, r: {
        "prompt": p, "responses": [c, r], "scores": [2, 1],
    },
    "ranked answers (prompt, responses, ranks)": lambda p, c, r: {
        "prompt": p, "responses": [c, r], "ranks": [1, 2],
    },
}  # fmt: skip
"""Forms with lists that are no turns, which a CSV file has no way to write."""
IMPLICIT = "TRL preference, text, implicit prompt (chosen, rejected)"


def in_jsonl(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def in_parquet(rows):
    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), sink)
    return sink.getvalue()


def in_zstandard(content):
    import pyarrow as pa

    return pa.Codec("zstd").compress(content, asbytes=True)


def in_csv(rows, delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: value
                if isinstance(value, str)
                else ""
                if value is None
                else json.dumps(value)
                for name, value in row.items()
            }
        )
    return text.getvalue().encode()


FILES = {
    "a.jsonl": in_jsonl,
    "a.jsonl.gz": lambda rows: gzip.compress(in_jsonl(rows)),
    "a.ndjson.bz2": lambda rows: bz2.compress(in_jsonl(rows)),
    "a.jsonl.xz": lambda rows: lzma.compress(in_jsonl(rows)),
    "a.jsonl.zst": lambda rows: in_zstandard(in_jsonl(rows)),
    "a.json": lambda rows: json.dumps(rows).encode(),
    "a.csv": in_csv,
    "a.csv.gz": lambda rows: gzip.compress(in_csv(rows, delimiter=";")),
    "a.tsv": lambda rows: in_csv(rows, delimiter="\t"),
    "a.parquet": in_parquet,
}


def test_every_form_is_written_here():
    assert {*WRITTEN, *IN_LISTS, IMPLICIT} == {form.name for form in FORMS}


@pytest.mark.parametrize("form", [*WRITTEN, *IN_LISTS])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(found=triples(), name=st.sampled_from(sorted(FILES)))
def test_any_pairs_in_any_form_and_file_are_read_back(tmp_path, form, found, name):
    rows = [(WRITTEN | IN_LISTS)[form](*triple) for triple in found]
    if form in IN_LISTS:
        name = "a.json" if "sv" in name else name
    (tmp_path / name).write_bytes(FILES[name](rows))

    loaded = load_pairs(config(tmp_path / name))

    assert loaded.form == form
    assert [plain(pair) for pair in loaded.pairs] == found
    assert loaded.dropped == {}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(found=triples())
def test_texts_that_share_their_beginning_are_cut_between_words(tmp_path, found):
    rows = [{"chosen": f"{p} A{c}", "rejected": f"{p} B{r}"} for p, c, r in found]
    (tmp_path / "a.jsonl").write_bytes(in_jsonl(rows))

    loaded = load_pairs(config(tmp_path / "a.jsonl"))

    assert loaded.form == IMPLICIT
    assert [plain(pair) for pair in loaded.pairs] == [(p, f"A{c}", f"B{r}") for p, c, r in found]


@settings(max_examples=200, deadline=None)
@given(
    row=st.dictionaries(
        st.sampled_from([*SIDES, "prompt", "question", "instruction", "conversations", "system"]),
        st.one_of(st.none(), st.integers(), TEXTS, st.lists(st.dictionaries(TEXTS, TEXTS))),
    )
)
def test_a_row_is_of_one_form_at_most_and_asking_twice_changes_nothing(row):
    (form,) = forms_of([row])

    assert [form, form] == forms_of([row, dict(reversed(row.items()))])
    assert form is None or form in FORMS


@settings(max_examples=100, deadline=None)
@given(
    prompts=st.lists(WORDS.filter(seen), min_size=12, max_size=40),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4)),
    seeds=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_splits_of_any_prompts_are_disjoint_exact_and_fixed_by_the_seed(prompts, sizes, seeds):
    pairs = [
        make_pair(
            prompt=(Message("user", text),),
            chosen=(Message("assistant", f"yes {number}"),),
            rejected=(Message("assistant", "no"),),
            source="x",
        )
        for number, text in enumerate(prompts)
    ]
    n_test, n_validation, n_train = sizes
    fields = {"test_pairs": n_test, "validation_pairs": n_validation, "train_pairs": n_train}
    try:
        splits = split_pairs(pairs, config("x", seed=seeds[0], **fields))
    except DataError:
        assert len({pair.cluster_id for pair in pairs}) < n_test + n_validation + max(n_train, 1)
        return
    parts = (splits.train, splits.validation, splits.test)
    clusters = [{pair.cluster_id for pair in part} for part in parts]
    near = [
        {" ".join(pair.prompt[0].content.casefold().split()) for pair in part} for part in parts
    ]

    for groups in (clusters, near):
        assert sum(map(len, groups)) == len(set.union(*groups))
    assert (len(splits.test), len(splits.validation)) == (n_test, n_validation)
    assert len(splits.train) == n_train or n_train == 0
    assert splits == split_pairs(pairs[::-1], config("x", seed=seeds[0], **fields))
    if seeds[0] == seeds[1]:
        assert splits == split_pairs(pairs, config("x", seed=seeds[1], **fields))
