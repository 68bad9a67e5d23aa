"""Many pairs are encoded at once, and kept by their content: the ids are those of one by one."""

import copy
import dataclasses
import errno
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from study.cli.datacheck import _tokenizer
from study.config.recipe import load_recipe
from study.data import encoding, kept
from study.data.encoding import encode_all
from study.data.pairs import Message, make_pair
from study.data.tokens import encode_whole
from study.engine.encoded import Encoded
from study.errors import RowError


@pytest.fixture(scope="module")
def tokenizer():
    return _tokenizer(load_recipe("tiny-llama"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "WORTH_IT", 1)
    monkeypatch.setattr(encoding, "AT_ONCE", 4)
    return tmp_path / "encoded"


def pair(number: int, chosen: str = "", rejected: str = ""):
    said = (chosen or f"yes {number}", rejected or f"no {number} größe 東京")
    answers = [(Message("assistant", text),) for text in said]
    asked = (Message("user", f"what is {number}?"),)
    return make_pair(prompt=asked, chosen=answers[0], rejected=answers[1], source="made")


def some_pairs(n: int = 10):
    return (*map(pair, range(n)), pair(n, "a <|im_end|> spelled"), pair(n + 1, "same", " same "))


def one_by_one(pairs, tokenizer):
    found = []
    for one in pairs:
        try:
            found.append(encode_whole(one, tokenizer))
        except RowError as error:
            found.append(error)
    return told(found)


def told(wholes):
    return [
        (one.reason, str(one)) if isinstance(one, RowError) else dataclasses.astuple(one)
        for one in wholes
    ]


def calls(monkeypatch):
    """Count how often pairs are encoded and not read."""
    made = []
    original = encoding._encode
    monkeypatch.setattr(
        encoding, "_encode", lambda *given: made.append(len(given[0])) or original(*given)
    )
    return made


def test_ids_are_those_of_single_pairs_made_and_read(cache, tokenizer, monkeypatch):
    pairs, made = some_pairs(), calls(monkeypatch)
    wanted = one_by_one(pairs, tokenizer)

    assert told(encode_all(pairs, tokenizer)) == wanted
    assert told(encode_all(pairs, tokenizer)) == wanted
    assert made == [12]
    assert len(list(cache.iterdir())) == 1


def test_the_tokenizer_is_called_by_the_part_and_not_by_the_pair(cache, tokenizer, monkeypatch):
    asked = []
    original = encoding._ids_of_all
    monkeypatch.setattr(
        encoding, "_ids_of_all", lambda t, texts: asked.append(len(texts)) or original(t, texts)
    )
    list(encode_all(tuple(map(pair, range(10))), tokenizer))

    assert asked == [12, 12, 6]  # three texts of four, four and two pairs


def test_every_id_takes_two_bytes_where_they_suffice(cache, tokenizer):
    for _ in ("made", "read"):
        for one in encode_all(tuple(map(pair, range(8))), tokenizer):
            assert len(bytes(one.ids)) == 2 * one.n_tokens > 0


def test_ids_of_large_vocabularies_are_kept(cache, tokenizer):
    pairs = tuple(map(pair, range(8)))

    def make(pairs, _):
        for one in pairs:
            names = {"cluster_id": one.cluster_id, "source": one.source}
            yield Encoded.of(one.example_id, [128_255, 1], [65_536], [2, 3], **names)

    made, read = (list(kept.kept(pairs, tokenizer, make)) for _ in range(2))
    assert read == made == list(make(pairs, tokenizer))
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("what", ["a pair", "the order", "the template", "an added token"])
def test_another_content_is_never_taken_for_the_kept_one(cache, what, monkeypatch):
    tokenizer = _tokenizer(load_recipe("tiny-llama"))
    pairs, made = some_pairs(), calls(monkeypatch)
    list(encode_all(pairs, tokenizer))
    if what == "a pair":
        pairs = (*pairs[:-1], pair(99))
    elif what == "the order":
        pairs = pairs[::-1]
    elif what == "the template":
        tokenizer.chat_template += "\n"
    else:
        tokenizer.add_tokens(["größe"])

    assert told(encode_all(pairs, tokenizer)) == one_by_one(pairs, tokenizer)
    assert made == [12, len(pairs)]


@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty"])
def test_a_damaged_file_is_made_again(cache, tokenizer, monkeypatch, damage):
    pairs, made = some_pairs(), calls(monkeypatch)
    list(encode_all(pairs, tokenizer))
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut short": content[:-50], "a bit": content, "empty": b""}[damage])

    assert told(encode_all(pairs, tokenizer)) == one_by_one(pairs, tokenizer)
    assert told(encode_all(pairs, tokenizer)) == one_by_one(pairs, tokenizer)
    assert made == [12, 12]


def test_several_may_make_the_same_at_once(cache, tokenizer):
    pairs = some_pairs()
    own = [copy.deepcopy(tokenizer) for _ in range(4)]  # as processes have; one is for one thread
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda mine: told(encode_all(pairs, mine)), own))

    assert found == [one_by_one(pairs, tokenizer)] * 4
    assert [path.suffix for path in cache.iterdir()] == [".zip"]


def test_the_encodings_unused_for_longest_go(cache, tokenizer):
    for number in range(kept.MOST_FILES + 3):
        list(encode_all((pair(number),), tokenizer))

    assert len(list(cache.iterdir())) == kept.MOST_FILES


def test_few_pairs_are_not_kept(cache, tokenizer, monkeypatch):
    monkeypatch.setattr(kept, "WORTH_IT", 100)
    list(encode_all(some_pairs(), tokenizer))

    assert not cache.exists()


def test_a_full_disk_is_no_error_and_leaves_nothing(cache, tokenizer, monkeypatch):
    class FullDisk(kept.ZipFile):
        def open(self, *given, **named):
            file = super().open(*given, **named)
            file.write = refuse
            return file

    def refuse(content) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept, "ZipFile", FullDisk)
    pairs = some_pairs()

    assert told(encode_all(pairs, tokenizer)) == one_by_one(pairs, tokenizer)
    assert not list(cache.iterdir())


def test_an_encoding_that_is_broken_off_leaves_nothing(cache, tokenizer):
    wholes = encode_all(some_pairs(), tokenizer)
    next(wholes)
    assert list(cache.iterdir())
    wholes.close()

    assert not list(cache.iterdir())


def test_a_file_that_goes_while_it_is_read_costs_no_pair(cache, tokenizer, monkeypatch):
    pairs = some_pairs()
    list(encode_all(pairs, tokenizer))
    restored = kept._restored

    def cut_short(pairs, file):
        yield from itertools.islice(restored(pairs, file), 5)
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(kept, "_restored", cut_short)

    assert told(encode_all(pairs, tokenizer)) == one_by_one(pairs, tokenizer)


def test_no_wrong_bit_in_a_file_is_an_error(cache, tokenizer):
    pairs = some_pairs(3)
    wanted = told(encode_all(pairs, tokenizer))
    (path,) = cache.iterdir()
    content = path.read_bytes()
    ends_at = len(content)  # the directory at the end is what tells how to read the rest
    for place in (*range(0, ends_at - 250, 11), *range(ends_at - 250, ends_at)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        assert told(encode_all(pairs, tokenizer)) == wanted


def test_what_a_killed_process_left_goes_after_a_day(cache, tokenizer):
    cache.mkdir(parents=True, exist_ok=True)
    for age_s in (60, 2 * kept.UNFINISHED_S):
        left = cache / f".left-{age_s}"
        left.touch()
        os.utime(left, (time.time() - age_s,) * 2)
    list(encode_all(some_pairs(), tokenizer))

    assert [path.name for path in cache.glob(".*")] == [".left-60"]
