"""Malformed data give correct pairs, or one clear error with the rows or the line.

Every case is one file. What it must become stands beside it: the pairs, each as
(prompt, chosen, rejected), with the rows that are counted out; or the message.
"""

import gzip
import io
import json

import pytest

from study.config.recipe import DataConfig
from study.data.dialogues import SIDES
from study.data.load import load_pairs
from study.data.splits import split_pairs
from study.data.turns import ROLES
from study.errors import DataError


def config(path, **fields):
    values = {
        "name": str(path),
        "revision": "",
        "split": "train",
        "train_pairs": 0,
        "validation_pairs": 1,
        "test_pairs": 1,
        "max_prompt_tokens": 96,
        "max_length_tokens": 160,
        "seed": 42,
        "max_dropped_share": 0.6,
    }
    return DataConfig(**(values | fields))


def turn(role, content):
    return {"role": role, "content": content}


def chat(*turns):
    """Return a whole dialogue from words such as ``user: Hi``."""
    return [turn(*text.split(": ", 1)) for text in turns]


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(**columns):
    import pyarrow as pa
    from pyarrow import parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def arrow(values, kind):
    import pyarrow as pa

    return pa.array(values, kind)


GOOD = {"prompt": "1 + 1?", "chosen": "Two.", "rejected": "Three."}
PAIR = ("1 + 1?", "Two.", "Three.")
TALK = {"chosen": chat("user: 1 + 1?", "assistant: Two.")} | {
    "rejected": chat("user: 1 + 1?", "assistant: Three.")
}
LINE, MORE = json.dumps(GOOD), json.dumps(GOOD | {"prompt": "2 + 2?"})
CSV = "prompt,chosen,rejected\r\n1 + 1?,Two.,Three.\r\n"
ROLE_NAMES = ", ".join(ROLES)
BIG = "0123456789" * 1_000_000


def without(side, last):
    """Return a dialogue row whose one side ends in another turn."""
    return TALK | {side: [*TALK[side][:-1], last]}


# Of each: the file's name, its content, its pairs, and its other rows by reason.
READ = {
    "UTF-8 with a byte order mark": ("a.jsonl", b"\xef\xbb\xbf" + LINE.encode(), [PAIR], {}),
    "a byte order mark before a CSV header": (
        "a.csv",
        b"\xef\xbb\xbf" + CSV.encode(),
        [PAIR],
        {},
    ),
    "CRLF and blank lines": ("a.jsonl", f"\r\n{LINE}\r\n \r\n".encode(), [PAIR], {}),
    "line separators inside a string": (
        "a.jsonl",
        json.dumps(GOOD | {"chosen": "a\u2028b\x85c\x0cd"}, ensure_ascii=False).encode(),
        [("1 + 1?", "a\u2028b\x85c\x0cd", "Three.")],
        {},
    ),
    "right-to-left text": (
        "a.jsonl",
        json.dumps(GOOD | {"chosen": "\u202eשתיים\u202c", "rejected": "ثلاثة"}).encode(),
        [("1 + 1?", "\u202eשתיים\u202c", "ثلاثة")],
        {},
    ),
    "zero-width characters inside words": (
        "a.jsonl",
        jsonl(GOOD | {"chosen": "Tw\u200bo.", "rejected": "Two."}),
        [("1 + 1?", "Tw\u200bo.", "Two.")],
        {},
    ),
    "an answer of zero-width characters alone": (
        "a.jsonl",
        jsonl(GOOD, GOOD | {"rejected": "\u200b\u2060\ufeff"}),
        [PAIR],
        {"empty answer in rejected": (2,)},
    ),
    "a prompt of zero-width characters alone": (
        "a.jsonl",
        jsonl(GOOD, GOOD | {"prompt": "\u200d"}),
        [PAIR],
        {"empty prompt, or an empty turn in it": (2,)},
    ),
    "lone surrogates": (
        "a.jsonl",
        jsonl(GOOD, GOOD | {"chosen": "\ud83d"}, GOOD | {"prompt": "\udc00?"}),
        [PAIR],
        {
            "chosen is not text (lone surrogates)": (2,),
            "prompt is not text (lone surrogates)": (3,),
        },
    ),
    "a surrogate pair written as two escapes": (
        "a.jsonl",
        LINE.replace("Two.", "\\ud83d\\ude00").encode(),
        [("1 + 1?", "😀", "Three.")],
        {},
    ),
    "an escaped NUL is a character of the text": (
        "a.jsonl",
        LINE.replace("Two.", "a\\u0000b").encode(),
        [("1 + 1?", "a\0b", "Three.")],
        {},
    ),
    "empty and blank strings": (
        "a.jsonl",
        jsonl(
            GOOD,
            GOOD | {"chosen": ""},
            GOOD | {"rejected": "\n\t"},
            GOOD | {"prompt": ""},
            GOOD,
        ),
        [PAIR],
        {
            "empty answer in chosen": (2,),
            "empty answer in rejected": (3,),
            "empty prompt, or an empty turn in it": (4,),
            "duplicate pair": (5,),
        },
    ),
    "numbers, booleans and objects for text": (
        "a.jsonl",
        jsonl(
            *[GOOD | {"prompt": f"{i}?"} for i in range(3)],
            *[GOOD | {"chosen": bad} for bad in (7, 1.5, True, float("nan"))],
            GOOD | {"rejected": {"text": "x"}},
        ),
        [(f"{i}?", "Two.", "Three.") for i in range(3)],
        {"chosen is not text": (4, 5, 6, 7), "missing role in rejected": (8,)},
    ),
    "nulls at every depth": (
        "a.jsonl",
        jsonl(
            TALK,
            TALK | {"chosen": None},
            without("chosen", None),
            without("chosen", {}),
            without("chosen", {"role": "assistant"}),
            without("chosen", turn(None, "Two.")),
            TALK | {"chosen": chat("user: 2 + 2?", "assistant: 4")}
            | {"rejected": chat("user: 2 + 2?", "assistant: 5")},
        ),
        [PAIR, ("2 + 2?", "4", "5")],
        {
            "missing chosen": (2, 5),
            "a turn in chosen is not a role with a content": (3,),
            "missing role in chosen": (4, 6),
        },
    ),
    "chosen equal to rejected but for the space around it": (
        "a.jsonl",
        jsonl(GOOD, GOOD | {"rejected": "\n Two. "}),
        [PAIR],
        {"chosen equals rejected": (2,)},
    ),
    "prompts that differ between the sides": (
        "a.jsonl",
        jsonl(TALK, TALK | {"chosen": chat("user: 1 + 1 ?", "assistant: Two.")}),
        [PAIR],
        {"prompts differ between the sides": (2,)},
    ),
    "a side with one turn more": (
        "a.jsonl",
        jsonl(TALK, TALK | {"chosen": [*TALK["chosen"], *TALK["chosen"]]}),
        [PAIR],
        {"prompts differ between the sides": (2,)},
    ),
    "unknown roles": (
        "a.jsonl",
        jsonl(TALK, without("rejected", turn("critic", "x")), without("chosen", turn("", "x"))),
        [PAIR],
        {
            f"unknown role in rejected (known: {ROLE_NAMES})": (2,),
            f"unknown role in chosen (known: {ROLE_NAMES})": (3,),
        },
    ),
    "roles in capitals and other words": (
        "a.jsonl",
        jsonl({side: [turn("Human", "1 + 1?"), turn("GPT", GOOD[side])] for side in SIDES}),
        [PAIR],
        {},
    ),
    "a system turn between other turns, last, alone, or twice": (
        "a.jsonl",
        jsonl(
            {side: [turn("system", "Be brief."), *TALK[side]] for side in SIDES},
            {
                side: [*chat("user: Hi", "system: Be brief."), *TALK[side]] for side in SIDES
            },
            {side: [*TALK[side], turn("system", "Bye.")] for side in SIDES},
            {side: [turn("system", "Be brief."), TALK[side][-1]] for side in SIDES},
            {side: [*chat("system: A.", "system: B."), *TALK[side]] for side in SIDES},
            TALK,
        ),
        [("system: Be brief.\n1 + 1?", "Two.", "Three."), PAIR],
        {
            "a system turn that is not the first turn": (2, 5),
            "last turn is not the assistant's": (3,),
            "turn before the answer is not the user's": (4,),
        },
    ),
    "an empty system turn is no turn": (
        "a.jsonl",
        jsonl({side: [turn("system", " "), *TALK[side]] for side in SIDES}),
        [PAIR],
        {},
    ),
    "two forms in one file": (
        "a.jsonl",
        jsonl(
            GOOD,
            {"prompt": "2 + 2?"} | TALK,
            GOOD | {"prompt": "3 + 3?"},
            {"instruction": "Add 4 and 4.", "chosen": "8", "rejected": "9"},
        ),
        [PAIR, ("3 + 3?", "Two.", "Three.")],
        {
            "a row of another form: whole dialogues (prompt, chosen, rejected)": (2,),
            "a row of another form: Alpaca-style (instruction, input, chosen, rejected)": (4,),
        },
    ),
    "a first row of another form": (
        "a.jsonl",
        jsonl(TALK | {"prompt": "x"}, GOOD, GOOD | {"prompt": "2 + 2?"}),
        [PAIR, ("2 + 2?", "Two.", "Three.")],
        {"a row of another form: whole dialogues (prompt, chosen, rejected)": (1,)},
    ),
    "transcripts among plain texts": (
        "a.jsonl",
        jsonl(
            {"chosen": "1 + 1? Two.", "rejected": "1 + 1? Three."},
            {side: f"\n\nHuman: 2 + 2?\n\nAssistant: {side}" for side in SIDES},
            {"chosen": "2 + 2? Two.", "rejected": "2 + 2? Three."},
        ),
        [PAIR, ("2 + 2?", "Two.", "Three.")],
        {"a row of another form: HH-RLHF transcripts (chosen, rejected)": (2,)},
    ),
    "turns written as text inside JSON": (
        "a.jsonl",
        jsonl(GOOD, GOOD | {"chosen": json.dumps(TALK["chosen"])}),
        [PAIR],
        {"chosen is a list of turns inside a text; write it as a list": (2,)},
    ),
    "turns printed by Python": (
        "a.jsonl",
        jsonl(GOOD, GOOD | {"chosen": str(TALK["chosen"])}),
        [PAIR],
        {"chosen is a list of turns printed by Python; write it as JSON": (2,)},
    ),
    "an answer that is JSON of its own": (
        "a.csv",
        b'prompt,chosen,rejected\n1 + 1?,"{""value"": 2}","[{""value"": 3}]"\n',
        [("1 + 1?", '{"value": 2}', '[{"value": 3}]')],
        {},
    ),
    "rows that are no records": (
        "a.jsonl",
        jsonl(GOOD, 7, "x", None, [GOOD], GOOD | {"prompt": "2?"}, GOOD | {"prompt": "3?"}),
        [PAIR, ("2?", "Two.", "Three."), ("3?", "Two.", "Three.")],
        {"not a record with one value per column": (2, 3, 4, 5)},
    ),
    "a transcript without the assistant": (
        "a.jsonl",
        jsonl(
            {side: f"\n\nHuman: 1 + 1?\n\nAssistant: {GOOD[side]}" for side in SIDES},
            dict.fromkeys(SIDES, "\n\nHuman: 1 + 1?"),
        ),
        [PAIR],
        {"transcript has no assistant turn": (2,)},
    ),
    "CSV with quotes, commas and line breaks": (
        "a.csv",
        b'prompt,chosen,rejected\n"1, or\r\n2?","say ""one""",two\n',
        [("1, or\r\n2?", 'say "one"', "two")],
        {},
    ),
    "CSV rows of another width": (
        "a.csv",
        (CSV + "a,b\r\na,b,c,d\r\n2?,b,c\r\n").encode(),
        [PAIR, ("2?", "b", "c")],
        {"not a record with one value per column": (2, 3)},
    ),
    "CSV with old line ends": ("a.csv", CSV.replace("\r\n", "\r").encode(), [PAIR], {}),
    "ten megabytes in one word": (
        "a.jsonl",
        jsonl({"chosen": f"Say {BIG}a", "rejected": f"Say {BIG}b"}),
        [("Say", f"{BIG}a", f"{BIG}b")],
        {},
    ),
    "ten megabytes of space before an answer": (
        "a.csv",
        f"prompt,chosen,rejected\n1 + 1?,{' ' * 10_000_000}Two.,Three.\n".encode(),
        [("1 + 1?", " " * 10_000_000 + "Two.", "Three.")],
        {},
    ),
    "a second byte order mark, where files were joined": (
        "a.jsonl",
        f"{LINE}\n\ufeff{MORE}".encode(),
        [PAIR, ("2 + 2?", *PAIR[1:])],
        {},
    ),
    "CSV with semicolons": ("a.csv", CSV.replace(",", ";").encode(), [PAIR], {}),
    "a table with tabs and quotes that are none": (
        "a.tsv",
        b'prompt\tchosen\trejected\n1 + 1?\t"Two" it is\tThree, "no\n',
        [("1 + 1?", '"Two" it is', 'Three, "no')],
        {},
    ),
    "rows inside an object": ("a.json", f'{{"v": 1, "data": [{LINE}]}}'.encode(), [PAIR], {}),
    "Parquet with lists of one text": (
        "a.parquet",
        lambda: parquet(prompt=["1 + 1?"], chosen=[["Two."]], rejected=[["Three."]]),
        [PAIR],
        {},
    ),
    "a file named .gz that is not compressed": ("a.jsonl.gz", LINE.encode(), [PAIR], {}),
    "a compressed file without .gz": ("a.jsonl", gzip.compress(LINE.encode()), [PAIR], {}),
    "Parquet with dictionary, large and null types": (
        "a.parquet",
        lambda: parquet(
            prompt=arrow(["1 + 1?"], None).dictionary_encode(),
            chosen=arrow(["Two."], "large_string"),
            rejected=arrow(["Three."], "string"),
            system=arrow([None], "null"),
        ),
        [PAIR],
        {},
    ),
    "Parquet with lists of nulls": (
        "a.parquet",
        lambda: parquet(
            chosen=[TALK["chosen"], [None]], rejected=[TALK["rejected"], TALK["rejected"]]
        ),
        [PAIR],
        {"a turn in chosen is not a role with a content": (2,)},
    ),
}  # fmt: skip

REFUSED = {
    "UTF-16 with a mark": ("a.jsonl", LINE.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "UTF-16 without a mark": ("a.jsonl", LINE.encode("utf-16-le"), "line 1: a NUL byte"),
    "UTF-32": ("a.jsonl", LINE.encode("utf-32-be"), "line 1: a NUL byte"),
    "latin-1": (
        "a.jsonl",
        (LINE + "\n" + LINE.replace("Two", "Zwölf")).encode("latin-1"),
        "line 2: not UTF-8 text; save it as UTF-8",
    ),
    "latin-1 in CSV": ("a.csv", (CSV + "é,b,c").encode("latin-1"), "line 3: not UTF-8"),
    "surrogates written as bytes": (
        "a.jsonl",
        LINE.replace("Two", "\ud800").encode("utf-8", "surrogatepass"),
        "line 1: not UTF-8",
    ),
    "a raw NUL byte": ("a.jsonl", f"{LINE}\n{MORE}\0".encode(), "line 2: a NUL byte"),
    "NUL bytes in CSV": ("a.csv", (CSV + "a,\0,c").encode(), "line 3: a NUL byte"),
    "broken JSON in the middle": (
        "a.jsonl",
        f"{LINE}\n{LINE[:30]}\n{MORE}\n".encode(),
        "line 2: not JSON .Expecting value",
    ),
    "a list broken in the middle": (
        "a.json",
        f"[\n{LINE},\n{LINE},,\n{MORE}\n]".encode(),
        "line 3: not JSON",
    ),
    "two records on one line": ("a.jsonl", f"{LINE} {LINE}".encode(), "line 1: not JSON .Extra"),
    "a key with two values": (
        "a.jsonl",
        f'{LINE}\n{LINE[:-1]}, "chosen": "Four."}}'.encode(),
        "line 2: not JSON .key 'chosen' twice",
    ),
    "JSON with a comment": ("a.json", f"// rows\n[{LINE}]".encode(), "line 1: not JSON"),
    "two lists of rows inside an object": (
        "a.json",
        f'{{"train": [{LINE}], "test": [{LINE}]}}'.encode(),
        "several lists of records .train, test.",
    ),
    "nesting without end": ("a.jsonl", b'{"chosen": ' + b"[" * 100_000, "line 1: not JSON"),
    "a number without end": ("a.jsonl", b'{"chosen": ' + b"9" * 5_000 + b"}", "line 1: not JSON"),
    "an open quote in CSV": ("a.csv", (CSV + '"a,b,c\r\n').encode(), "line 3: not CSV"),
    "a quote that ends too soon": ("a.csv", (CSV + '"a" b,c,d\r\n').encode(), "line 3: not CSV"),
    "a column twice": ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "names a column twice"),
    "gzip cut short": ("a.jsonl.gz", gzip.compress(LINE.encode())[:-9], "cannot read .*download"),
    "gzip altered": (
        "a.jsonl.gz",
        gzip.compress(LINE.encode())[:-8] + b"\0" * 8,
        "cannot read .*CRC",
    ),
    "gzip inside gzip": (
        "a.jsonl.gz",
        gzip.compress(gzip.compress(LINE.encode())),
        "line 1: a NUL byte",
    ),
    "numbers in every row": ("a.jsonl", jsonl(GOOD | {"chosen": 1}), "chosen .int.*no known form"),
    "Parquet with bytes for text": (
        "a.parquet",
        lambda: parquet(prompt=[b"1 + 1?"], chosen=[b"Two."], rejected=[b"Three."]),
        "chosen .bytes.*no known form",
    ),
    "Parquet with maps for turns": (
        "a.parquet",
        lambda: parquet(
            **{
                side: arrow([[("role", "user"), ("content", side)]], _map_type()) for side in SIDES
            }
        ),
        "a turn in chosen is not a role with a content: 1 .row 1",
    ),
    "Parquet that holds text of another encoding": (
        "a.parquet",
        lambda: parquet(
            prompt=["x"], chosen=arrow([b"\xff"], "binary").view("string"), rejected=["y"]
        ),
        "cannot read .* as Parquet.*write it again",
    ),
    "Parquet with the columns twice": (
        "a.parquet",
        lambda: _twice(["1 + 1?"], ["Two."], ["Four."], ["Three."]),
        "names a column twice",
    ),
    "Parquet cut short": ("a.parquet", lambda: parquet(**TALK)[:-20], "as Parquet"),
    "more rows dropped than allowed": (
        "a.jsonl",
        jsonl(GOOD, *[GOOD | {"chosen": ""}] * 3),
        "3 of 4 rows .*\n  empty answer in chosen: 3 .rows 2, 3, 4.\n.*max_dropped_share",
    ),
}  # fmt: skip


def _map_type():
    import pyarrow as pa

    return pa.map_(pa.string(), pa.string())


def _twice(prompt, *answers):
    import pyarrow as pa
    from pyarrow import parquet as pq

    columns = [pa.array(values) for values in (prompt, *answers)]
    sink = io.BytesIO()
    names = ["prompt", "chosen", "chosen", "rejected"]
    pq.write_table(pa.Table.from_arrays(columns, names=names), sink)
    return sink.getvalue()


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content() if callable(content) else content)
    return path


def plain(pair):
    prompt = "\n".join(
        message.content if message.role == "user" else f"{message.role}: {message.content}"
        for message in pair.prompt
    )
    return (prompt, pair.chosen[0].content, pair.rejected[0].content)


def test_there_are_as_many_cases_as_promised():
    assert len(READ) + len(REFUSED) >= 40


@pytest.mark.parametrize("case", READ)
def test_malformed_data_give_the_right_pairs_and_count_every_other_row(tmp_path, case):
    name, content, pairs, dropped = READ[case]

    loaded = load_pairs(config(written(tmp_path, name, content), max_dropped_share=0.95))

    assert [plain(pair) for pair in loaded.pairs] == pairs
    assert loaded.dropped == dropped
    assert loaded.n_rows == len(pairs) + sum(map(len, dropped.values()))


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_data_give_one_error_that_says_where(tmp_path, case):
    name, content, message = REFUSED[case]
    path = written(tmp_path, name, content)

    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        load_pairs(config(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5_000, "a/" * 3_000 + "b.jsonl", "a\0b.jsonl", "\ud800"])
def test_a_name_that_no_file_can_have_is_one_error(name):
    with pytest.raises(DataError, match="no file or folder"):
        load_pairs(config(name))


def test_near_copies_of_a_prompt_never_stand_on_two_sides_of_a_split(tmp_path):
    copies = [
        "What is É?",
        "what is e\u0301?",
        "What\u200b  is é?",
        "ＷＨＡＴ is É?",
        "\ufeffWhat\nis é?",
    ]
    rows = [GOOD | {"prompt": text, "chosen": f"{i}"} for i, text in enumerate(copies)]
    rows += [GOOD | {"prompt": f"Number {i}?"} for i in range(20)]
    loaded = load_pairs(config(written(tmp_path, "a.jsonl", jsonl(*rows))))

    for seed in range(20):
        splits = split_pairs(loaded.pairs, config("x", seed=seed, validation_pairs=5, test_pairs=5))
        with_copies = [
            name
            for name in ("train", "validation", "test")
            if any(pair.chosen[0].content.isdecimal() for pair in getattr(splits, name))
        ]
        assert len(with_copies) == 1
