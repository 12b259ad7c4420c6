"""The end of a prompt that has not been read, and how likely the model would have written it from each place on.

A token that is only the beginning of what is pending ("l" of "lamp") says little by its own probability: what counts is
the probability of the token and of all the rest. So the segmentations are followed through the model, the likeliest
first, and each place in them knows its `hope`: the log-probability that the text is written from there, in whatever
pieces. Drawing by probability times hope is drawing from the model on the condition that the text begins so, exactly,
but for what was too unlikely to be followed. (Drawing by probability alone among the tokens that fit would begin a
quarter of all texts after "The lam" with the pieces " ", "l", "a" and "m", after which a model knows nothing to say;
the condition makes them a thousandth.)
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from charrnn.decoding.engine import Floats, State, Stepper
from charrnn.decoding.vocabulary import Vocabulary

MOST_STEPS = 100  # of the engine, beside those of the usual segmentation; a few milliseconds
NEGLIGIBLE = 9.0  # nats below what has been found so far: 1 in 8,000


@dataclass(frozen=True)
class Pending:
    """Text that must come again as the beginning of pieces; `ways` are the tokens that are only a part of it, and what is
    pending after each."""

    text: str = ""
    hope: float = 0.0
    ways: Mapping[int, Pending] = field(default_factory=dict)

    def hope_after(self, token: int) -> float:
        """Of `token`, which may come here: 0 if it holds all the text."""
        return self.ways[token].hope if token in self.ways else 0.0


NOTHING = Pending()


@dataclass
class _Place:
    """A place in a segmentation: what is left of the text, the model's state there, and what it says comes next."""

    text: str
    rest: bytes
    logprob: float  # of the tokens before
    state: State
    scores: NDArray[np.float64]  # log-probabilities (V,)
    finished: float  # log of the probability that the next token holds all the text
    inside: Mapping[int, tuple[str, bytes]]  # the tokens that hold a part of it
    followed: dict[int, _Place] = field(default_factory=dict)


def explored(
    engine: Stepper, vocabulary: Vocabulary, state: State, logits: Floats, text: str, usual: Sequence[int]
) -> Pending:  # fmt: skip
    """What is pending where `text` must come after `state` and `logits`; `usual` are the tokens that it is commonly made of."""
    if not np.isfinite(logits).all():  # whoever draws says that these are no numbers
        return Pending(text)
    return _Explorer(engine, vocabulary).explored(state, logits, text, usual)


class _Explorer:
    def __init__(self, engine: Stepper, vocabulary: Vocabulary) -> None:
        self._engine, self._vocabulary = engine, vocabulary
        self._known: dict[tuple[str, bytes], tuple[NDArray[np.int64], dict[int, tuple[str, bytes]]]] = {}
        self._queue: list[tuple[float, int, _Place, int]] = []
        self._order = itertools.count()
        self._found = -np.inf  # log of the probability of all that was finished

    def explored(self, state: State, logits: Floats, text: str, usual: Sequence[int]) -> Pending:
        root = place = self._place(text, b"", 0.0, state, logits)
        for token in usual:
            if token in place.inside:
                place = self._follow(place, token)
        for _ in range(MOST_STEPS):
            if not self._queue or -self._queue[0][0] < self._found - NEGLIGIBLE:
                break
            _, _, place, token = heapq.heappop(self._queue)
            self._follow(place, token)
        return _folded(root)

    def _follow(self, place: _Place, token: int) -> _Place:
        if token not in place.followed:
            rows, state = self._engine.step(np.array([token]), place.state)
            logprob = place.logprob + float(place.scores[token])
            place.followed[token] = self._place(*place.inside[token], logprob, state, rows[0])
        return place.followed[token]

    def _place(self, text: str, rest: bytes, logprob: float, state: State, logits: Floats) -> _Place:
        if (text, rest) not in self._known:
            self._known[text, rest] = self._vocabulary.beginning(text, rest)
        whole, inside = self._known[text, rest]
        scores = logits.astype(np.float64)
        scores -= np.logaddexp.reduce(scores)
        finished = float(np.logaddexp.reduce(scores[whole], initial=-np.inf))
        self._found = np.logaddexp(self._found, logprob + finished)
        place = _Place(text, rest, logprob, state, scores, finished, inside)
        for token in inside:
            heapq.heappush(self._queue, (-logprob - float(scores[token]), next(self._order), place, token))
        return place


def _folded(place: _Place) -> Pending:
    ways = {token: _folded(after) for token, after in place.followed.items()}
    hopes = [place.finished, *(place.scores[token] + way.hope for token, way in ways.items())]
    return Pending(place.text, float(np.logaddexp.reduce(hopes)), ways)
