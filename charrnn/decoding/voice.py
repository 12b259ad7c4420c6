"""One text between two steps of the engine: logits in; out come the tokens that are certain, and what to read next.

Knows nothing of engines: whoever steps one asks the voice for the next token after each step.

Some tokens may yet be taken back, and are held. Where lines have a greatest length, those after the last space of a line
are: a longer line ends there instead. Where the text must match a pattern, those after the last place where it does are;
the token before that place is held, too, because it may turn out to be the last, and then shows what stops hold back.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from charrnn.decoding.caption import Caption
from charrnn.decoding.compiled import uniforms
from charrnn.decoding.course import Course, Sampler
from charrnn.decoding.engine import Draws, Floats, State
from charrnn.decoding.patterns import Pattern
from charrnn.decoding.sampling import NothingLeft, uniform
from charrnn.errors import CharrnnError
from charrnn.text.tokenizers import EOS

MOST_HELD = 10_000  # tokens that wait for a pattern to match
MOST_HALVES = 20  # beginnings of characters that are tried for a pattern
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


class _Spot(NamedTuple):
    """A place to go back to: before the token that was number `held` of those that wait."""

    course: Course
    prefix: Prefix
    left: float
    held: int


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
        self._pattern = course.pattern
        self._breaking = rules is not None and rules.width > 0
        self._picky = self._pattern is not None or course.drawing.copies is not None  # a line may end, but not at each space
        self._tries, self._ahead = 0, 1
        self._begin()

    def _begin(self) -> None:
        self._course = self._first.copy()
        self._left = self._length
        self._caption = Caption(self._course.drawing, len(self._course.pending.text))
        self._held: list[tuple[int, float, Prefix]] = []
        self._breaks: list[_Spot] = []  # where this line may end
        self._halves: list[_Spot] = []  # before each token of the character that is not whole yet
        self._lost = 0  # halves that were taken back at this place
        self._goods = [0] if self._pattern is not None and self._course.complete else []  # numbers held up to which it matches
        self._told = "" if self._course.shape is None else self._course.shape.text  # with a pattern: all that is shown
        self.ended = self._left <= 0
        self.token, self.before = -1, self._start

    def draw(self, prefix: Prefix) -> list[Token]:
        """Draw a token, unless the text has ended; returns those that are certain now."""
        while not self.ended:
            try:
                return self._draw(prefix)
            except NothingLeft as error:
                if self._pattern is None:
                    raise
                if self._halves:
                    prefix = self._without_half()
                elif self._goods:
                    return self._end(self._goods[-1])
                else:
                    prefix = self._try_again(error)
        return []

    @property
    def free(self) -> bool:
        """Whether nothing but logits and temperature decides from here on, so that tokens can be drawn ahead and taken."""
        return self._course.free and not self._tries

    def ahead(self, position: int, most: int) -> Draws:
        """The draws of the next tokens, up to `most`: few at first, so that the first character comes at once."""
        drawing = self._course.drawing
        self._ahead = min(2 * self._ahead, most)
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
        return self._shown(token, logprob, prefix, self._at_end or self._left <= 0)

    @property
    def _at_end(self) -> bool:
        """Whether the token is the <eos> that ends the stream."""
        return self.token == EOS and self._course.drawing.at_eos == "end"

    def _numbers(self, position: int) -> Sampler:
        return partial(self._number, position)

    def _number(self, position: int, redraws: int) -> float:
        attempt = self._attempt + redraws * _REDRAW + self._tries * _TRY
        return uniform(self._seed, self._stream_index, position, attempt)

    def _draw(self, prefix: Prefix) -> list[Token]:
        self.before = prefix
        token, logprob = self._course.choose(prefix.logits, self._numbers(prefix.position))
        if self._breaking:
            if self._course.breaks(token):
                self._breaks = [*(self._breaks if self._picky else []), self._spot(prefix)]
            if self._course.overflows(token):
                token, logprob = self._broken_line()
        if self._pattern is not None:
            half = self._course.leaves_half(token)
            self._halves = [*self._halves, self._spot(self.before)] if half else []
            self._lost = self._lost if half else 0
        self._accept(token)
        last = self._at_end or self._left <= 0 or self._course.ended
        if not self._breaking and self._pattern is None:
            return self._shown(token, logprob, self.before, last, self._course.ended)
        self._held.append((token, logprob, self.before))
        return self._certain(last)

    def _spot(self, prefix: Prefix) -> _Spot:
        return _Spot(self._course.copy(), prefix, self._left, len(self._held))

    def _accept(self, token: int) -> None:
        shape = self._course.shape
        self.token = token
        self._course.accept(token)
        self._left -= 1
        if shape is not None and self._course.shape is not None and shape.line != self._course.shape.line:
            self._breaks = []

    def _broken_line(self) -> tuple[int, float]:
        """A newline at the last space of the line that can be one or, where the line has none, here; goes back to it."""
        refusal = NothingLeft("no line can end here.", "Give another --line-length.")
        for spot in self._breaks[::-1] or [self._spot(self.before)]:
            course = spot.course.copy()
            assert course.shape is not None
            course.shape = course.shape.broken()
            try:
                token, logprob = course.choose(spot.prefix.logits, self._numbers(spot.prefix.position))
            except NothingLeft as error:
                refusal = error
                continue
            self._course, self.before, self._left = course, spot.prefix, spot.left
            del self._held[spot.held :]
            self._goods = [good for good in self._goods if good <= spot.held]
            return token, logprob
        raise refusal

    def _without_half(self) -> Prefix:
        """Take back the token after which no character can be made whole: it is not drawn there again.

        A pattern cannot say which of a million characters it would take, so they are tried; after MOST_HALVES that failed at
        one place, others than halves are drawn there.
        """
        self._lost += 1
        self._halves = self._halves if self._lost < MOST_HALVES else self._halves[:1]
        self._course, prefix, self._left, held = self._halves.pop()
        self._course.refused += (self._held[held][0],) if self._lost < MOST_HALVES else self._course.drawing.vocabulary.halves
        del self._held[held:]
        return prefix

    def _try_again(self, error: NothingLeft) -> Prefix:
        self._tries += 1
        if self._tries >= TRIES:
            hint = "Loosen the pattern (. is no line end, \\n is), give more --length, or another --seed."
            raise CharrnnError(f"{TRIES} texts were begun, and none matched the pattern.", hint) from error
        self._begin()
        return self._start

    def _certain(self, last: bool) -> list[Token]:
        """The held tokens that will not be taken back any more; raises NothingLeft if the text can't match."""
        if self._pattern is not None:
            return self._certain_to_match(self._pattern, last)
        if last:
            return self._end(len(self._held))
        return self._released(self._breaks[0].held if self._breaks else len(self._held))

    def _certain_to_match(self, pattern: Pattern, last: bool) -> list[Token]:
        if self._course.complete:
            if self._stopped(pattern):
                return self._end(len(self._held))
            self._goods.append(len(self._held))
        if last and not self._goods:
            raise NothingLeft("the text ended before it matched.", "Give more --length.")
        if last:
            return self._end(self._goods[-1])
        if len(self._held) > MOST_HELD:
            raise NothingLeft("the text does not come to match.", "Loosen the pattern.")
        sure = self._breaks[0].held if self._breaks else len(self._held)
        return self._released(max((good - 1 for good in self._goods if 0 < good <= sure), default=0))

    def _stopped(self, pattern: Pattern) -> bool:
        """Whether a stop ends the text within the held tokens; raises NothingLeft if what is before it does not match."""
        caption, text = self._caption.copy(), self._told
        if not caption.may_stop:
            return False
        for place, (token, _, _) in enumerate(self._held, 1):
            piece, found = caption.read(token, place == len(self._held), self._course.ended)
            text += piece
            if found and not pattern.matches(text):
                raise NothingLeft("a stop ends the text before it matches.", "Leave --stop out.")
            if found:
                return True
        return False

    def _end(self, count: int) -> list[Token]:
        """End the text after so many of the held tokens."""
        tokens = self._released(count, True, self._course.ended and count == len(self._held))
        self.ended = True
        return tokens

    def _released(self, count: int, last: bool = False, at_line_end: bool = False) -> list[Token]:
        """The first held tokens with their text; if `last`, the text ends with them."""
        tokens: list[Token] = []
        for place, (token, logprob, prefix) in enumerate(self._held[:count], 1):
            tokens += self._shown(token, logprob, prefix, last and place == count, at_line_end)
            if self.ended:
                break
        self._breaks = [spot._replace(held=spot.held - count) for spot in self._breaks]
        self._halves = [spot._replace(held=spot.held - count) for spot in self._halves]
        self._goods = [good - count for good in self._goods if good > count]
        del self._held[:count]
        return tokens

    def _shown(self, token: int, logprob: float, prefix: Prefix, last: bool, at_line_end: bool = False) -> list[Token]:
        """The token with its text; nothing for an <eos> that ends the stream without any."""
        text, found = self._caption.read(token, last, at_line_end)
        if self._pattern is not None:
            self._told += text
        self.ended = found or last
        at_end = last and token == EOS and self._course.drawing.at_eos == "end"
        return [] if at_end and not text else [Token(token, text, logprob, prefix)]
