"""Beam search: the texts that the model finds likeliest as a whole, as far as a narrow look ahead can tell.

Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks", section 3.2; length normalisation by
Wu et al. 2016, "Google's Neural Machine Translation System", equation 14 without coverage. There is no chance in it:
temperature, top-k, top-p and min-p do not matter; bans, biases, penalties and the shape of the text do. Every step is one
step of the engine for all hypotheses at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn.decoding import generate, sampling
from charrnn.decoding.caption import Caption
from charrnn.decoding.course import Course, Drawing
from charrnn.decoding.engine import Floats, Stepper
from charrnn.decoding.generate import Prefix
from charrnn.decoding.healing import Opening
from charrnn.errors import CharrnnError
from charrnn.text.tokenizers import EOS


@dataclass(frozen=True)
class Hypothesis:
    """A text that was found: its tokens, its log-probability (nats; the model's own), and the score that ranks it."""

    text: str
    tokens: int
    logprob: float
    score: float


@dataclass
class _Branch:
    """A text on its way: its course, what has been read, what is shown of it, and the sums so far."""

    course: Course
    prefix: Prefix
    caption: Caption
    text: str = ""
    tokens: int = 0
    logprob: float = 0.0
    total: float = 0.0  # log-probability with biases and penalties
    good: _Branch | None = None  # itself or, where a pattern does not match, the last before it that does
    space: _Branch | None = None  # the text before the last space of its line
    taken: bool = False  # whether a line has been ended here already, for want of room


class _Grown(NamedTuple):
    """A branch that has grown by a token, and whether it ends there."""

    branch: _Branch
    token: int
    last: bool


def search(engine: Stepper, drawing: Drawing, opening: Opening, *, width: int, length: int, alpha: float) -> list[Hypothesis]:
    """The best texts after `opening` of at most `length` tokens, at most `width` of them, the best first.

    `alpha` is how much length is made up for: 0 not at all (short texts win), 1 completely (the mean of the tokens).
    `drawing` must be `hard`. As in all texts, a line that gets too long ends at its last space instead, and a pattern is to
    be met by the longest text that can. Raises CharrnnError if the settings leave no text.
    """
    assert drawing.rules is None or drawing.rules.hard
    pending = generate.pieces_pending(engine, drawing, opening.prefix, opening.pending)
    course = Course.begun(drawing, opening.shown, opening.recent, pending)
    first = _Branch(course, opening.prefix, Caption(drawing, len(opening.pending)))
    branches = [_with_good(first, None, opening.shown, False)]
    found: dict[str, Hypothesis] = {}
    while (rows := list(_with_room(branches))) and not _decided(list(found.values()), rows, width, length, alpha):
        raw = np.stack([_log_softmax(branch.prefix.logits) for branch in rows])  # (B, V)
        scores = np.stack([_scores(branch, own) for branch, own in zip(rows, raw, strict=True)])
        grown = list(_grown(rows, raw, scores, width, length, opening.shown))
        for branch in [*_stuck(rows, scores), *(one.branch for one in grown if one.last)]:
            _keep(found, branch.good, alpha)
        going = [one for one in grown if not one.last]
        branches = [one.branch for one in going]
        if branches:
            _step(engine, branches, [one.token for one in going])
    if not found:
        raise CharrnnError("the beam found no text of this shape.", "Give more --length, or a wider --beam.")
    return sorted(found.values(), key=lambda one: -one.score)[:width]


def _step(engine: Stepper, branches: list[_Branch], tokens: list[int]) -> None:
    """Let each branch read its token, all of them in one step."""
    logits, state = engine.step(np.array(tokens), generate.stacked([branch.prefix for branch in branches]))
    for row, branch in enumerate(branches):
        branch.prefix = Prefix(generate.row_of(state, row), logits[row], branch.prefix.position + 1)


def _with_room(branches: list[_Branch]) -> Iterator[_Branch]:
    """The branches; of those whose likeliest token has no room in its line the part before the line's last space, once.

    There the line is to end.
    """
    for branch in branches:
        course, token = branch.course, int(branch.prefix.logits.argmax())
        space = branch if course.breaks(token) else branch.space
        if space is None or space.course.shape is None or not course.overflows(token):
            yield branch
        elif not space.taken:
            space.taken = True
            ended = copy.copy(space)
            ended.course, ended.good = space.course.copy(), branch.good
            ended.course.shape = space.course.shape.broken()
            yield ended


def _scores(branch: _Branch, raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums (V,) after each token: log-probabilities, changed by what the settings add to the logits.

    Where a text is pending, with the hope of the rest of it in place of what it has already cost.
    """
    course, logits = branch.course, branch.prefix.logits
    added, _ = course.drawing.added(course)
    adjusted = sampling.penalized(logits + added, course.drawing.settings, tuple(course.recent))
    return np.asarray(raw + (adjusted - logits) + branch.total - course.pending.hope, np.float64)


def _stuck(branches: list[_Branch], scores: NDArray[np.float64]) -> list[_Branch]:
    """The texts to which a pattern lets nothing be added."""
    ends = (scores.max(axis=1) == -math.inf).tolist()
    return [branch for branch, end in zip(branches, ends, strict=True) if end and branch.course.pattern is not None]


def _grown(
    branches: list[_Branch], raw: NDArray[np.float64], scores: NDArray[np.float64], width: int, length: int, shown: str
) -> Iterator[_Grown]:
    """The `width` best continuations by one token."""
    count = 0
    for place in _best(scores, 2 * width):
        row, token = divmod(place, scores.shape[1])
        old, pending = branches[row], branches[row].course.pending
        if scores.flat[place] == -math.inf or count >= width:
            return
        if not old.course.offends(token):
            count += 1
            logprob = float(raw[row, token]) + pending.hope_after(token) - pending.hope
            yield _after(old, token, logprob, float(scores.flat[place]), length, shown)


def _after(old: _Branch, token: int, logprob: float, total: float, length: int, shown: str) -> _Grown:
    course, caption = old.course.copy(), old.caption.copy()
    course.accept(token)
    at_end = token == EOS and course.drawing.at_eos == "end"
    last = at_end or course.ended or old.tokens + 1 >= length
    piece, stopped = caption.read(token, last, course.ended)
    branch = _Branch(course, old.prefix, caption, old.text + piece, old.tokens + 1, old.logprob + logprob, total)
    if course.shape is not None and old.course.shape is not None and course.shape.line == old.course.shape.line:
        branch.space = old if old.course.breaks(token) else old.space
    return _Grown(_with_good(branch, old.good, shown, stopped), token, last or stopped)


def _with_good(branch: _Branch, before: _Branch | None, shown: str, stopped: bool) -> _Branch:
    pattern = branch.course.pattern
    if pattern is not None and stopped:
        matches = pattern.matches(shown + branch.text)
    else:
        matches = pattern is None or branch.course.complete
    branch.good = branch if matches else before
    return branch


def _keep(found: dict[str, Hypothesis], branch: _Branch | None, alpha: float) -> None:
    """Add a text to those that were found, unless it is there already, made of likelier tokens."""
    if branch is None:
        return
    text = branch.text + branch.caption.copy().flush()
    one = Hypothesis(text, branch.tokens, branch.logprob, branch.total / _norm(branch.tokens, alpha))
    if text not in found or found[text].score < one.score:
        found[text] = one


def _best(scores: NDArray[np.float64], count: int) -> Iterator[int]:
    """The places of the highest scores, the highest first; among equal ones the first. Some `count` are wanted, mostly."""
    flat = scores.ravel()
    tried = 0
    if len(flat) > count:
        lowest = np.partition(flat, -count)[-count]
        places = np.flatnonzero(flat >= lowest)
        yield from places[np.argsort(-flat[places], kind="stable")].tolist()
        tried = len(places)
    yield from np.argsort(-flat, kind="stable")[tried:].tolist()


def _decided(found: list[Hypothesis], branches: list[_Branch], width: int, length: int, alpha: float) -> bool:
    """Whether no branch can still become one of the `width` best, where sums of log-probabilities only fall."""
    settings = branches[0].course.drawing.settings
    may_rise = settings.bias or settings.frequency_penalty < 0 or settings.repetition_penalty < 1
    if len(found) < width or may_rise:
        return False
    worst = sorted((one.score for one in found), reverse=True)[width - 1]
    return all(branch.total / _norm(length if branch.total < 0 else branch.tokens, alpha) <= worst for branch in branches)


def _norm(tokens: int, alpha: float) -> float:
    return float(((5 + tokens) / 6) ** alpha)


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Raises CharrnnError if the logits are no numbers."""
    shifted = logits - np.float64(logits[sampling.greedy(logits)])
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
