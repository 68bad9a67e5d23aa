"""Put a drawn figure into a page: an SVG whose colours follow the page's scheme."""

import re
from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree as ET

from markupsafe import Markup, escape

SVG: Final = "{http://www.w3.org/2000/svg}"
LINK: Final = "{http://www.w3.org/1999/xlink}href"
KEPT: Final = frozenset(
    f"{SVG}{name}" for name in ("svg", "g", "path", "defs", "use", "clipPath", "rect", "image")
)
"""What Matplotlib draws with; everything else, such as scripts, stays behind."""


def inline(name: str, svg: bytes, *, alt: str, colours: Mapping[str, str]) -> Markup:
    """Return a drawn figure as an element of a page.

    Args:
        name: of the figure; begins the names of its parts, so that none occurs twice.
        svg: what Matplotlib wrote; text in it is paths.
        alt: what it shows in words.
        colours: colour on paper -> on a dark screen; each becomes a variable, see
            ``scheme``.
    """
    root = ET.fromstring(svg)  # noqa: S314 (drawn by this program)
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    targets = set(re.findall(r"#([\w-]+)", " ".join(_references(root))))
    body = "".join(_written(part, name, targets, colours) for part in root)
    return Markup(  # noqa: S704 (escaped below)
        f'<svg viewBox="0 0 {escape(width)} {escape(height)}" role="img" '
        f'aria-label="{escape(alt)}">{body}</svg>'
    )


def scheme(colours: Mapping[str, str]) -> str:
    """Write the variables that a dark screen sets."""
    return " ".join(f"{_variable(light)}: {dark};" for light, dark in colours.items())


def _references(root: ET.Element) -> list[str]:
    """List the values that may name a part: links, clips and styles."""
    return [
        value
        for part in root.iter()
        for key, value in part.attrib.items()
        if key in {LINK, "href", "clip-path", "style"}
    ]


def _written(part: ET.Element, name: str, targets: set[str], colours: Mapping[str, str]) -> str:
    if part.tag not in KEPT:
        return ""
    tag = part.tag.removeprefix(SVG)
    words = [tag]
    for key, value in part.attrib.items():
        if key == "id" and value not in targets:
            continue
        known = _attribute(key, value, name, colours)
        if known:
            words.append(f'{known[0]}="{escape(known[1])}"')
    inside = "".join(_written(child, name, targets, colours) for child in part)
    return f"<{' '.join(words)}>{inside}</{tag}>" if inside else f"<{' '.join(words)}/>"


def _attribute(
    key: str, value: str, name: str, colours: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return an attribute as it stands in a page, or None where it must not."""
    if key in {LINK, "href"} and value.startswith(("#", "data:image/png;base64,")):
        return "href", f"#{name}-{value[1:]}" if value.startswith("#") else value
    if key.startswith(("{", "on")) or key == "href":
        return None
    if key == "id":
        return key, f"{name}-{value}"
    if key == "d":
        return key, _shorter(value)
    return key, _coloured(value.replace("url(#", f"url(#{name}-"), colours)


def _coloured(value: str, colours: Mapping[str, str]) -> str:
    """Turn the colours that a dark screen changes into variables."""

    def variable(found: re.Match[str]) -> str:
        return f"var({_variable(found[0])}, {found[0]})" if found[0] in colours else found[0]

    return re.sub(r"#[0-9a-f]{6}\b", variable, value)


def _shorter(path: str) -> str:
    """Round a path to hundredths of a point, which no screen shows."""
    rounded = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", path)
    return " ".join(rounded.split())


def _variable(colour: str) -> str:
    return f"--figure-{colour[1:]}"
