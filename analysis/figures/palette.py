"""Colours of figures, and what each becomes on a dark screen."""

from typing import Final

from study.arms import ARMS

PAPER, INK, FRAME, RULE = "#ffffff", "#262626", "#b0b0b0", "#e6e6e6"
"""Ground, text, edges and grid."""

NEUTRAL: Final = "#8c8c8c"
"""Of a setting that is no arm; the untrained arm's grey is its own."""

_KNOWN: Final = {
    PAPER: "#1b1a18",
    INK: "#e8e4dc",
    FRAME: "#7a756b",
    RULE: "#35322d",
    NEUTRAL: "#9c968b",
    "#6b6b6b": "#b5afa4",
    "#d55e00": "#f0803c",
    "#e69f00": "#f2c14e",
    "#0072b2": "#5db4ea",
    "#009e73": "#3fc79c",
    "#cc79a7": "#e3a3c6",
}


def lighter(colour: str) -> str:
    """Return a colour half way to white."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{(part + 255) // 2:02x}" for part in parts)


DARK: Final = {arm.colour.lower(): lighter(arm.colour) for arm in ARMS.values()} | _KNOWN
"""Colour on paper -> colour on a dark screen; others, such as those of a scale, stay."""
