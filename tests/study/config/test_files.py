from pathlib import Path

import pytest

from study.config.recipe import load_recipe
from study.errors import ConfigError


def written(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_recipe_takes_over_what_it_does_not_change(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "mine",
        'extends = "tiny-llama"\nname = "mine"\n[training]\nmax_steps = 12\n',
    )

    shipped, mine = load_recipe("tiny-llama"), load_recipe(path)
    assert mine == shipped.override(["name=mine", "training.max_steps=12"])


def test_an_arm_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "mine",
        'extends = "tiny-llama"\nname = "mine"\n[search.space.orpo]\n'
        "learning_rate = [1e-4, 1e-3]\nbeta = [0.1, 0.2]\n"
        "[arms.orpo]\nlearning_rate = 5e-4\nbeta = 0.2\n",
    )

    mine = load_recipe(path)
    assert mine.arms["orpo"] == {"learning_rate": 5e-4, "beta": 0.2}
    assert mine.search.space["orpo"] == {"learning_rate": (1e-4, 1e-3), "beta": (0.1, 0.2)}
    assert mine.arms["sft"] == load_recipe("tiny-llama").arms["sft"]


@pytest.mark.parametrize(
    ("beneath", "given", "steps", "epochs"),
    [
        ("tiny-llama", "epochs = 2", 300, 2.0),
        ("article-c", "max_steps = 60", 60, 0.0),
        ("article-c", "batch_pairs = 16", 62, 1.0),
    ],
)
def test_updates_replace_epochs_beneath_them_and_the_other_way(
    tmp_path: Path, beneath: str, given: str, steps: int, epochs: float
) -> None:
    path = written(tmp_path, "mine", f'extends = "{beneath}"\n[training]\n{given}\n')
    training = load_recipe(path).training

    assert (training.max_steps, training.epochs) == (steps, epochs)


def test_a_file_extends_a_file_beside_it_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "ground", 'extends = "tiny-llama"\nname = "ground"\n')
    path = written(tmp_path, "upper", 'extends = "ground.toml"\nname = "upper"\n')
    monkeypatch.chdir("/")

    assert load_recipe(path).name == "upper"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "mine.toml"\n', "extend each other in a circle: .*mine.toml -> .*mine.toml"),
        ('extends = "tiny-lama"\n', "there is no recipe 'tiny-lama' .did you mean 'tiny-llama'"),
        ("extends = 3\n", "extends is 3; it names a shipped recipe or a file"),
        ('extends = "gone.toml"\n', "there is no recipe file .*gone.toml"),
        ('extends = "tiny-llama"\n[training]\nsteps = 3\n', "mine.toml.*steps"),
        (
            'extends = "tiny-llama"\n[training]\nepochs = 1\nmax_steps = 150\n',
            "training has both max_steps and epochs; give one of them",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, "mine", text)

    with pytest.raises(ConfigError, match=message):
        load_recipe(path)
