"""What a user can mend in a recipe is one message."""

import pytest

from study.config.recipe import load_recipe
from study.errors import ConfigError

FIELDS = {
    "training.weight_decay=inf": "training.weight_decay is inf; it must be a finite",
    "training.max_grad_norm=inf": "training.max_grad_norm is inf; it must be a finite",
    "training.max_grad_norm=nan": "training.max_grad_norm is nan; it must be a finite",
    "search.space.sft.learning_rate=[1e-4, inf]": r"learning_rate\[1\] is inf; it must be a finite",
    "training.threads=100000": "training.threads is 100000; it must be 1024 at most",
}
FILES = {
    b"name = '\xff'": "is not UTF-8 .*; save it as UTF-8",
    b"a = " + b"[" * 20_000: "nested too deeply|Expected|Invalid|Cannot",
}


@pytest.mark.parametrize("assignment", FIELDS)
def test_a_field_beyond_its_range_is_named(assignment):
    with pytest.raises(ConfigError, match=FIELDS[assignment]):
        load_recipe("tiny-llama").override([assignment])


@pytest.mark.parametrize("content", FILES, ids=["not UTF-8", "nested"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, content):
    (tmp_path / "mine.toml").write_bytes(content)

    with pytest.raises(ConfigError, match=f"recipe .*mine.toml.*({FILES[content]})"):
        load_recipe(str(tmp_path / "mine.toml"))
