"""Plain data in one canonical form: JSON, digests and differences."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a recipe or a part of it into plain, JSON-ready data.

    Fields that have their default are left out: they are younger than the first
    records, whose digests must not change.
    """
    return typing.cast(dict[str, Any], json.loads(canonical_json(plain(config, neutral=False))))


def canonical_json(value: Any) -> str:
    """Write plain data as JSON that is equal whenever the data are equal.

    Raises:
        ValueError: a number is not finite.
    """
    return ENCODER.encode(value)


ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of plain data, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_of_list(values: Iterable[Any]) -> str:
    """Return the digest of a list, which is never written out as a whole."""
    found = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        found.update(b"," * (number > 0) + canonical_json(value).encode())
    found.update(b"]")
    return found.hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List the fields in which two pieces of plain data differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(
                old.get(key, "(absent)"), new.get(key, "(absent)"), f"{path}.{key}".lstrip(".")
            )
        ]
    return [] if old == new else [f"{path}: {old!r} in the records, {new!r} asked for"]


def plain(value: Any, *, neutral: bool) -> Any:
    """Turn dataclasses into dicts, with or without the fields that have their default."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(item, neutral=neutral)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) != default_of(field) or neutral
        }
    if isinstance(value, Mapping):
        return {key: plain(item, neutral=neutral) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item, neutral=neutral) for item in value]
    return value


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """Return a field's default, or ``MISSING``."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
