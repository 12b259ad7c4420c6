"""One text between two steps of the engine: logits in; out come the tokens that are certain, and what to read next.

Knows nothing of engines: whoever steps one asks the voice for the next token after each step.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np

from charrnn.decoding.compiled import uniforms
from charrnn.decoding.course import Course, Drawing
from charrnn.decoding.engine import Draws, Floats, State
from charrnn.decoding.sampling import NothingLeft, uniform
from charrnn.decoding.stops import PatternFinder, StopFinder
from charrnn.errors import CharrnnError
from charrnn.text.tokenizers import EOS

AHEAD = 16  # tokens drawn at once
MOST_HELD = 10_000  # tokens that wait for a pattern to match
TRIES = 20  # texts that are begun for a pattern before giving up
_REDRAW, _TRY = 1 << 32, 1 << 48  # attempts apart, so that neither a redraw nor a try is a /retry's draw


class Prefix(NamedTuple):
    """What has been read so far, immutable: the state of one stream after it, the logits (V,) of what comes next."""

    state: State
    logits: Floats
    position: int  # tokens read


class Token(NamedTuple):
    """A drawn token, the text that it decides, its log-probability (nats; the model's own, temperature 1), and from what.

    The text can be empty (half a UTF-8 character, or what may become a stop text) and can hold text of tokens before.
    """

    id: int
    text: str
    logprob: float
    prefix: Prefix


class Voice:
    """One stream between two steps of the engine: takes logits, draws, and says what of it is certain.

    After `draw`, unless `ended`, the engine is to read `token` after `before`, which need not be the prefix that was
    handed in: a line that got too long has been taken back to its last space.
    """

    def __init__(self, course: Course, start: Prefix, seed: int, stream_index: int, attempt: int, length: int | None) -> None:
        self._start, self._first, self._attempt = start, course, attempt
        self._seed, self._stream_index = seed, stream_index
        self._length = math.inf if length is None else length
        rules = course.drawing.rules
        self._matching = rules is not None and rules.pattern is not None
        self._breaking = rules is not None and rules.width > 0
        self._tries, self._ahead = 0, 1
        self._begin()

    def _begin(self) -> None:
        self._course = self._first.copy()
        self._left = self._length
        self._held: list[tuple[int, float, Prefix]] = []
        self._break: tuple[Course, Prefix, float, int] | None = None  # where the line may be broken; with len(_held)
        self._caption = Caption(self._course.drawing, len(self._course.pending))
        self._matched = self._matching and self._course.complete
        self.ended = self._left <= 0
        self.token, self.before = -1, self._start

    def draw(self, prefix: Prefix) -> list[Token]:
        """Draw a token, unless the text has ended; returns those that are certain now."""
        while not self.ended:
            try:
                return self._draw(prefix)
            except NothingLeft as error:
                if not self._matching:
                    raise
                if self._matched:
                    self.ended = True
                    return []
                prefix = self._try_again(error)
        return []

    @property
    def free(self) -> bool:
        """Whether nothing but logits and temperature decides from here on, so that tokens can be drawn ahead and taken."""
        return self._course.free and not self._tries

    def ahead(self, position: int) -> Draws:
        """The draws of the next tokens: few at first, so that the first character comes at once."""
        drawing = self._course.drawing
        self._ahead = min(2 * self._ahead, AHEAD)
        place, count = (self._seed, self._stream_index, position, self._attempt), int(min(self._ahead, self._left))
        if drawing.kernel is None:
            numbers = np.array([uniform(*place[:2], position + number, self._attempt) for number in range(count)])
        else:
            numbers = uniforms(drawing.kernel, *place, count)
        added, compiled = drawing.added(self._course)
        return Draws(added, compiled, drawing.settings.temp, numbers)

    def take(self, token: int, logprob: float, prefix: Prefix) -> list[Token]:
        """What `draw(prefix)` would return, `token` having been drawn already; only for a voice that is `free`."""
        self.token, self.before = token, prefix
        self._course.accept(token)
        self._left -= 1
        at_end = token == EOS and self._course.drawing.at_eos == "end"
        return self._shown(token, logprob, prefix, at_end or self._left <= 0, at_end)

    def _try_again(self, error: NothingLeft) -> Prefix:
        self._tries += 1
        if self._tries >= TRIES:
            hint = "Loosen the pattern, give more --length, or another --seed."
            raise CharrnnError(f"{TRIES} texts were begun, and none matched the pattern.", hint) from error
        self._begin()
        return self._start

    def _draw(self, prefix: Prefix) -> list[Token]:
        self.before = prefix
        token, logprob = self._course.choose(prefix.logits, self._number)
        if self._breaking:
            if self._course.overflows(token):
                token, logprob = self._broken_line()
            elif self._course.breaks(token):
                self._break = self._course.copy(), prefix, self._left, len(self._held)
        self.token = token
        self._course.accept(token)
        self._left -= 1
        at_end = token == EOS and self._course.drawing.at_eos == "end"
        last = at_end or self._left <= 0 or self._course.ended
        if not (self._breaking or self._matching):
            return self._shown(token, logprob, self.before, last, at_end)
        self._held.append((token, logprob, self.before))
        return self._certain(last, at_end)

    def _number(self, redraws: int) -> float:
        attempt = self._attempt + redraws * _REDRAW + self._tries * _TRY
        return uniform(self._seed, self._stream_index, self.before.position, attempt)

    def _broken_line(self) -> tuple[int, float]:
        """Go back to the last space of the line, or stay where there is none, and draw a newline there."""
        if self._break is not None:
            self._course, self.before, self._left, count = self._break
            del self._held[count:]
            self._break = None
        assert self._course.shape is not None
        self._course.shape = self._course.shape.broken()
        return self._course.choose(self.before.logits, self._number)

    def _certain(self, last: bool, at_end: bool) -> list[Token]:
        """The held tokens that will not be taken back any more; raises NothingLeft if the text can't match."""
        complete = self._course.complete or at_end
        self._matched |= self._matching and complete
        count = len(self._held)
        if last:
            if self._matching and not complete:
                raise NothingLeft("the text ended before it matched.", "Give more --length.")
        elif self._matching and not complete:
            if count > MOST_HELD:
                raise NothingLeft("the text does not come to match.", "Loosen the pattern.")
            return []
        elif self._breaking and self._course.shape is not None and self._course.shape.column:
            count = 0 if self._break is None or self._matching else self._break[3]
        else:
            self._break = None
        released, self._held = self._held[:count], self._held[count:]
        if self._break is not None:
            self._break = (*self._break[:3], self._break[3] - count)
        tokens: list[Token] = []
        for place, one in enumerate(released):
            tokens += self._shown(*one, last and place == count - 1, at_end)
            if self.ended:
                break
        return tokens

    def _shown(self, token: int, logprob: float, prefix: Prefix, last: bool, at_end: bool) -> list[Token]:
        """The token with its text; nothing for an <eos> that ends the stream without any."""
        text, found = self._caption.read(token, last, self._course.ended)
        self.ended = found or last
        return [] if at_end and last and not text else [Token(token, text, logprob, prefix)]


class Caption:
    """Tokens as the text that is shown: whole characters, without what is in the prompt already, up to a stop."""

    def __init__(self, drawing: Drawing, hidden: int) -> None:
        self._tokenizer, self._hidden = drawing.tokenizer, hidden
        self._end = "" if drawing.at_eos == "end" else "\n"
        self._decoder = drawing.tokenizer.stream_decoder()
        self._finders: list[StopFinder | PatternFinder] = []
        if drawing.stops:
            self._finders.append(StopFinder(drawing.stops))
        if drawing.stop_pattern is not None:
            self._finders.append(PatternFinder(drawing.stop_pattern))

    def copy(self) -> Caption:
        """Another caption that goes on from here."""
        other = copy.copy(self)
        other._decoder = self._decoder.copy()
        other._finders = [copy.copy(finder) for finder in self._finders]
        return other

    def read(self, token: int, last: bool, at_line_end: bool) -> tuple[str, bool]:
        """The text that `token` decides, all that is left of it if it is the `last`, and whether a stop was found.

        The newline after the last line that was asked for (`at_line_end`) is not shown.
        """
        if token == EOS:
            piece = self._decoder.flush() + self._end
            self._decoder = self._tokenizer.stream_decoder()
        else:
            piece = self._decoder.push(token)
        if last:
            piece += self._decoder.flush()
            if at_line_end:
                piece = piece.removesuffix("\n")
        if self._hidden:
            piece, self._hidden = piece[self._hidden :], max(0, self._hidden - len(piece))
        for number, finder in enumerate(self._finders):
            piece, found = finder.push(piece)
            if found:
                return piece + self._flushed(number + 1, ""), True
            if last:
                piece += finder.flush()
        return piece, False

    def _flushed(self, start: int, piece: str) -> str:
        for finder in self._finders[start:]:
            piece = finder.push(piece)[0] + finder.flush()
        return piece
