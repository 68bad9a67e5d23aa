"""Frozen dataclasses from plain data, with errors that name the field."""

import dataclasses
import datetime as dt
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from study.config.canonical import default_of
from study.errors import ConfigError, nearest, require

FREE_TABLES = ("model.template_kwargs", "data.columns")
"""Tables whose keys are the user's own."""


def build(kind: Any, tree: Mapping[str, Any]) -> Any:
    """Build any frozen dataclass from plain data, refusing what it does not have.

    Raises:
        ConfigError: unknown, missing or mistyped fields.
    """
    return _build(kind, tree, "")


def assign(tree: dict[str, Any], assignment: str) -> None:
    """Set one field of plain data by ``section.field=value``, the value read as TOML.

    Raises:
        ConfigError: there is no ``=``, or no such field.
    """
    path, equals, text = assignment.partition("=")
    require(bool(equals), f"--set {assignment!r} has no '='; write section.field=value")
    path = path.strip()
    *sections, field = path.split(".")
    for table in FREE_TABLES:
        if path.startswith(f"{table}."):  # its keys may have dots and spaces
            sections, field = table.split("."), path.removeprefix(f"{table}.")
    for section in sections:
        require(
            isinstance(tree.get(section), dict),
            f"--set {path}: there is no section {section!r}{nearest(section, tree)}",
        )
        tree = tree[section]
    require(
        field in tree or ".".join(sections) in FREE_TABLES,
        f"--set {path}: there is no field {field!r}{nearest(field, tree)}",
    )
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        found = {"value": text}
    except RecursionError as error:
        raise ConfigError(
            f"--set {path}: its value is nested too deeply; no field needs it"
        ) from error
    tree[field] = found["value"] if len(found) == 1 else text  # text of several lines


def _build(kind: Any, value: Any, path: str) -> Any:
    """Turn plain data into ``kind``, or say which field does not fit."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        require(value in arguments, f"{path} is {value!r}; it must be one of {list(arguments)}")
        return value
    if origin is tuple:
        return _build_tuple(arguments, value, path)
    if origin is types.UnionType:
        allowed = ", ".join(one.__name__ for one in arguments)
        require(type(value) in arguments, f"{path} is {value!r}; it must be one of {allowed}")
        return value
    if origin is not None:  # a Mapping
        require(isinstance(value, dict), f"{path} is {value!r}; it must be a table")
        return {key: _build(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and type(value) is dt.date:  # TOML reads a bare date as one
        value = value.isoformat()
    require(type(value) is kind, f"{path} is {value!r}; it must be of type {kind.__name__}")
    require(
        kind is not float or math.isfinite(value), f"{path} is {value}; it must be a finite number"
    )
    return value


def _build_dataclass(kind: Any, value: Any, path: str) -> Any:
    require(isinstance(value, dict), f"{path or 'a recipe'} must be a table, not {value!r}")
    hints = typing.get_type_hints(kind)
    for key in value:
        require(key in hints, f"unknown key {f'{path}.{key}'.lstrip('.')!r}{nearest(key, hints)}")
    required = [
        field.name for field in dataclasses.fields(kind) if default_of(field) is dataclasses.MISSING
    ]
    missing = [f"{path}.{key}".lstrip(".") for key in required if key not in value]
    require(not missing, f"missing {', '.join(missing)}; a recipe is complete")
    return kind(
        **{
            key: _build(hint, value[key], f"{path}.{key}".lstrip("."))
            for key, hint in hints.items()
            if key in value
        }
    )


def _build_tuple(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    require(isinstance(value, list), f"{path} is {value!r}; it must be a list")
    kinds = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
    require(len(value) == len(kinds), f"{path} is {value!r}; it must have {len(kinds)} entries")
    return tuple(
        _build(kind, item, f"{path}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )
