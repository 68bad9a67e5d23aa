"""Plain data in one canonical form: JSON, digests and differences."""

import dataclasses
import hashlib
import json
import typing
from typing import Any


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a recipe or a part of it into plain, JSON-ready data."""
    return typing.cast(dict[str, Any], json.loads(canonical_json(dataclasses.asdict(config))))


def canonical_json(value: Any) -> str:
    """Write plain data as JSON that is equal whenever the data are equal.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of plain data, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


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
