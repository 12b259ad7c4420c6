"""The course of one text: which tokens may come next, how one is chosen, and what has come.

A course sees tokens as they are drawn; what of them is shown, and when, is decided by the voice (voice.py). It can be
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
from charrnn.decoding import constraints, sampling
from charrnn.decoding.compiled import CompiledDraw
from charrnn.decoding.constraints import Rules, Shape
from charrnn.decoding.engine import Floats
from charrnn.decoding.kernel import Library
from charrnn.decoding.patterns import Pattern
from charrnn.decoding.pending import NOTHING, Pending
from charrnn.decoding.sampling import NothingLeft
from charrnn.decoding.stops import PatternFinder, StopFinder
from charrnn.decoding.vocabulary import RESERVED_IDS, Vocabulary
from charrnn.errors import UsageError
from charrnn.text.tokenizers import EOS, REPLACEMENT, Tokenizer

RECENT = sampling.PENALIZED  # tokens that the penalties look back on
REMEMBERED = 1000  # tokens that no-repeat n-gram looks back on
MOST_BIAS = 1000.0
MOST_KEPT = 1 << 22  # numbers, in masks of places that a text may come to again
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
        copies: Copies | None = None, kernel: Library | None = None, hard: bool = False,
    ) -> None:  # fmt: skip
        """`hard` is whether no line may get too long for a moment (see constraints.rules_of)."""
        self.tokenizer, self.settings, self.at_eos, self.copies = tokenizer, settings, at_eos, copies
        self.rules = constraints.rules_of(shaping, hard)
        self.finders: list[StopFinder | PatternFinder] = [StopFinder(shaping.stop)] if shaping.stop else []
        if shaping.stop_regex:
            self.finders.append(PatternFinder(shaping.stop_regex))
        self.plain = sampling.is_plain(settings)
        self.kernel = kernel
        self._vocabulary: Vocabulary | None = None
        self._added: dict[object, NDArray[np.float64]] = {}
        self._draws: dict[object, CompiledDraw] = {}
        self._biased = self._biases()
        self._always = self._without_banned()
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
            return (self._biased if course.pending.text else self._always) + course.mask(), None
        if key not in self._added:
            if len(self._added) * len(self._always) > MOST_KEPT:
                self._added.clear()
                self._draws.clear()
            self._added[key] = self._always + course.mask() if course.bound else self._always
            if self.kernel is not None and self.plain:
                self._draws[key] = CompiledDraw(self.kernel, self._added[key])
        return self._added[key], self._draws.get(key)

    def _biases(self) -> NDArray[np.float64]:
        """Biases, and -inf for what no setting allows."""
        added = np.zeros(self.tokenizer.vocab_size)
        for one in self.settings.bias:
            text, bias = _bias(one)
            tokens = self.vocabulary.spelling(text)
            if not tokens:
                raise UsageError(f"--bias {one}: {text!r} is not one token of this model.", "Give a single character or piece.")
            added[tokens] += bias
        added[list(RESERVED_IDS)] = -math.inf
        if self.at_eos == "never":
            added[EOS] = -math.inf
        return added

    def _without_banned(self) -> NDArray[np.float64]:
        added = self._biased.copy()
        if self.settings.ban:
            added[list(self.vocabulary.holding(self.settings.ban))] = -math.inf
        if not (added > -math.inf).any():
            raise UsageError("--ban leaves no character to write.", "Ban fewer.")
        return added

    def _check_rules(self, rules: Rules) -> None:
        for letter in rules.prefix:
            self._check_letter("--line-prefix", [letter])
        for line in range(len(rules.letters)):
            if rules.letters[line] != " ":
                self._check_letter("--acrostic", constraints.Shape(rules, line).next_letters)
        if not (rules.width or rules.count):
            return
        if self.tokenizer.unknown("\n") and self.at_eos != "newline":
            raise UsageError("this model has never seen a line end, so it can't be asked for lines.", "Use --length.")
        if "\n" in self.settings.ban:
            raise UsageError("--ban forbids line ends, so there can't be lines of a certain number or length.", "Ban fewer.")

    def _check_letter(self, option: str, forms: list[str]) -> None:
        """Raise UsageError if none of the `forms` of a character can be written."""
        known = [form for form in forms if not self.tokenizer.unknown(form)]
        if not known:
            raise UsageError(f"{option} holds {forms[0]!r}, which the model has never seen.", "Use characters of its text.")
        if all(form in self.settings.ban for form in known):
            raise UsageError(f"{option} holds {forms[0]!r}, which --ban forbids.", "Ban fewer.")


@dataclass
class Course:
    """One text on its way. What is `pending` is in the prompt already and must come again, as the beginning of pieces."""

    drawing: Drawing
    shape: Shape | None
    pending: Pending = NOTHING
    rest: bytes = b""  # half a character
    tail: str = ""  # the last characters, for verbatim copies
    recent: deque[int] = field(default_factory=deque)
    refused: tuple[int, ...] = ()  # tokens that were drawn here and may not come

    @classmethod
    def begun(cls, drawing: Drawing, shown: str, recent: Sequence[int], pending: Pending) -> Course:
        """The course after `shown`; raises UsageError if the rules forbid it."""
        shape = None if drawing.rules is None else constraints.begun(drawing.rules, shown)
        most = REMEMBERED if drawing.settings.no_repeat_ngram else RECENT
        tail = "" if drawing.copies is None else (drawing.tokenizer.decode(recent) + pending.text)[-drawing.copies.longest :]
        return cls(drawing, shape, pending, tail=tail, recent=deque(recent, maxlen=most))

    def copy(self) -> Course:
        """Another course that goes on from here."""
        other = copy.copy(self)
        other.recent = self.recent.copy()
        return other

    @property
    def bound(self) -> bool:
        """Whether not every token may come next."""
        ban = self.drawing.settings.ban
        return self.shape is not None or bool(self.pending.text) or bool(ban and (self.rest or REPLACEMENT in ban))

    @property
    def free(self) -> bool:
        """Whether the next token depends on the logits and the temperature alone, and so all after it."""
        drawing = self.drawing
        return drawing.plain and drawing.copies is None and not self.bound and not drawing.settings.ban

    @property
    def key(self) -> object:
        """What the tokens that may come next depend on; None if on more than is worth remembering."""
        if self.pending.text:
            return None
        if self.shape is None:
            return self.rest if self.bound else b""
        shape = self.shape.key
        return None if shape is None else (shape, self.rest)

    @property
    def ended(self) -> bool:
        """Whether the rules end the text here."""
        return self.shape is not None and self.shape.ended

    @property
    def pattern(self) -> Pattern | None:
        """What the whole text must match."""
        return None if self.drawing.rules is None else self.drawing.rules.pattern

    @property
    def complete(self) -> bool:
        """Whether the text would do as it is."""
        return not self.pending.text and not self.rest and (self.shape is None or self.shape.may_end)

    def mask(self) -> NDArray[np.float64]:
        """0 for each token (V,) that may come next, -inf for the others; the hope of those that hold only part of what is
        pending."""
        if self.pattern is not None:
            self.pattern.begin()
        may = self.drawing.vocabulary.allowed(self.rest, self._fits, self._may_begin)
        if self.drawing.at_eos == "end" and self.complete:
            may[EOS] = True
        mask = np.where(may, 0.0, -math.inf)
        if self.pending.text:
            mask[[token for token in np.flatnonzero(may) if not self._finishes(int(token))]] = -math.inf
            for token, way in self.pending.ways.items():
                mask[token] = way.hope
        return mask

    def choose(self, logits: Floats, uniform: Sampler) -> tuple[int, float]:
        """The next token and its log-probability (nats; the model's own, given what is pending); raises NothingLeft.

        One that copies too much, or is too long for a whole line, is drawn again.
        """
        added, compiled = self.drawing.added(self)
        while True:
            try:
                token, logprob = self._chosen(logits, added, compiled, uniform(len(self.refused)))
            except NothingLeft as error:
                if self.drawing.copies is None or not self.refused:
                    raise
                message = f"whatever comes here makes a copy of more than {self.drawing.copies.longest} characters."
                raise NothingLeft(message, "Give a larger --max-copy, or another --seed.") from error
            if not self.offends(token) and not (self.shape is not None and self.shape.blank and self.overflows(token)):
                return token, logprob + self.pending.hope_after(token) - self.pending.hope
            self.refused += (token,)

    def _chosen(
        self, logits: Floats, added: NDArray[np.float64], compiled: CompiledDraw | None, number: float
    ) -> tuple[int, float]:  # fmt: skip
        settings = self.drawing.settings
        if self.refused:
            added, compiled = added.copy(), None
            added[list(self.refused)] = -math.inf
        drawn = None if compiled is None else compiled(logits, settings.temp, number)
        if drawn is not None:
            return drawn
        if self.drawing.plain:
            return sampling.draw(logits, added, settings.temp, number)
        token = sampling.choose(logits + added, settings, tuple(self.recent), number)
        return token, sampling.log_probability(logits, token)

    def accept(self, token: int) -> None:
        """Go on with `token`."""
        self.recent.append(token)
        self.refused = ()
        if self.shape is None and not self.pending.text and self.drawing.copies is None and not self.drawing.settings.ban:
            return
        text, self.rest = self.drawing.vocabulary.read(token, self.rest)
        text, self.pending = text[len(self.pending.text) :], self.pending.ways.get(token, NOTHING)
        if self.drawing.copies is not None:
            self.tail = (self.tail + text)[-self.drawing.copies.longest :]
        if self.shape is not None:
            self.shape = self.shape.reading(text) or self.shape

    def leaves_half(self, token: int) -> bool:
        """Whether `token` leaves half a character."""
        return bool(self.drawing.vocabulary.read(token, self.rest)[1])

    def offends(self, token: int) -> bool:
        """Whether `token` would make too long a copy of the training text, or leave nothing else to come.

        What the rules demand, such as the prefix of a line, is not the model's fault; a line end that they demand only
        because the line got too long could stand elsewhere.
        """
        copies, shape = self.drawing.copies, self.shape
        if copies is None:
            return False
        text = self._new(token)
        demanded = 0 if shape is None or shape.cut else len(shape.forced)
        if copies.offends(self.tail + text[:demanded], text[demanded:]):
            return True
        after = None if shape is None or demanded else shape.reading(text)
        if shape is None or after is None or not after.due or after.line == shape.line:
            return False
        letters = [letter for letter in after.next_letters if not self.drawing.tokenizer.unknown(letter)]
        return all(copies.offends(self.tail + text + after.forced, letter) for letter in letters)

    def overflows(self, token: int) -> bool:
        """Whether `token` would make its line too long."""
        if self.shape is None or not self.shape.rules.width:
            return False
        text = self._new(token)
        half = not self.pending.text and self.leaves_half(token)
        room = self.shape.rules.width - self.shape.column
        return len(text.partition("\n")[0]) + half > max(room, 0)

    def breaks(self, token: int) -> bool:
        """Whether a line may be broken before `token`: it begins with a space, and the line is not empty."""
        shape = self.shape
        text, _ = self.drawing.vocabulary.read(token, self.rest)
        return shape is not None and not self.pending.text and not shape.forced and not shape.blank and text.startswith(" ")

    def _finishes(self, token: int) -> bool:
        """Whether `token` holds all that is pending."""
        return len(self.drawing.vocabulary.read(token, self.rest)[0]) >= len(self.pending.text)

    def _new(self, token: int) -> str:
        """What `token` adds to the text that is not in the prompt."""
        return self.drawing.vocabulary.read(token, self.rest)[0][len(self.pending.text) :]

    def _fits(self, text: str) -> bool:
        if len(text) < len(self.pending.text):
            return self.pending.text.startswith(text)
        if not text.startswith(self.pending.text):
            return False
        text = text[len(self.pending.text) :]
        if any(letter in self.drawing.settings.ban for letter in text):
            return False
        return self.shape is None or self.shape.reading(text) is not None

    def _may_begin(self, rest: bytes) -> bool:
        return not self.pending.text and (self.shape is None or self.shape.may_begin(rest))


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
