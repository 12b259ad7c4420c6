"""Texts and patterns that end a stream, found while it is being drawn.

Works on text alone, so that a stop is found however tokens cut it. Knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Sequence

from charrnn.decoding.patterns import Pattern
from charrnn.errors import UsageError

CONTEXT = 200  # characters before that a pattern can look back on
MOST_HELD = 10_000  # characters; a pattern that could begin further back than this does not hold up the text
NEXT = "a0 .\n"  # letters of each kind that a pattern tells apart at its end


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

    def end(self) -> tuple[str, bool]:
        """As `push`, where nothing follows."""
        return self.flush(), False

    def _matches(self, text: str) -> list[tuple[int, int]]:
        starts = ((text.find(stop), len(stop)) for stop in self._stops)
        return [(start, start + size) for start, size in starts if start >= 0]

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop."""
        lengths = range(min(self._longest - 1, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)


class PatternFinder:
    """As StopFinder, for a pattern: lets text through up to the first place from which it matches.

    Text is looked at letter by letter, so that the result does not depend on how it is cut; a match that another letter
    could undo (of `\\bend\\b`, before "endless") waits for that letter. The pattern may look back CONTEXT characters; a
    match has at least one.
    """

    def __init__(self, pattern: str) -> None:
        """Raises UsageError if it is none."""
        self._pattern = Pattern(pattern, "--stop-regex")
        self._looks_ahead = "(?=" in pattern or "(?!" in pattern
        self._before = self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """See StopFinder."""
        shown = ""
        for letter in piece:
            self._held += letter
            start, found = self._search()
            shown += self._held[:start]
            self._before, self._held = (self._before + self._held[:start])[-CONTEXT:], self._held[start:]
            if found:
                self._held = ""
                return shown, True
        return shown, False

    def flush(self) -> str:
        """See StopFinder."""
        return self.end()[0]

    def end(self) -> tuple[str, bool]:
        """See StopFinder; what stands at the end of the text is a match after all."""
        start, found = self._search(at_end=True)
        held, self._held = self._held[:start], ""
        return held, found

    def _search(self, at_end: bool = False) -> tuple[int, bool]:
        """How much of what is held cannot be part of a match, and whether one begins there."""
        text, position = self._before + self._held, len(self._before)
        self._pattern.begin()
        while True:
            match = self._pattern.search(text, position)
            if match is None or match.start() >= len(text) or (at_end and match.partial):
                return len(self._held), False
            if match.partial or match.end() > match.start():
                late = match.partial and len(text) - match.start() > MOST_HELD
                certain = not match.partial and (at_end or match.end() < len(text) or self._stays(text, match.start()))
                return (len(self._held), False) if late else (match.start() - len(self._before), certain)
            position = match.end() + 1  # an empty match says nothing

    def _stays(self, text: str, start: int) -> bool:
        """Whether a match from `start` to the end of `text` is one whatever comes next, as far as a few letters can tell."""
        if self._looks_ahead:
            return False
        matches = (self._pattern.search(text + letter, start) for letter in NEXT)
        return all(match is not None and not match.partial and match.start() == start for match in matches)
