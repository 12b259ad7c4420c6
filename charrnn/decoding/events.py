"""What a session says when it is fed a line: plain facts, in order, for whoever shows them.

Knows nothing of terminals, models or commands. Text in them may come from a file or a model, and is data.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Typed:
    """Your text, which the model's answer will continue; comes before each answer to a line of yours."""

    text: str


@dataclass(frozen=True)
class Text:
    """A piece of the model's text, as it is drawn."""

    text: str


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
class Ended:
    """The person wants to leave."""


Output = Typed | Text | Notice | Problem | Listing | Ended
