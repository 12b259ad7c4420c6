"""The likeliest answers to many sources at once, by beam search: for a decoder that begins with a source and ends with <eos>.

Sutskever, Vinyals and Le 2014, section 3.2; length normalisation by Wu et al. 2016, equation 14 without coverage. All
sources take a step together; those that are done leave. Without a beam (`width` 1) it is greedy. Shapes: R sources that are
not done, K branches of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.decoding.engine import Floats, Ids, State
from charrnn.decoding.sampling import no_number
from charrnn.text.tokenizers import BOS, EOS, PAD, UNK

ALPHA = 0.6  # how much longer answers are made up for
NEVER = (PAD, BOS, UNK)


class Answering(Protocol):
    """A decoder that knows its sources."""

    def begin(self) -> State:
        """The state before the first step, one row for each source."""

    def step(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """Token ids (B,) and the state before them to logits (B, V) and the state after them."""

    def gather(self, state: State, indices: Ids) -> State:
        """The state whose row k is row `indices[k]` of `state`."""


@dataclass(frozen=True)
class Found:
    """An answer: its tokens without <eos>, its log-probability (nats), and the score that ranks it."""

    ids: tuple[int, ...]
    logprob: float
    score: float


@dataclass
class _Search:
    """Where the search stands for the R sources that are not done."""

    sources: Ids  # (R,)
    ids: list[list[tuple[int, ...]]]  # R lists of K branches
    logprobs: NDArray[np.float64]  # (R, K); -inf where there is no branch
    found: dict[int, list[Found]] = field(default_factory=dict)


def bound(longest_source: int) -> int:
    """How many tokens an answer may have."""
    return 100 + 2 * longest_source


def normalised(logprob: float, tokens: int, alpha: float) -> float:
    """The score of an answer: its log-probability by its length to the power `alpha`, as Wu et al. have it."""
    return float(logprob / ((5 + tokens) / 6) ** alpha)


def search(decoder: Answering, *, width: int, longest: int | Sequence[int], alpha: float = ALPHA) -> list[list[Found]]:
    """For each source the best answers, up to `width` of them, the best first; never none.

    An answer ends with its <eos> within `longest` tokens (of each source, or of all); one that is cut there counts only
    where no other was found. A source's answers do not depend on those beside it. Raises CheckpointError if the model's
    scores are no numbers.
    """
    state = decoder.begin()
    number = len(state[0])
    logits, state = decoder.step(np.full(number, BOS, np.int64), state)
    begun, limits = np.full((number, 1), 0.0), np.broadcast_to(np.asarray(longest, np.int64), number)
    now = _Search(np.arange(number), [[()] for _ in range(number)], begun, {row: [] for row in range(number)})
    for length in range(1, int(limits.max()) + 1):
        left = limits[now.sources]
        rows, tokens = _grow(now, logits, width, alpha, last=left == length)
        keep = [row for row, limit in enumerate(left.tolist()) if length < limit and not _done(now, row, width, alpha, limit)]
        if not keep:
            break
        state = decoder.gather(state, rows[keep].reshape(-1))
        now = _Search(now.sources[keep], [now.ids[row] for row in keep], now.logprobs[keep], now.found)
        logits, state = decoder.step(tokens[keep].reshape(-1), state)
    return [sorted(now.found[row], key=lambda one: -one.score)[:width] for row in range(number)]


def _grow(now: _Search, logits: Floats, width: int, alpha: float, last: NDArray[np.bool_]) -> tuple[Ids, Ids]:
    """Add a token to each branch: which rows the new branches come from and their tokens, (R, K) each.

    A branch ends where <eos> is among the `width` best ways to go on with any branch of its source.
    """
    sources, branches = now.logprobs.shape
    totals = now.logprobs[:, :, None] + _log_softmax(logits).reshape(sources, branches, -1)  # (R, K, V)
    totals[:, :, list(NEVER)] = -np.inf
    least = np.sort(totals.reshape(sources, -1), axis=1)[:, -min(width, totals[0].size)]
    for row, branch in np.argwhere(totals[:, :, EOS] >= least[:, None]).tolist():
        _end(now, row, branch, float(totals[row, branch, EOS]), alpha)
    totals[:, :, EOS] = -np.inf
    flat = totals.reshape(sources, -1)
    kept = min(width, flat.shape[1])
    order = np.argsort(-flat, axis=1, kind="stable")[:, :kept]  # (R, K)
    parents, tokens = np.divmod(order, totals.shape[2])
    now.ids = [
        [(*now.ids[row][parent], int(token)) for parent, token in zip(parents[row], tokens[row], strict=True)]
        for row in range(sources)
    ]
    now.logprobs = np.take_along_axis(flat, order, 1)
    for row in np.flatnonzero(last).tolist():
        if not now.found[int(now.sources[row])]:  # nothing has come to an end by now
            _end(now, row, 0, float(now.logprobs[row, 0]), alpha)
    return np.arange(sources)[:, None] * branches + parents, tokens.astype(np.int64)


def _end(now: _Search, row: int, branch: int, logprob: float, alpha: float) -> None:
    """A branch that ends here."""
    if np.isfinite(logprob):
        ids = now.ids[row][branch]
        now.found[int(now.sources[row])].append(Found(ids, logprob, normalised(logprob, len(ids) + 1, alpha)))


def _done(now: _Search, row: int, width: int, alpha: float, longest: int) -> bool:
    """Whether no branch that goes on could still be among the best: a longer one only becomes less likely."""
    found = sorted((one.score for one in now.found[int(now.sources[row])]), reverse=True)
    if width == 1 and found:
        return True
    if len(found) < width:
        return False
    return found[width - 1] >= normalised(float(now.logprobs[row].max()), longest + 1, alpha)


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    high = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(high).all():
        raise no_number(float(high[~np.isfinite(high)][0]))
    low: NDArray[np.float64] = (logits - high).astype(np.float64)
    odds: NDArray[np.float64] = low - np.log(np.exp(low).sum(axis=-1, keepdims=True))
    return odds
