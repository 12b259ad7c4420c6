"""Texts that end a stream, found while it is being drawn.

Works on text alone, so that a stop is found however tokens cut it. Knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Sequence

from charrnn.errors import UsageError


class StopFinder:
    """Lets text through up to the first stop to be complete; of several complete at once, the longest counts.

    What may be the beginning of a stop is held back until it is decided, less than the longest stop has characters.
    The result does not depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises UsageError if a stop is empty."""
        if not all(stops):
            raise UsageError("a stop is empty; expected some text.", "Leave it out, or give --stop TEXT.")
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that `piece` decides, and whether a stop was found (the text then ends before it)."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        if found := [(end, start) for start, end in self._matches(text)]:
            self._held = ""
            return text[: min(found)[1]], True
        held = self._beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """What is held back, once nothing follows it."""
        held, self._held = self._held, ""
        return held

    def _matches(self, text: str) -> list[tuple[int, int]]:
        starts = ((text.find(stop), len(stop)) for stop in self._stops)
        return [(start, start + size) for start, size in starts if start >= 0]

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop."""
        lengths = range(min(self._longest - 1, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
