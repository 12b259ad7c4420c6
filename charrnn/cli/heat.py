"""Surprise as colours: which colour says how many bits. Knows nothing of models or sessions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from charrnn.cli import console

if TYPE_CHECKING:
    from rich.text import Text

    from charrnn.decoding.events import Heated

# Bits below which a colour is meant: 1 bit is a coin's toss, 8 bits one chance in 256.
SCALE = ((1.0, "bright_black"), (2.0, "green"), (4.0, "yellow"), (8.0, "bright_red"), (float("inf"), "bold white on red"))


def style(bits: float) -> str:
    """The colour of a token that surprises by so many bits."""
    return next(name for bound, name in SCALE if bits < bound or bound == float("inf"))


def legend() -> Text:
    """What the colours mean."""
    from rich.text import Text

    line, below = Text("bits: "), 0.0
    for bound, name in SCALE:
        line.append(f" {below:g} and more " if bound == float("inf") else f" {below:g} to {bound:g} ", name)
        below = bound
    return line


def coloured(pieces: Iterable[Heated]) -> Text:
    """A text in the colours of its surprise, made visible."""
    from rich.text import Text

    text = Text()
    for piece, bits in pieces:
        text.append(console.visible(piece), style(bits))
    return text
