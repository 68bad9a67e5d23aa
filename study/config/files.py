"""Recipe files: which are shipped, and what one says with the recipe that it extends."""

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from study.errors import ConfigError, nearest

EXTENDS: Final = "extends"
"""Field of a recipe file: the recipe whose fields it takes over and changes."""

REPLACED: Final = ("arms", "space")
"""Tables of names rather than fields: an arm's entry is replaced as a whole."""

EITHER: Final = {"max_steps": "epochs", "epochs": "max_steps"}
"""Fields of which a recipe has one: it replaces the other of the recipe that is extended."""


def is_file(name_or_path: str) -> bool:
    """Tell whether a recipe is asked for by its file."""
    return name_or_path.endswith(".toml")


def recipe_names() -> list[str]:
    """List the shipped recipes in alphabetical order."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in _folder().iterdir()
        if entry.name.endswith(".toml")
    )


def read_tree(name_or_path: str) -> dict[str, Any]:
    """Read a recipe's fields, those of the recipe that it extends beneath them.

    ``extends`` names a shipped recipe, or a file beside the one that says so. A
    published setting of every searched arm is filled in, see ``published.toml``.

    Raises:
        ConfigError: no such recipe, broken TOML, recipes that extend each other, or
            updates given beside epochs.
    """
    tree = _extended(name_or_path, ())
    training = tree.get("training")
    if isinstance(training, dict) and EITHER.keys() <= training.keys():
        raise ConfigError(
            f"recipe {name_or_path}: training has both max_steps and epochs; give one of them"
        )
    search = tree.get("search")
    if isinstance(search, dict) and "published" not in search:
        search["published"] = _published(search.get("space", {}))
    return tree


def _extended(name_or_path: str, above: tuple[str, ...]) -> dict[str, Any]:
    if name_or_path in above:
        raise ConfigError(
            f"recipes extend each other in a circle: {' -> '.join((*above, name_or_path))}"
        )
    tree = _parse(name_or_path)
    base = tree.pop(EXTENDS, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(
            f"recipe {name_or_path}: extends is {base!r}; it names a shipped recipe or a file"
        )
    if is_file(base):
        base = str(Path(name_or_path).parent / base)
    return _merged(_extended(base, (*above, name_or_path)), tree)


def _merged(beneath: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Put fields above others, table by table."""
    merged = {name: value for name, value in beneath.items() if EITHER.get(name) not in above}
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[name] = {**old, **value} if name in REPLACED else _merged(old, value)
        else:
            merged[name] = value
    return merged


def _parse(name_or_path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(name_or_path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name_or_path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"recipe {name_or_path} is not UTF-8 ({error}); save it as UTF-8"
        ) from error
    except RecursionError as error:
        raise ConfigError(
            f"recipe {name_or_path} is nested too deeply; no field needs it"
        ) from error


def _text(name_or_path: str) -> str:
    if is_file(name_or_path):
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"there is no recipe file {path}")
        return path.read_text(encoding="utf-8")
    known = recipe_names()
    if name_or_path not in known:
        raise ConfigError(
            f"there is no recipe {name_or_path!r}{nearest(name_or_path, known)}; "
            f"shipped recipes are {', '.join(known)}; a file of yours must end in .toml"
        )
    return str(_folder().joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8"))


def _folder() -> Any:
    return resources.files("study").joinpath("recipes")


def _published(arms: Iterable[str]) -> list[dict[str, Any]]:
    """Return the settings that the sources used for some arms."""
    text = resources.files("study").joinpath("sources/published.toml").read_text("utf-8")
    return [known for known in tomllib.loads(text)["published"] if known["arm"] in arms]
