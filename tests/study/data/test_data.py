"""Rows of every known form become pairs; every other row is counted."""

import csv
import dataclasses
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config.canonical import canonical_json
from study.config.recipe import DataConfig
from study.data.load import LoadedPairs, dropped_lines, load_pairs
from study.data.pairs import Message, Pair, fingerprint, make_pair
from study.data.sources import require_source
from study.data.splits import Splits, split_pairs
from study.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"


def config(name, **fields):
    values = {
        "name": str(name),
        "revision": "",
        "split": "train",
        "train_pairs": 0,
        "validation_pairs": 1,
        "test_pairs": 1,
        "max_prompt_tokens": 96,
        "max_length_tokens": 160,
        "seed": 42,
        "max_dropped_share": 0.5,
    }
    return DataConfig(**(values | fields))


def turn(role, content):
    return {"role": role, "content": content}


def dialogue(*contents):
    return [turn(("user", "assistant")[i % 2], text) for i, text in enumerate(contents)]


def write_jsonl(path, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_json(path, rows):
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def write_csv(path, rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows
    )
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_parquet(path, rows):
    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    content = sink.getvalue()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def text_rows(n, start=0):
    return [
        {"prompt": f"Question {i}?", "chosen": f"Right {i}.", "rejected": f"Wrong {i}."}
        for i in range(start, start + n)
    ]


def texts(messages):
    return [(message.role, message.content) for message in messages]


def assert_nothing_is_silent(loaded: LoadedPairs):
    numbers = [number for rows in loaded.dropped.values() for number in rows]

    assert loaded.n_rows == len(loaded.pairs) + len(numbers)
    assert len(set(numbers)) == len(numbers)
    assert all(1 <= number <= loaded.n_rows for number in numbers)


# Real data

REAL = [
    (
        "alpaca_eval_pairs.jsonl.gz",
        "whole dialogues",
        6448,
        # Three answers are one zero-width space.
        {"duplicate pair", "chosen equals rejected", "empty answer in rejected"},
    ),
    (
        "hh_rlhf_transcripts.jsonl.gz",
        "HH-RLHF",
        1800,
        {"empty answer in chosen", "prompts differ between the sides"},
    ),
    ("sharegpt_pairs.json", "ShareGPT", 300, {"duplicate pair"}),
]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED.name}")
@pytest.mark.parametrize(("file", "form", "n_rows", "reasons"), REAL)
def test_real_pairs_load_and_split_without_shared_clusters(file, form, n_rows, reasons):
    setup = config(SHARED / file, validation_pairs=40, test_pairs=40, max_dropped_share=0.02)

    loaded = load_pairs(setup)
    splits = split_pairs(loaded.pairs, setup)
    clusters = [
        {pair.cluster_id for pair in part}
        for part in (splits.train, splits.validation, splits.test)
    ]

    assert loaded.form.startswith(form)
    assert loaded.n_rows == n_rows
    assert set(loaded.dropped) == reasons
    assert_nothing_is_silent(loaded)
    assert len(splits.test) == len(splits.validation) == 40
    assert sum(map(len, clusters)) == len(set.union(*clusters))
    assert all(pair.prompt[-1].role == "user" for pair in loaded.pairs)
    assert all(pair.answer is None for pair in loaded.pairs)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED.name}")
def test_real_rows_agree_with_a_plain_reading_of_the_file():
    file = SHARED / "alpaca_eval_pairs.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    plain = Counter(
        (row["prompt"], row["chosen"][-1]["content"], row["rejected"][-1]["content"])
        for row in rows
        if row["chosen"][-1]["content"].strip() != row["rejected"][-1]["content"].strip()
        and row["rejected"][-1]["content"] != "\u200b"
    )

    loaded = load_pairs(config(file))

    assert {
        (pair.prompt[0].content, pair.chosen[0].content, pair.rejected[0].content)
        for pair in loaded.pairs
    } == set(plain)
    assert len(loaded.dropped["duplicate pair"]) == plain.total() - len(plain)
    assert {pair.source for pair in loaded.pairs} == {row["source"] for row in rows}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED.name}")
def test_real_transcripts_keep_every_turn():
    file = SHARED / "hh_rlhf_transcripts.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]

    loaded = load_pairs(config(file))
    dropped = {number for numbers in loaded.dropped.values() for number in numbers}
    kept = [row for number, row in enumerate(rows, start=1) if number not in dropped]

    for row, pair in zip(kept, loaded.pairs, strict=True):
        speakers = {"user": "Human", "assistant": "Assistant"}
        for side in ("chosen", "rejected"):
            rebuilt = "".join(
                f"{speakers[m.role]}:{m.content}" for m in (*pair.prompt, *getattr(pair, side))
            )
            assert "".join(rebuilt.split()) == "".join(row[side].split())


# Forms

PROMPT = [("user", "Hi"), ("assistant", "Hello"), ("user", "How much is 1 + 1?")]
GOOD, BAD = [("assistant", "Two, of course.")], [("assistant", "Three.")]
HISTORY = [turn(role, content) for role, content in PROMPT]
YES, NO = turn("assistant", GOOD[0][1]), turn("assistant", BAD[0][1])
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How much is 1 + 1?\n\nAssistant:"
SHORT = [("user", "1 + 1?")]
SYSTEM = ("system", "Be brief.")
A, B = "Two, of course.", "Three."

FORM_CASES = {
    "TRL text": ({"prompt": "1 + 1?", "chosen": A, "rejected": B}, "TRL preference, text (", SHORT),
    "TRL text with system": (
        {"system": "Be brief.", "prompt": "1 + 1?", "chosen": A, "rejected": B},
        "TRL preference, text (",
        [SYSTEM, *SHORT],
    ),
    "TRL implicit text": (
        {"chosen": "1 + 1? Two, of course.", "rejected": "1 + 1? Three."},
        "TRL preference, text, implicit",
        SHORT,
    ),
    "TRL conversational": (
        {"prompt": HISTORY, "chosen": [YES], "rejected": [NO]},
        "TRL preference, conversational (",
        PROMPT,
    ),
    "TRL conversational, prompt repeated": (
        {"prompt": HISTORY, "chosen": [*HISTORY, YES], "rejected": [*HISTORY, NO]},
        "TRL preference, conversational (",
        PROMPT,
    ),
    "TRL implicit conversational": (
        {"chosen": [*HISTORY, YES], "rejected": [*HISTORY, NO]},
        "TRL preference, conversational, implicit",
        PROMPT,
    ),
    "whole dialogues": (
        {"prompt": "Hi", "chosen": [*HISTORY, YES], "rejected": [*HISTORY, NO]},
        "whole dialogues",
        PROMPT,
    ),
    "prompt as text, answers as turns": (
        {"prompt": "1 + 1?", "chosen": [YES], "rejected": [NO]},
        "whole dialogues",
        SHORT,
    ),
    "HH-RLHF": ({"chosen": f"{HH} {A}", "rejected": f"{HH} {B}"}, "HH-RLHF", PROMPT),
    "HH-RLHF with the prompt apart": (
        {"prompt": HH, "chosen": f" {A}", "rejected": f" {B}"},
        "HH-RLHF",
        PROMPT,
    ),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "1 + 1?"},
            ],
            "chosen": {"from": "gpt", "value": A},
            "rejected": {"from": "gpt", "value": B},
        },
        "ShareGPT",
        [SYSTEM, *SHORT],
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1 + 1", "chosen": A, "rejected": B},
        "Alpaca",
        [("user", "Add.\n1 + 1")],
    ),
    "Alpaca with an empty input": (
        {"instruction": "1 + 1?", "input": "", "chosen": A, "rejected": B},
        "Alpaca",
        SHORT,
    ),
    "orca": (
        {"system": "Be brief.", "question": "1 + 1?", "chosen": A, "rejected": B},
        "orca",
        [SYSTEM, *SHORT],
    ),
    "orca with an empty system": (
        {"system": "", "question": "1 + 1?", "chosen": A, "rejected": B},
        "orca",
        SHORT,
    ),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet.gz"])
@pytest.mark.parametrize("case", FORM_CASES)
def test_each_form_is_recognised_and_read_alike_from_each_kind_of_file(tmp_path, case, suffix):
    row, form, prompt = FORM_CASES[case]
    write = {"jsonl": write_jsonl, "json": write_json, "csv": write_csv, "parquet": write_parquet}
    file = write[suffix.split(".")[1]](tmp_path / f"rows{suffix}", [row])

    loaded = load_pairs(config(file))

    assert loaded.form.startswith(form)
    (pair,) = loaded.pairs
    assert texts(pair.prompt) == prompt
    assert texts(pair.chosen) == GOOD
    assert texts(pair.rejected) == BAD
    assert pair.source == f"rows{suffix}"


def hub_rows(n):
    return [
        {
            "source": "Airoboros",
            "chosen": dialogue(f"Question {i}?", f"Right {i}."),
            "rejected": dialogue(f"Question {i}?", f"Wrong {i}."),
            "prompt": f"Question {i}?",
            "question": f"Question {i}?" if i % 2 else None,
        }
        for i in range(n)
    ]


def ultrafeedback_rows(n):
    return [
        {
            "prompt": row["prompt"],
            "prompt_id": f"{i:064x}",
            "chosen": row["chosen"],
            "rejected": row["rejected"],
            "messages": row["chosen"],
            "score_chosen": 8.5,
            "score_rejected": 4.0,
        }
        for i, row in enumerate(hub_rows(n))
    ]


def transcript_rows(n):
    return [
        {side: f"\n\nHuman: Question {i}?\n\nAssistant: {side}" for side in ("chosen", "rejected")}
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("rows", "form"),
    [
        (hub_rows(6), "whole dialogues"),
        (ultrafeedback_rows(6), "whole dialogues"),
        (transcript_rows(6), "HH-RLHF"),
    ],
)
@pytest.mark.parametrize("file", ["rows.parquet", "rows.jsonl.gz"])
def test_columns_of_the_hub_datasets_load(tmp_path, rows, form, file):
    write = write_parquet if file.endswith("parquet") else write_jsonl

    loaded = load_pairs(config(write(tmp_path / file, rows)))

    assert loaded.form.startswith(form)
    assert len(loaded.pairs) == 6
    assert texts(loaded.pairs[1].prompt) == [("user", "Question 1?")]


# Sources


def test_a_folder_in_the_hubs_layout_is_read_shard_by_shard(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(2):
        rows = text_rows(3, start=3 * number)
        write_parquet(tmp_path / f"data/train-0000{number}-of-00002-abc.parquet", rows)
    write_parquet(tmp_path / "data/test_prefs-00000-of-00001.parquet", text_rows(1, start=9))
    (tmp_path / "README.md").write_text("# A card")

    train = load_pairs(config(tmp_path))
    test = load_pairs(config(tmp_path, split="test_prefs"))

    assert [pair.chosen[0].content for pair in train.pairs] == [f"Right {i}." for i in range(6)]
    assert len(test.pairs) == 1
    assert train.pairs[0].source == tmp_path.name
    with pytest.raises(DataError, match=r"no split 'dev'; it has test_prefs, train"):
        load_pairs(config(tmp_path, split="dev"))
    (tmp_path / "data/train-00000-of-00002-abc.parquet").unlink()
    with pytest.raises(DataError, match="1 of 00002 shards"):
        load_pairs(config(tmp_path))


def test_saved_datasets_load(tmp_path):
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list(hub_rows(4))
    saved.save_to_disk(str(tmp_path / "one"))
    both = datasets.DatasetDict({"train_prefs": saved, "test_prefs": saved.select(range(1))})
    both.save_to_disk(str(tmp_path / "two"))

    assert len(load_pairs(config(tmp_path / "one")).pairs) == 4
    assert len(load_pairs(config(tmp_path / "two", split="test_prefs")).pairs) == 1
    with pytest.raises(DataError, match="no split 'train'; it has train_prefs, test_prefs"):
        load_pairs(config(tmp_path / "two"))


def test_the_hub_is_asked_for_id_revision_and_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = {}

    def load_dataset(name, **options):
        asked.update(options, name=name)
        return datasets.Dataset.from_list(text_rows(2))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    loaded = load_pairs(config("someone/pairs", revision="abc", split="train_prefs"))

    assert asked == {"name": "someone/pairs", "revision": "abc", "split": "train_prefs"}
    assert loaded.pairs[0].source == "someone/pairs"


def test_what_the_hub_refuses_is_a_data_error(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(name, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    with pytest.raises(DataError, match=r"cannot load someone/pairs .* no route; check id"):
        load_pairs(config("someone/pairs"))


def test_toy_pairs_know_their_answers_and_depend_on_the_seed():
    toy = load_pairs(config("toy"))

    assert toy.form == "toy"
    assert toy.n_rows == len(toy.pairs)
    assert all(pair.answer for pair in toy.pairs)
    assert toy == load_pairs(config("toy"))
    assert toy.pairs != load_pairs(config("toy", seed=1)).pairs


# Rows that cannot be used

OK = {"prompt": "1 + 1?", "chosen": A, "rejected": B}
CHAT = {"prompt": "1 + 1?", "chosen": dialogue("1 + 1?", A), "rejected": dialogue("1 + 1?", B)}
TRANSCRIPT = {"chosen": f"{HH} {A}", "rejected": f"{HH} {B}"}
BAD_ROWS = [
    (OK, {"prompt": "x", "chosen": A}, "missing rejected"),
    (OK, OK | {"prompt": None}, "missing prompt"),
    (OK, OK | {"chosen": 7}, "chosen is not text"),
    (OK, OK | {"rejected": "\ud800"}, "rejected is not text (lone surrogates)"),
    (OK, OK | {"source": "\udfff"}, "source is not text (lone surrogates)"),
    (OK, OK | {"rejected": A + " "}, "chosen equals rejected"),
    (OK, OK | {"chosen": " \n"}, "empty answer in chosen"),
    (OK, OK | {"rejected": ""}, "empty answer in rejected"),
    (OK, OK | {"prompt": " "}, "empty prompt, or an empty turn in it"),
    (OK, OK, "duplicate pair"),
    (OK, 7, "not a record with one value per column"),
    (
        OK,
        OK | {"chosen": "[{'role': 'user', 'content': 'x'}]"},
        "chosen is a list of turns printed by Python; write it as JSON",
    ),
    (CHAT, CHAT | {"chosen": dialogue("1+1?", A)}, "prompts differ between the sides"),
    (CHAT, CHAT | {"chosen": dialogue("1 + 1?")}, "last turn is not the assistant's"),
    (CHAT, CHAT | {"chosen": []}, "no turns"),
    (CHAT, CHAT | {"chosen": ["x", 7]}, "a turn in chosen is not a role with a content"),
    (CHAT, CHAT | {"chosen": [turn("user", None), YES]}, "missing chosen"),
    (CHAT, CHAT | {"chosen": [turn("user", 7), YES]}, "chosen is not text"),
    (
        CHAT,
        CHAT | {"chosen": [turn("user", [{"type": "image_url"}]), YES]},
        "images or other parts that are no text in chosen",
    ),
    (
        CHAT,
        CHAT | {"chosen": [*CHAT["chosen"], YES], "rejected": [*CHAT["chosen"], NO]},
        "turn before the answer is not the user's",
    ),
    (
        {k: CHAT[k] for k in ("chosen", "rejected")},
        {"chosen": [YES], "rejected": [NO]},
        "empty prompt, or an empty turn in it",
    ),
    (TRANSCRIPT, TRANSCRIPT | {"chosen": "Hm"}, "transcript has no assistant turn"),
    (
        TRANSCRIPT,
        TRANSCRIPT | {"chosen": f"Hi {HH} {A}"},
        "transcript does not begin with 'Human:'",
    ),
    (
        TRANSCRIPT,
        TRANSCRIPT | {"chosen": f"{HH} {A}\n\nHuman: Thanks"},
        "last turn is not the assistant's",
    ),
    (
        {"instruction": "1 + 1?", "chosen": A, "rejected": B},
        {"instruction": "So?", "history": [["a"]], "chosen": A, "rejected": B},
        "history is neither turns nor pairs of a question and its answer",
    ),
]


@pytest.mark.parametrize(
    ("good", "bad", "reason"), BAD_ROWS, ids=[f"{i}-{row[2]}" for i, row in enumerate(BAD_ROWS)]
)
def test_an_unusable_row_is_counted_under_its_reason(tmp_path, good, bad, reason):
    loaded = load_pairs(config(write_jsonl(tmp_path / "rows.jsonl", [good, bad])))

    assert loaded.dropped == {reason: (2,)}
    assert len(loaded.pairs) == 1
    assert_nothing_is_silent(loaded)
    canonical_json([dataclasses.asdict(pair) for pair in loaded.pairs]).encode()


def test_an_unknown_role_names_the_known_ones(tmp_path):
    bad = CHAT | {"chosen": [turn("critic", "x"), YES]}

    (reason,) = load_pairs(config(write_jsonl(tmp_path / "r.jsonl", [CHAT, bad]))).dropped

    assert reason.startswith("unknown role in chosen (known: system, developer, user")


def test_too_many_dropped_rows_are_an_error_with_counts_and_rows(tmp_path):
    rows = [*text_rows(10), *[OK | {"chosen": ""}] * 10, OK | {"prompt": None}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)

    with pytest.raises(DataError) as caught:
        load_pairs(config(file, max_dropped_share=0.1))

    message = str(caught.value)
    assert "11 of 21 rows" in message
    assert "empty answer in chosen: 10 (rows 11, 12, 13, 14, 15, 16, 17, 18, …)" in message
    assert "missing prompt: 1 (row 21)" in message
    assert "--set data.max_dropped_share" in message
    assert len(load_pairs(config(file, max_dropped_share=11 / 21)).pairs) == 10


def test_a_source_without_one_usable_row_is_an_error_at_any_share(tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", [OK | {"rejected": A}])

    with pytest.raises(DataError, match="chosen equals rejected: 1"):
        load_pairs(config(file, max_dropped_share=1.0))


def test_dropped_lines_put_the_most_frequent_reason_first():
    assert dropped_lines({"a": (4,), "b": (1, 2)}) == ["b: 2 (rows 1, 2)", "a: 1 (row 4)"]


# Files that cannot be read

LINE = json.dumps(OK).encode()
BROKEN = [
    ("a.jsonl", LINE + b"\n\n{broken\n" + LINE, "line 3: not JSON"),
    ("a.jsonl", LINE + b"\n" + b"[" * 200_000, "line 2: not JSON"),
    ("a.jsonl", LINE + b'\n{"chosen": ' + b"9" * 5_000 + b"}", "line 2: not JSON"),
    ("a.json", b"[\n" + LINE + b",\n" + LINE[:20], "line 3: not JSON"),
    ("a.json", b'{\n"rows": [1]\n}', "of no known form"),
    ("a.jsonl", LINE + b"\n\xff\xfe\n", "line 2: not UTF-8"),
    ("a.jsonl", LINE.decode().encode("utf-16"), "UTF-16"),
    ("a.jsonl", LINE + b"\n\0\n", "line 2: a NUL byte"),
    ("a.jsonl", b"", "has no rows"),
    ("a.json", b"[]", "has no rows"),
    ("a.csv", b"prompt,chosen,rejected\n", "has no rows"),
    ("a.csv", b'prompt,chosen,rejected\na,b,c\n"x,y,z\n', "line 3: not CSV"),
    ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "a column twice"),
    ("a.csv", b"prompt:chosen:rejected\na:b:c\n", "of no known form"),
    ("a.parquet", b"PAR1 nonsense", "as Parquet"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ("a.jsonl.gz", gzip.compress(LINE * 9)[:-9], "cannot read"),
    ("a.txt", LINE, "of no known type"),
    ("a.jsonl", b'{"prompt": "x", "completion": "y", "label": true}', "unpaired answers"),
    ("a.jsonl", b'{"prompt": "x", "completion": "y"}', "unpaired answers"),
    ("a.jsonl", b'{"query": "x", "chosen": "y", "rejected": "z"}', "of no known form"),
    ("a.jsonl", b'["x"]', r"columns \(none\)"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    BROKEN,
    ids=[f"{i}-{message}" for i, (_, _, message) in enumerate(BROKEN)],
)
def test_a_broken_file_gives_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        load_pairs(config(tmp_path / name))


@pytest.mark.parametrize("name", ["gone.jsonl", "a/b/c", "~nobody-here/x.csv", "", "../x"])
def test_a_source_that_does_not_exist_is_never_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for look in (load_pairs, require_source):
        with pytest.raises(DataError, match="no file or folder"):
            look(config(name))


def test_a_source_that_is_there_is_found_without_being_read(tmp_path):
    (tmp_path / "broken.jsonl").write_text("{")

    for name in ("toy", "mlabonne/orpo-dpo-mix-40k", tmp_path, tmp_path / "broken.jsonl"):
        require_source(config(name))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no data files"):
        load_pairs(config(tmp_path))


def test_a_byte_order_mark_crlf_and_line_separators_in_strings_are_read(tmp_path):
    row = json.dumps(OK | {"chosen": "one\u2028two\u0085three"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n\r\n")

    (pair,) = load_pairs(config(tmp_path / "a.jsonl")).pairs

    assert pair.chosen[0].content == "one\u2028two\u0085three"


def test_json_lines_in_a_json_file_are_read(tmp_path):
    assert len(load_pairs(config(write_jsonl(tmp_path / "a.json", text_rows(3)))).pairs) == 3


def test_a_csv_row_of_another_width_is_counted_and_long_fields_are_read(tmp_path):
    before = csv.field_size_limit(1000)
    (tmp_path / "a.csv").write_text(
        f"prompt,chosen,rejected\nx,{'y' * 200_000},z\nx,y\n", encoding="utf-8"
    )

    loaded = load_pairs(config(tmp_path / "a.csv"))
    after = csv.field_size_limit(before)

    assert loaded.dropped == {"not a record with one value per column": (2,)}
    assert after == 1000


# Ids, splits, fingerprints


def pair(prompt, chosen="yes", rejected="no", system=None):
    opening = (Message("system", system),) if system else ()
    return make_pair(
        prompt=(*opening, Message("user", prompt)),
        chosen=(Message("assistant", chosen),),
        rejected=(Message("assistant", rejected),),
        source="test",
    )


def test_clusters_ignore_case_spacing_system_and_later_turns():
    one = pair("What  is\nLOVE?")
    longer = (*one.prompt, Message("assistant", "x"), Message("user", "y"))
    two = make_pair(prompt=longer, chosen=one.chosen, rejected=one.rejected, source="test")

    assert pair("what is love?").cluster_id == one.cluster_id == two.cluster_id
    assert pair("What is love?", system="Sing.").cluster_id == one.cluster_id
    assert pair("What is hate?").cluster_id != one.cluster_id
    assert len({pair("what is love?").example_id, one.example_id, two.example_id}) == 3
    assert len(one.example_id) == len(one.cluster_id) == 16


def test_example_ids_change_with_each_part():
    variants = [pair("p"), pair("q"), pair("p", chosen="c"), pair("p", rejected="r")]
    variants.append(pair("p", chosen="no", rejected="yes"))

    assert len({variant.example_id for variant in variants}) == len(variants)


def test_pairs_are_frozen_and_without_dict():
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair("p").source = "other"
    assert not hasattr(pair("p"), "__dict__")


@st.composite
def clustered_pairs(draw):
    sizes = draw(st.lists(st.integers(1, 7), min_size=3, max_size=25))
    return [
        pair(f"prompt {cluster}", chosen=f"answer {i}")
        for cluster, size in enumerate(sizes)
        for i in range(size)
    ]


@settings(deadline=None, max_examples=150)
@given(
    pairs=clustered_pairs(),
    n_test=st.integers(1, 20),
    n_validation=st.integers(1, 20),
    n_train=st.integers(0, 40),
    seed=st.integers(0, 5),
    random=st.randoms(use_true_random=False),
)
def test_splits_are_exact_disjoint_and_independent_of_row_order(
    *, pairs, n_test, n_validation, n_train, seed, random
):
    setup = config(
        "x", test_pairs=n_test, validation_pairs=n_validation, train_pairs=n_train, seed=seed
    )
    shuffled = list(pairs)
    random.shuffle(shuffled)
    try:
        splits = split_pairs(pairs, setup)
    except DataError:
        largest = max(Counter(p.cluster_id for p in pairs).values())
        needed = n_test + n_validation + max(n_train, 1) + 2 * (largest - 1)
        assert len(pairs) < needed
        with pytest.raises(DataError, match="usable pairs"):
            split_pairs(shuffled, setup)
        return
    parts = (splits.train, splits.validation, splits.test)
    clusters = [{p.cluster_id for p in part} for part in parts]

    assert splits == split_pairs(shuffled, setup)
    assert len(splits.test) == n_test
    assert len(splits.validation) == n_validation
    assert n_train == 0 or len(splits.train) == n_train
    assert sum(map(len, clusters)) == len(set.union(*clusters))
    assert {p for part in parts for p in part} <= set(pairs)
    if n_train == 0:
        assert set.union(*clusters) == {p.cluster_id for p in pairs}
        assert set(splits.train) == {p for p in pairs if p.cluster_id in clusters[0]}


def test_the_seed_of_the_split_is_honoured():
    pairs = [pair(f"p{i}") for i in range(50)]

    one, same, other = (
        split_pairs(pairs, config("x", test_pairs=10, seed=seed)) for seed in (0, 0, 1)
    )

    assert one == same
    assert set(one.test) != set(other.test)


def test_test_pairs_do_not_depend_on_how_many_train_or_validate():
    pairs = [pair(f"p{i}") for i in range(50)]

    few = split_pairs(pairs, config("x", test_pairs=10, validation_pairs=2, train_pairs=5))
    many = split_pairs(pairs, config("x", test_pairs=10, validation_pairs=20))

    assert few.test == many.test


def test_too_few_pairs_say_how_many_there_are_and_what_to_set():
    with pytest.raises(DataError) as caught:
        split_pairs([pair("a"), pair("b")], config("mine.csv", train_pairs=3))

    message = str(caught.value)
    assert "mine.csv has 2 usable pairs in 2 prompt clusters" in message
    assert "1 test, 1 validation and 3 train pairs" in message
    assert "--set data.train_pairs=N" in message


def test_all_the_rest_is_at_least_one_pair_to_train_on():
    with pytest.raises(DataError, match="at least 1 train pairs"):
        split_pairs([pair("a"), pair("b")], config("x", train_pairs=0))


def test_overlapping_splits_are_refused():
    with pytest.raises(DataError, match="train and test share 1 values of cluster_id"):
        Splits(train=(pair("a"),), validation=(pair("b"),), test=(pair("A", chosen="x"),))


def test_fingerprints_follow_content_and_not_order():
    a, b = pair("a"), pair("b")

    assert fingerprint([a, b]) == fingerprint([b, a])
    assert len(fingerprint([])) == 64
    changed = [
        [a],
        [a, a],
        [dataclasses.replace(a, answer="x"), b],
        [dataclasses.replace(a, source="x"), b],
        [dataclasses.replace(a, chosen=b.prompt), b],
    ]
    assert len({fingerprint(pairs) for pairs in [[a, b], *changed]}) == len(changed) + 1


def test_pair_is_the_type_that_the_other_parts_share():
    assert [field.name for field in dataclasses.fields(Pair)] == [
        *["prompt", "chosen", "rejected", "cluster_id", "source", "example_id", "answer"]
    ]
