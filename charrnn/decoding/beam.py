"""Beam search: the texts that the model finds likeliest as a whole, as far as a narrow look ahead can tell.

Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks", section 3.2; length normalisation by
Wu et al. 2016, "Google's Neural Machine Translation System", equation 14 without coverage. There is no chance in it:
temperature, top-k, top-p and min-p do not matter; bans, biases, penalties and the shape of the text do. Every step is one
step of the engine for all hypotheses at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charrnn.decoding import sampling
from charrnn.decoding.course import Course, Drawing
from charrnn.decoding.engine import State, Stepper
from charrnn.decoding.healing import Opening
from charrnn.decoding.voice import Caption
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
    """A text on its way: its course, its row in the batch, what is shown of it, and the sums so far."""

    course: Course
    row: int
    caption: Caption
    text: str = ""
    tokens: int = 0
    logprob: float = 0.0
    total: float = 0.0  # log-probability with biases and penalties


def search(engine: Stepper, drawing: Drawing, opening: Opening, *, width: int, length: int, alpha: float) -> list[Hypothesis]:
    """The best texts after `opening` of at most `length` tokens, at most `width` of them, the best first.

    `alpha` is how much length is made up for: 0 not at all (short texts win), 1 completely (the mean of the tokens).
    Raises CharrnnError if the settings leave no text.
    """
    course = Course.begun(drawing, opening.shown, opening.recent, opening.pending)
    state, logits = opening.prefix.state, opening.prefix.logits[None]
    branches = [_Branch(course, 0, Caption(drawing, len(opening.pending)))]
    finished: list[Hypothesis] = []
    while branches and not _decided(finished, branches, width, length, alpha):
        grown = list(_grown(branches, logits, width, length))
        finished += [_hypothesis(branch, alpha) for branch, _, ended in grown if ended and branch.course.complete_text]
        branches = [branch for branch, _, ended in grown if not ended]
        if branches:
            tokens = [token for _, token, ended in grown if not ended]
            logits, state = _stepped(engine, state, branches, tokens)
    if not finished:
        raise CharrnnError("the beam found no text of this shape.", "Give more --length, or a wider --beam.")
    return sorted(finished, key=lambda one: -one.score)[:width]


def _stepped(engine: Stepper, state: State, branches: list[_Branch], tokens: list[int]) -> tuple[NDArray[np.float32], State]:
    """One step for all branches, each from its own row of `state`; their rows are then in their order."""
    gathered = engine.gather(state, [branch.row for branch in branches])
    for row, branch in enumerate(branches):
        branch.row = row
    return engine.step(np.array(tokens), gathered)


def _grown(
    branches: list[_Branch], logits: NDArray[np.float32], width: int, length: int
) -> Iterator[tuple[_Branch, int, bool]]:  # fmt: skip
    """The `width` best continuations by one token: the branch after it, the token, and whether it ends there."""
    raw = _log_softmax(logits)
    scores = np.stack([_scores(branch, logits[branch.row], raw[branch.row]) for branch in branches])  # (B, V)
    count = 0
    for place in _best(scores, 4 * width):
        old, token = branches[place // raw.shape[1]], int(place % raw.shape[1])
        if scores.flat[place] == -math.inf or count >= width:
            return
        grown = _after(old, token, float(raw[old.row, token]), float(scores.flat[place]), length)
        if grown is not None:
            count += 1
            yield grown


def _scores(branch: _Branch, logits: NDArray[np.float32], raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums (V,) after each token: log-probabilities, changed by what the settings add to the logits."""
    course = branch.course
    adjusted = sampling.penalized(logits + course.drawing.added(course)[0], course.drawing.settings, tuple(course.recent))
    return np.asarray(raw + (adjusted - logits) + branch.total, np.float64)


def _after(old: _Branch, token: int, logprob: float, total: float, length: int) -> tuple[_Branch, int, bool] | None:
    """The branch after `token`, or None if the token is one to be taken back (too long a line, too long a copy)."""
    if old.course.offends(token):
        return None
    if old.course.overflows(token):
        return None
    course, caption = old.course.copy(), old.caption.copy()
    course.accept(token)
    at_end = token == EOS and course.drawing.at_eos == "end"
    last = at_end or course.ended or old.tokens + 1 >= length
    piece, found = caption.read(token, last, course.ended)
    branch = _Branch(course, old.row, caption, old.text + piece, old.tokens + 1, old.logprob + logprob, total)
    return branch, token, last or found


def _best(scores: NDArray[np.float64], count: int) -> list[int]:
    """The places of the highest scores, the highest first; among equal ones the first."""
    flat = scores.ravel()
    if len(flat) > count:
        lowest = np.partition(flat, -count)[-count]
        places = np.flatnonzero(flat >= lowest)
    else:
        places = np.arange(len(flat))
    return [int(place) for place in places[np.argsort(-flat[places], kind="stable")]]


def _decided(finished: list[Hypothesis], branches: list[_Branch], width: int, length: int, alpha: float) -> bool:
    """Whether no branch can still become one of the `width` best: a sum of log-probabilities only falls."""
    if len(finished) < width:
        return False
    worst = sorted((one.score for one in finished), reverse=True)[width - 1]
    return all(branch.total / _norm(length if branch.total < 0 else branch.tokens, alpha) <= worst for branch in branches)


def _hypothesis(branch: _Branch, alpha: float) -> Hypothesis:
    return Hypothesis(branch.text, branch.tokens, branch.logprob, branch.total / _norm(branch.tokens, alpha))


def _norm(tokens: int, alpha: float) -> float:
    return float(((5 + tokens) / 6) ** alpha)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
