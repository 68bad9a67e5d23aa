"""The fuzzer's promises hold on mutated inputs, and a broken promise is noticed."""

import random
import sys
from pathlib import Path

import pytest
from markupsafe import Markup

sys.path.insert(0, str(Path(__file__).parent))

import targets

N_MUTATIONS = 150


def mutated(seeds, *, seed):
    """Yield every seed, then copies with bytes cut out, doubled, swapped and replaced."""
    yield from seeds
    rng = random.Random(seed)
    for _ in range(N_MUTATIONS):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            at, n = rng.randrange(len(data) + 1), rng.randrange(1, 9)
            data[at : at + rng.choice((0, n))] = rng.choice(
                (b"", rng.randbytes(n), data[at : at + n] * 2, b'"', b"\n", b"\\", b"<", b"{")
            )
        yield bytes(data)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_no_mutation_breaks_a_promise(name):
    for data in mutated(targets.SEEDS[name], seed=1):
        targets.TARGETS[name](data)


FOUND = {
    "a list as prompt beside texts": ("rows", bytes.fromhex(
        "3435363738393a3b3c3d3d3e3f4041"
        "42567f808182838485868788898a8b5152535455567f808182838485868788898a8b8c8d8e8f9091929394"
        "95969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaab"
    )),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_once_stays_mended(case):
    name, data = FOUND[case]

    targets.TARGETS[name](data)


def test_text_that_is_not_escaped_is_noticed(monkeypatch):
    monkeypatch.setattr(targets, "generated_html", Markup)
    with pytest.raises(AssertionError):
        targets.escapes(b"<img src=x>")


@pytest.mark.parametrize("text", [r"\input{x}", "50 %", "a_b", "}{", "{", "^^5c", r"\par", "~"])
def test_active_characters_in_latex_are_noticed(text):
    with pytest.raises(AssertionError):
        targets.check_tex(text)


def test_a_loader_that_lets_a_row_vanish_is_noticed(monkeypatch):
    real = targets.load_pairs

    def vanishing(config):
        loaded = real(config)
        return type(loaded)(loaded.pairs[1:], loaded.form, loaded.n_rows, loaded.dropped)

    monkeypatch.setattr(targets, "load_pairs", vanishing)
    with pytest.raises(AssertionError):
        targets.loader(targets.SEEDS["loader"][0])
