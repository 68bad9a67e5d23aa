"""Files, folders, archives, globs and Hub datasets become the rows of one split, within a limit."""

import bz2
import gzip
import io
import json
import tarfile
import zipfile

import pytest

from study.config.recipe import DataConfig, load_recipe
from study.data.load import load_pairs
from study.data.sources import read_rows, splits_of
from study.errors import ConfigError, DataError


def config(path, **fields):
    sizes = {"train_pairs": 0, "validation_pairs": 1, "test_pairs": 1, "seed": 42}
    limits = {"max_prompt_tokens": 96, "max_length_tokens": 160, "max_dropped_share": 0.5}
    return DataConfig(
        **({"name": str(path), "revision": "", "split": ""} | sizes | limits | fields)
    )


def rows_of(word, n=2):
    return [{"prompt": f"{word} {i}?", "chosen": "Yes.", "rejected": "No."} for i in range(n)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def prompts(path, **fields):
    return [pair.prompt[0].content for pair in load_pairs(config(path, **fields)).pairs]


def write(folder, contents):
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Splits

RECOGNISED = {
    "names of files": (["orpo-test.jsonl", "orpo-train.jsonl"], {"train": 1, "test": 1}),
    "names of folders": (["train/a.csv", "Test/a.csv", "dev/a.csv"], dict.fromkeys(
        ("train", "test", "validation"), 1
    )),
    "shards": (
        ["data/train_prefs-00000-of-00001.parquet", "data/test_prefs-00000-of-00001.parquet"],
        {"train_prefs": 1, "test_prefs": 1},
    ),
    "several files of a split": (["train-a.jsonl", "training.b.jsonl", "eval_1.jsonl"], {
        "train": 2, "test": 1,
    }),
    "files that name no split": (["a.jsonl", "b/c.jsonl"], {"train": 2}),
    "words within words": (["contest-1.jsonl", "contest-2.jsonl"], {"train": 2}),
    "what is of no split beside splits": (["train.jsonl", "test.jsonl", "more.jsonl"], {
        "train": 1, "test": 1,
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", RECOGNISED)
def test_splits_are_recognised_by_the_words_that_datasets_knows(case) -> None:
    names, expected = RECOGNISED[case]

    assert {split: len(found) for split, found in splits_of(names).items()} == expected


@pytest.mark.parametrize(
    "names",
    [
        ["mytrain.jsonl", "mytest.jsonl"],
        ["pairs.jsonl", "heldout.jsonl"],
        ["train/test.jsonl"],
        ["train-test.jsonl"],
    ],
)
def test_files_that_may_be_of_two_splits_are_refused(tmp_path, names) -> None:
    write(tmp_path, {name: lines(rows_of("a")) for name in names})

    with pytest.raises(DataError, match=r"name the files of one split, e\.g\. with a glob"):
        load_pairs(config(tmp_path))


def test_a_split_is_read_alone_from_folder_archive_and_glob(tmp_path) -> None:
    contents = {
        "x/orpo-train.jsonl": lines(rows_of("train")),
        "x/orpo-test.jsonl.gz": gzip.compress(lines(rows_of("test"))),
        "x/.hidden.jsonl": b"{",
        "x/README.md": b"# card",
    }
    write(tmp_path, contents)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    write(tmp_path, {"x.tar": packed.getvalue(), "x.tar.bz2": bz2.compress(packed.getvalue())})
    for name in ("x", "x.zip", "x.tar", "x.tar.bz2", "x/*.jsonl*", "**/orpo-*"):
        assert prompts(tmp_path / name, split="test") == ["test 0?", "test 1?"], name
        with pytest.raises(DataError, match=r"no split ''; it has test, train; choose one"):
            load_pairs(config(tmp_path / name))

    assert prompts(tmp_path / "x" / "*test*", split="train") == ["test 0?", "test 1?"]
    assert prompts(tmp_path, data_dir="x", split="train") == ["train 0?", "train 1?"]


def test_folders_of_shards_and_files_of_several_kinds_are_told_apart(tmp_path) -> None:
    shard = "train-00000-of-00001.jsonl"
    write(tmp_path, {f"a/{shard}": lines(rows_of("a")), f"b/{shard}": lines(rows_of("b"))})
    write(tmp_path, {"c/1.jsonl": lines(rows_of("c")), "c/1.csv": b"prompt,chosen,rejected\n"})

    assert prompts(tmp_path, data_dir="b") == ["b 0?", "b 1?"]
    with pytest.raises(DataError, match=r"several folders \(a, b\); choose one"):
        load_pairs(config(tmp_path))
    with pytest.raises(DataError, match=r"several kinds \(csv, jsonl\)"):
        load_pairs(config(tmp_path / "c"))


def test_a_damaged_archive_is_one_error(tmp_path) -> None:
    write(
        tmp_path, {"a.zip": b"PK\3\4 nonsense", "a.tar": b"nonsense " * 99, "a.tgz": b"\x1f\x8b0"}
    )

    for name in ("a.zip", "a.tar", "a.tgz"):
        with pytest.raises(DataError, match=r"cannot read .*copy or download it again"):
            load_pairs(config(tmp_path / name))


def test_a_relative_name_says_which_folder_it_was_looked_for_in(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DataError, match=rf"'x\.jsonl' in {tmp_path}, where the command runs"):
        load_pairs(config("x.jsonl"))
    with pytest.raises(DataError, match=r"no file or folder '/absent/x\.jsonl', and"):
        load_pairs(config("/absent/x.jsonl"))


def test_the_hub_is_asked_for_configuration_and_folder(monkeypatch, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    asked = {}

    def load_dataset(path, **options):
        asked.update(options, path=path)
        return datasets.Dataset.from_list(rows_of("a"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    load_pairs(config("some/pairs", subset="helpful", data_dir="base", split="test"))

    assert asked == {"path": "some/pairs", "name": "helpful", "data_dir": "base", "split": "test"}
    with pytest.raises(DataError, match=r"more than data\.max_bytes, 100 bytes"):
        load_pairs(config("some/pairs", max_bytes=100))
    with pytest.raises(DataError, match=r"no Hub dataset; read a folder of it with data\.data_dir"):
        load_pairs(config(tmp_path, subset="helpful"))


# Limits


def parquet_of(values, n_rows):
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        name: pa.DictionaryArray.from_arrays(pa.array([0] * n_rows, "int32"), pa.array([value]))
        for name, value in values.items()
    }
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


def zstandard(content):
    import pyarrow as pa

    return pa.Codec("zstd").compress(content, asbytes=True)


N = 3_000_000
BOMBS = {
    "a line without end": ("a.jsonl.gz", lambda: gzip.compress(b"a" * N)),
    "blank lines": ("a.jsonl.bz2", lambda: bz2.compress(b"\n" * N)),
    "spaces": ("a.json.zst", lambda: zstandard(b" " * N)),
    "small rows": ("a.jsonl", lambda: b"{}\n" * 3000),
    "a list of small rows": ("a.json", lambda: b"[" + b"[]," * 3000 + b"[]]"),
    "fields": ("a.csv.gz", lambda: gzip.compress(b"prompt,chosen,rejected\n" + b"a" * N)),
    "equal rows": ("a.parquet", lambda: parquet_of({"prompt": "x"}, 3000)),
    "long equal values": ("a.parquet", lambda: parquet_of({"prompt": "x" * 9999}, 900)),
    "a file in an archive": ("a.zip", lambda: zipped({"a.jsonl": b"\n" * N})),
}


def zipped(contents):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize("case", BOMBS)
def test_what_grows_beyond_the_limit_is_refused_in_one_message(tmp_path, case) -> None:
    name, content = BOMBS[case]
    (tmp_path / name).write_bytes(content())

    with pytest.raises(DataError, match=r"more than data\.max_bytes, 2,000,000 bytes once unc"):
        load_pairs(config(tmp_path / name, max_bytes=2_000_000))


def test_nothing_but_zeros_is_refused_before_it_is_all_read(tmp_path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\0" * 100_000_000, compresslevel=1))

    with pytest.raises(DataError, match="line 1: a NUL byte"):
        load_pairs(config(tmp_path / "a.jsonl.gz"))


# Columns of the user's own


def test_columns_are_renamed_and_left_out(tmp_path) -> None:
    rows = [
        {"Frage": row["prompt"], "gut": row["chosen"], "schlecht": row["rejected"], "prompt": "?"}
        | {"context": 7, "n": 1}
        for row in rows_of("a")
    ]
    write(tmp_path, {"a.jsonl": lines(rows)})
    names = {"Frage": "prompt", "gut": "chosen", "schlecht": "rejected", "context": ""}

    loaded = load_pairs(config(tmp_path / "a.jsonl", columns=names))

    assert [pair.prompt[0].content for pair in loaded.pairs] == ["a 0?", "a 1?"]
    assert loaded.unread == ("n",)
    with pytest.raises(DataError, match=r"maps 'Frag', which .* \(did you mean 'Frage'\?\)"):
        load_pairs(config(tmp_path / "a.jsonl", columns={"Frag": "prompt"}))
    with pytest.raises(DataError, match=r"to 'promt', which no form reads \(did you mean 'prompt'"):
        load_pairs(config(tmp_path / "a.jsonl", columns={"Frage": "promt"}))
    with pytest.raises(ConfigError, match="maps two columns to 'prompt'"):
        config("x", columns={"a": "prompt", "b": "prompt"})


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        (
            ("query", "good", "bad"),
            "--set data.columns.query=prompt --set data.columns.good=chosen --set data.columns.bad",
        ),
        (("prompt", "Chosen", "Rejected"), "--set data.columns.Chosen=chosen --set data.columns.R"),
        (("prompt", "the chosen", "rejected"), "--set 'data.columns.the chosen=chosen'"),
        (("prompt", "choosen", "rejected"), "--set data.columns.choosen=chosen"),
        (("a", "b", "c"), "a table such as"),
    ],
)
def test_unknown_columns_are_refused_with_the_rename_that_helps(tmp_path, columns, advice) -> None:
    write(tmp_path, {"a.jsonl": lines([dict(zip(columns, "xyz", strict=True))])})

    with pytest.raises(DataError, match="rename them in the file, or with") as caught:
        load_pairs(config(tmp_path / "a.jsonl"))
    assert advice in str(caught.value)


def test_the_new_fields_are_left_out_of_a_recipe_that_does_not_set_them() -> None:
    recipe = load_recipe("tiny-smollm2")
    set_ = recipe.override(["data.columns.query=prompt", "data.subset=x", "data.max_bytes=5"])

    assert set_.data.columns == {"query": "prompt"}
    assert recipe.override(["data.max_bytes=2147483648", 'data.subset=""']) == recipe


ROW = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
SERVED = {"row_idx": 0, "row": ROW, "truncated_cells": []}
LAID_OUT = {
    "Excel's separator": ("a.csv", "sep=;\nprompt;chosen;rejected\nWhy?;So.;No.\n"),
    "quoted separator": ("a.csv", '"sep=|"\nprompt|chosen|rejected\nWhy?|So.|No.\n'),
    "spaces behind commas": ("a.csv", 'prompt, chosen ,rejected\n"Why?", "So.", No.\n'),
    "the Hub's viewer": ("a.json", json.dumps({"features": [{"name": "x"}], "rows": [SERVED]})),
}


@pytest.mark.parametrize("case", LAID_OUT)
def test_rows_are_found_however_a_file_lays_them_out(tmp_path, case):
    name, text = LAID_OUT[case]
    (tmp_path / name).write_text(text, encoding="utf-8")
    config = load_recipe("tiny-llama").override([f"data.name={tmp_path / name}"]).data

    assert read_rows(config) == [ROW]


def test_cells_that_the_hubs_viewer_cut_are_refused(tmp_path):
    cut = {"rows": [SERVED | {"truncated_cells": ["prompt"]}], "features": [{"name": "prompt"}]}
    (tmp_path / "a.json").write_text(json.dumps(cut))
    config = load_recipe("tiny-llama").override([f"data.name={tmp_path / 'a.json'}"]).data

    with pytest.raises(DataError, match="which cut long cells; give the name of the dataset"):
        read_rows(config)


@pytest.mark.parametrize("name", ["response.text", "the answer", " a.b.c"])
def test_columns_with_dots_and_spaces_can_be_mapped(name):
    recipe = load_recipe("tiny-llama").override([f"data.columns.{name}=chosen"])

    assert recipe.data.columns == {name: "chosen"}
