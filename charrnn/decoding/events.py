"""What a session says when it is fed a line: plain facts, in order, for whoever shows them.

Knows nothing of terminals, models or commands. Text in them may come from a file or a model, and is data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Heated(NamedTuple):
    """A piece of text and how much it surprises the model, in bits."""

    text: str
    bits: float


@dataclass(frozen=True)
class Typed:
    """Your text, which the model's answer will continue; comes before each answer to a line of yours.

    `heat` are its pieces with their surprise, if that is wanted.
    """

    text: str
    heat: tuple[Heated, ...] = ()


@dataclass(frozen=True)
class Text:
    """A piece of the model's text, as it is drawn, and its surprise if that is wanted."""

    text: str
    bits: float | None = None


@dataclass(frozen=True)
class Recalled:
    """Your last line and the answer to it, which stand already, in pieces with their surprise; for who can show that."""

    typed: tuple[Heated, ...]
    said: tuple[Heated, ...]


@dataclass(frozen=True)
class Resumed:
    """The line that the text is in, which the model's answer will go on with; for who shows each answer on its own."""

    text: str


class Part(NamedTuple):
    """A piece of the text, and whether it is yours."""

    yours: bool
    text: str


@dataclass(frozen=True)
class Passage:
    """The end of the text as it stands, or all of it; `asked` if somebody wants to read it, and not only to see where one is."""

    parts: tuple[Part, ...]
    asked: bool = False


@dataclass(frozen=True)
class Notice:
    """A sentence about what was done or noticed."""

    text: str


@dataclass(frozen=True)
class Problem:
    """What could not be done, and what to type instead; settings and answers are what they were."""

    text: str
    hint: str = ""


@dataclass(frozen=True)
class Listing:
    """Rows of equally many columns."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Alternatives:
    """Several answers to the same text, of which a digit takes one; `texts` are numbered from 1."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A node of the tree for showing: its number, who said it, how it begins, and the branches that end there.

    `left_out` counts nodes after it that are not shown; `sides` are the rows of nodes that fork off after it.
    """

    number: int
    yours: bool
    text: str
    branches: tuple[str, ...] = ()
    here: bool = False
    left_out: int = 0
    sides: tuple[tuple[Place, ...], ...] = ()


@dataclass(frozen=True)
class Family:
    """The whole tree: its trunk, from which side branches hang."""

    trunk: tuple[Place, ...]


@dataclass(frozen=True)
class Ended:
    """The person wants to leave."""


Output = Typed | Text | Recalled | Resumed | Passage | Notice | Problem | Listing | Alternatives | Family | Ended
