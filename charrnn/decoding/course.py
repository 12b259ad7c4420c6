"""The course of one text: which tokens may come next, how one is chosen, and what has come.

A course sees tokens as they are drawn; what of them is shown, and when, is decided by the voice in generate.py. It can be
copied, so that a text can go back to an earlier place or go several ways. Knows nothing of engines.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.decoding import constraints, sampling, stops
from charrnn.decoding.compiled import CompiledDraw
from charrnn.decoding.constraints import Rules, Shape
from charrnn.decoding.engine import Floats
from charrnn.decoding.kernel import Library
from charrnn.decoding.vocabulary import RESERVED_IDS, Vocabulary
from charrnn.errors import UsageError
from charrnn.text.tokenizers import EOS, Tokenizer

RECENT = sampling.PENALIZED  # tokens that the penalties look back on
REMEMBERED = 1000  # tokens that no-repeat n-gram looks back on
MOST_BIAS = 1000.0
AtEos = Literal["end", "newline", "never"]  # what <eos> does to a stream


class Copies(Protocol):
    """What knows the training text; see charrnn.text.ngrams."""

    @property
    def longest(self) -> int:
        """Characters in a row that may be a copy."""

    def offends(self, tail: str, piece: str) -> bool:
        """Whether `piece` after `tail` makes a longer run of the training text than allowed."""


class Drawing:
    """All that the courses of one call share: the tokens, what is added to their scores, and the rules.

    Raises UsageError if a setting asks for what this tokenizer or these rules cannot give.
    """

    def __init__(
        self, tokenizer: Tokenizer, settings: SamplingConfig, shaping: ShapingConfig, at_eos: AtEos,
        copies: Copies | None = None, kernel: Library | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.settings, self.at_eos, self.copies = tokenizer, settings, at_eos, copies
        self.rules = constraints.rules_of(shaping)
        self.stops = shaping.stop
        self.stop_pattern = constraints.compiled(shaping.stop_regex, "--stop-regex") if shaping.stop_regex else None
        stops.StopFinder(self.stops)  # raises if one is empty
        self.plain = sampling.is_plain(settings)
        self.kernel = kernel
        self._vocabulary: Vocabulary | None = None
        self._added: dict[object, NDArray[np.float64]] = {}
        self._draws: dict[object, CompiledDraw] = {}
        self._always = self._fixed()
        if self.rules is not None:
            self._check_rules(self.rules)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens as text, made when first needed: a plain text can do without."""
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self.tokenizer, "\n" if self.at_eos == "newline" else None)
        return self._vocabulary

    def added(self, course: Course) -> tuple[NDArray[np.float64], CompiledDraw | None]:
        """What is added to the logits (V,) of what comes next, and the compiled draw with it, if there is one."""
        key = course.key
        if key is None:
            return self._always + course.mask(), None
        if key not in self._added:
            if len(self._added) > 100:  # a text with many different places; none is met often then
                self._added.clear()
                self._draws.clear()
            self._added[key] = self._always + course.mask() if course.bound else self._always
            if self.kernel is not None and self.plain:
                self._draws[key] = CompiledDraw(self.kernel, self._added[key])
        return self._added[key], self._draws.get(key)

    def _fixed(self) -> NDArray[np.float64]:
        """Biases, and -inf for what is never drawn."""
        added = np.zeros(self.tokenizer.vocab_size)
        for one in self.settings.bias:
            text, bias = _bias(one)
            tokens = self.vocabulary.spelling(text)
            if not tokens:
                raise UsageError(f"--bias {one}: {text!r} is not one token of this model.", "Give a single character or piece.")
            added[tokens] += bias
        if self.settings.ban:
            added[list(self.vocabulary.holding(self.settings.ban))] = -math.inf
        added[list(RESERVED_IDS)] = -math.inf
        if self.at_eos == "never":
            added[EOS] = -math.inf
        if not (added > -math.inf).any():
            raise UsageError("--ban leaves no character to write.", "Ban fewer.")
        return added

    def _check_rules(self, rules: Rules) -> None:
        needed = rules.letters.replace(" ", "") + rules.prefix
        unknown = [letter for letter in self.tokenizer.unknown(needed) if not _in_another_case(letter, self.tokenizer)]
        if rules.prefix and (foreign := self.tokenizer.unknown(rules.prefix)):
            unknown += foreign
        if unknown:
            name = "--line-prefix" if unknown[0] in rules.prefix else "--acrostic"
            raise UsageError(f"{name} holds {unknown[0]!r}, which the model has never seen.", "Use characters of its text.")
        many_lines = rules.width or rules.exact or rules.count
        if many_lines and self.tokenizer.unknown("\n") and self.at_eos != "newline":
            raise UsageError("this model has never seen a line end, so it can't be asked for lines.", "Use --length.")


@dataclass
class Course:
    """One text on its way. `pending` is text that is in the prompt already and must come again, as the beginning of pieces."""

    drawing: Drawing
    shape: Shape | None
    pending: str = ""
    rest: bytes = b""  # half a character
    tail: str = ""  # the last characters, for verbatim copies
    recent: deque[int] = field(default_factory=deque)

    @classmethod
    def begun(cls, drawing: Drawing, shown: str, recent: Sequence[int], pending: str) -> Course:
        """The course after `shown`; raises UsageError if the rules forbid it."""
        shape = None if drawing.rules is None else constraints.begun(drawing.rules, shown)
        most = REMEMBERED if drawing.settings.no_repeat_ngram else RECENT
        return cls(drawing, shape, pending, recent=deque(recent, maxlen=most))

    def copy(self) -> Course:
        """Another course that goes on from here."""
        other = copy.copy(self)
        other.recent = self.recent.copy()
        return other

    @property
    def bound(self) -> bool:
        """Whether not every token may come next."""
        return self.shape is not None or bool(self.pending) or bool(self.rest and self.drawing.settings.ban)

    @property
    def free(self) -> bool:
        """Whether the next token depends on the logits and the temperature alone, and so all after it."""
        drawing = self.drawing
        return drawing.plain and drawing.copies is None and not self.bound and not drawing.settings.ban

    @property
    def key(self) -> object:
        """What the tokens that may come next depend on; None if on more than is worth remembering."""
        if self.shape is None:
            return (self.pending, self.rest) if self.bound else ()
        shape = self.shape.key
        return None if shape is None else (shape, self.pending, self.rest)

    @property
    def ended(self) -> bool:
        """Whether the rules end the text here."""
        return self.shape is not None and self.shape.ended

    @property
    def complete_text(self) -> bool:
        """Whether the text may stop here because it was long enough: only a pattern minds."""
        return self.shape is None or self.shape.rules.pattern is None or self.complete

    @property
    def complete(self) -> bool:
        """Whether the text would do as it is."""
        return not self.pending and not self.rest and (self.shape is None or self.shape.may_end)

    def mask(self) -> NDArray[np.float64]:
        """0 for each token (V,) that may come next, -inf for the others."""
        may = self.drawing.vocabulary.allowed(self.rest, self._fits, self._may_begin)
        if self.drawing.at_eos == "end" and self.complete:
            may[EOS] = True
        return np.where(may, 0.0, -math.inf)

    def choose(self, logits: Floats, uniform: Sampler) -> tuple[int, float]:
        """The next token and its log-probability (nats; the model's own); raises NothingLeft if none may come."""
        added, compiled = self.drawing.added(self)
        settings, copies = self.drawing.settings, self.drawing.copies
        redraws = 0
        while True:
            number = uniform(redraws)
            drawn = compiled(logits, settings.temp, number) if compiled is not None and not redraws else None
            if drawn is None and self.drawing.plain:
                drawn = sampling.draw(logits, added, settings.temp, number)
            if drawn is None:
                token = sampling.choose(logits + added, settings, tuple(self.recent), number)
                drawn = token, sampling.log_probability(logits, token)
            if copies is None or not self.offends(drawn[0]):
                return drawn
            if not redraws:
                added = added.copy()
            added[drawn[0]] = -math.inf
            redraws += 1

    def accept(self, token: int) -> None:
        """Go on with `token`."""
        self.recent.append(token)
        if self.shape is None and not self.pending and self.drawing.copies is None and not self.drawing.settings.ban:
            return
        text, self.rest = self.drawing.vocabulary.read(token, self.rest)
        hidden = min(len(self.pending), len(text))
        self.pending, text = self.pending[hidden:], text[hidden:]
        if self.drawing.copies is not None:
            self.tail = (self.tail + text)[-self.drawing.copies.longest :]
        if self.shape is not None:
            self.shape = self.shape.reading(text) or self.shape

    def offends(self, token: int) -> bool:
        """Whether `token` would make too long a copy of the training text."""
        copies = self.drawing.copies
        return copies is not None and copies.offends(
            self.tail, self.drawing.vocabulary.read(token, self.rest)[0][len(self.pending) :]
        )

    def overflows(self, token: int) -> bool:
        """Whether `token` would make its line too long."""
        if self.shape is None or not self.shape.rules.width:
            return False
        text, _ = self.drawing.vocabulary.read(token, self.rest)
        after = self.shape.reading(text[len(self.pending) :])
        return after is not None and after.over

    def breaks(self, token: int) -> bool:
        """Whether a line may be broken before `token`: it begins with a space, and the line is not empty."""
        shape = self.shape
        text, _ = self.drawing.vocabulary.read(token, self.rest)
        return shape is not None and not self.pending and not shape.forced and not shape.blank and text.startswith(" ")

    def _fits(self, text: str) -> bool:
        if self.pending.startswith(text):
            return True
        if not text.startswith(self.pending):
            return False
        text = text[len(self.pending) :]
        if any(letter in self.drawing.settings.ban for letter in text):
            return False
        return self.shape is None or self.shape.reading(text) is not None

    def _may_begin(self, rest: bytes) -> bool:
        if self.pending:
            return self.pending[0].encode("utf-8").startswith(rest)
        return self.shape is None or self.shape.may_begin(rest)


class Sampler(Protocol):
    """Where random numbers come from."""

    def __call__(self, redraws: int) -> float:
        """The number in [0, 1) for this draw after so many that were refused."""


def _bias(text: str) -> tuple[str, float]:
    """TEXT=NUMBER; raises UsageError."""
    name, sign, number = text.rpartition("=")
    try:
        bias = float(number)
    except ValueError:
        bias = math.nan
    if not sign or not name or not abs(bias) <= MOST_BIAS:
        raise UsageError(
            f"--bias is {text!r}; expected TEXT=NUMBER, the number at most {MOST_BIAS:g} either way.", "Type for example e=-2."
        )
    return name.replace("\\n", "\n"), bias


def _in_another_case(letter: str, tokenizer: Tokenizer) -> bool:
    return any(len(other) == 1 and not tokenizer.unknown(other) for other in (letter.upper(), letter.lower()))
