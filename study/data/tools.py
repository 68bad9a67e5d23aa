"""Descriptions of tools that a prompt offers, as JSON in a turn before all others."""

import json
from collections.abc import Iterable
from typing import Any

from study.errors import RowError

TOOLS = "tools"
"""Role of the turn that holds them."""


def described(turns: Iterable[tuple[str, str]]) -> list[Any] | None:
    """Return the descriptions among turns of (role, content), or None."""
    found = [tool for role, content in turns if role == TOOLS for tool in json.loads(content)]
    return found or None


def require_written(descriptions: str, text: str) -> None:
    """Refuse a rendered prompt that lacks a tool.

    Raises:
        RowError: it does, as its template writes none.
    """
    names = map(tool_name, json.loads(descriptions))
    if name := next((name for name in names if name not in text), ""):
        raise RowError(
            "tools that the chat template does not write",
            f"the chat template does not write the tool {name!r}; leave tools out with "
            "--set data.columns.tools=''",
        )


def tool_name(tool: Any) -> str:
    """Return the name of a described function, or nothing."""
    inner = tool.get("function", tool) if isinstance(tool, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else ""
