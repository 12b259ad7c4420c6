"""An n-gram model of tokens: interpolated modified Kneser-Ney, the yardstick that a network is held against.

The equations are those of Chen and Goodman (1999). Of a context h and a token w, in the model of order n,

    p(w | h) = (a(hw) - D(a(hw))) / a(h.) + (sum over v of D(a(hv))) / a(h.) * p(w | h without its oldest token)

and p(w | h) is that of the shorter context where h was never met. Here a(hw) counts how often hw occurs, in the highest
order; in every lower one, how many different tokens it occurs after. Sums run over the dot; the shortest context of all
backs off to one over the tokens there are. D is 0 for what has not been met, and D1, D2 or D3 for what has once, twice
or more often; it follows from how many n-grams have a = 1, 2, 3, 4. Before its beginning a text is taken to hold one
more token, that stands nowhere else, again and again: so each n-gram is preceded by something, and the sums hold.

Nothing is hashed: each different n-gram has a number, found by sorting (number of the n-gram one shorter, last token).
Text to be scored is numbered together with the text that is counted, but not counted, so that each look-up is an index;
orders are gone through from 1 up and forgotten again. Knows nothing of files, terminals or networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 12  # the highest order that is tried
PATIENCE = 2  # orders that are no better than one before them, and the search is over
HELD_SHARE = 10  # one token in so many, at the end of the counted text, is what the order is chosen on,
MOST_HELD = 500_000  # and no more than these
MOST_COUNTED = 1 << 23  # tokens; so many take about 1 GB, and a minute
BLOCK = 1 << 22  # tokens scored at once: a longer text is scored in several, and the counted text sorted with each
FALLBACK = (0.5, 1.0, 1.5)  # D1, D2, D3 where too few n-grams are rare to reckon them: single characters, tiny texts
NEVER = 2  # <pad> and <bos>: tokens that no text holds

Tokens = NDArray[np.integer[Any]]
Chances = NDArray[np.float64]


@dataclass(frozen=True)
class _Grams:
    """The different n-grams of one order, numbered; `ids` (N,) are those that end at each position of the text."""

    ids: NDArray[np.int32]
    contexts: NDArray[np.int32]  # (K,) the number of each without its last token, among those one shorter
    shorter: NDArray[np.int32]  # (K,) the same without its first token
    counts: NDArray[np.int64]  # (K,) how often each occurs where it is counted


@dataclass(frozen=True)
class _Text:
    """What is counted and what is scored in one row, each after its own beginning."""

    tokens: NDArray[np.int32]
    counted: slice
    scored: slice
    boundary: int  # the token before all beginnings


def losses(counted: Tokens, history: Tokens, scored: Tokens, vocab_size: int, order: int) -> Chances:
    """What each token of `scored` costs in nats, (M,), given all before it: `history`, then those of `scored`.

    The model is that of `order`, counted on `counted` (which must not be empty), or its last MOST_COUNTED tokens.
    """
    assert len(counted) > 0
    counted = counted[-MOST_COUNTED:]
    known = np.concatenate([np.asarray(history, np.int32), np.asarray(scored, np.int32)])
    parts = []
    for first in range(len(history), len(known), BLOCK):
        before = known[max(0, first - order) : first]
        text = _text(counted, before, known[first : first + BLOCK], vocab_size, order)
        chances = next(itertools.islice(_chances(text), order - 1, None))
        parts.append(-np.log(chances))
    return np.concatenate(parts) if parts else np.zeros(0)


def best_order(counted: Tokens, vocab_size: int, longest: int = LONGEST) -> int:
    """The order that predicts the end of `counted` best, with what stands before it counted; 1 for less than two tokens."""
    counted = counted[-MOST_COUNTED:]
    held = min(len(counted) // HELD_SHARE + 1, MOST_HELD)
    if len(counted) <= held:
        return 1
    text = _text(counted[:-held], counted[-held - longest : -held], counted[-held:], vocab_size, longest)
    costs: list[float] = []
    for chances in itertools.islice(_chances(text), longest):
        costs.append(-float(np.log(chances).sum()))
        if len(costs) - 1 - int(np.argmin(costs)) >= PATIENCE:
            break
    return int(np.argmin(costs)) + 1


def _text(counted: Tokens, history: Tokens, scored: Tokens, vocab_size: int, longest: int) -> _Text:
    gap = np.full(longest + 1, vocab_size, np.int32)
    first = len(gap) + len(counted) + len(gap) + len(history)
    tokens = np.concatenate([gap, counted, gap, history, scored], dtype=np.int32, casting="same_kind")
    return _Text(tokens, slice(len(gap), len(gap) + len(counted)), slice(first, first + len(scored)), vocab_size)


def _chances(text: _Text) -> Iterator[Chances]:
    """What the models of order 1, 2, 3 ... give each scored token, as far as the gaps in the text allow."""
    lower = np.full(text.scored.stop - text.scored.start, 1 / (text.boundary - NEVER))
    grams = _extended(text, np.zeros(len(text.tokens), np.int32))
    while True:
        yield _interpolated(grams, grams.counts, lower, text.scored)
        longer = _extended(text, grams.ids)
        different = np.bincount(longer.shorter[longer.counts > 0], minlength=len(grams.counts))
        lower = _interpolated(grams, different, lower, text.scored)
        grams = longer


def _extended(text: _Text, ids: NDArray[np.int32]) -> _Grams:
    """The n-grams one longer than those of `ids`, which are all zero for the one n-gram without tokens."""
    width = text.boundary + 1
    pairs = np.empty(len(ids), np.int64)
    pairs[0], pairs[1:] = ids.max() + 1, ids[:-1]  # what stands before all of it is like nothing else
    pairs *= width
    pairs += text.tokens
    keys, inverse = np.unique(pairs, return_inverse=True)
    longer = inverse.astype(np.int32)
    del pairs, inverse  # the two largest
    shorter = np.zeros(len(keys), np.int32)
    shorter[longer] = ids
    counts = np.bincount(longer[text.counted], minlength=len(keys))
    return _Grams(longer, (keys // width).astype(np.int32), shorter, counts)


def _interpolated(grams: _Grams, counts: NDArray[np.int64], lower: Chances, scored: slice) -> Chances:
    """One level of the equation above for the scored positions; `counts` (K,) are its a."""
    taken = discounts(counts)[np.minimum(counts, 3)]
    total, spared = np.bincount(grams.contexts, counts), np.bincount(grams.contexts, taken)
    found = grams.ids[scored]
    contexts = grams.contexts[found]
    met = total[contexts] > 0
    over = np.where(met, total[contexts], 1.0)
    return np.asarray(np.where(met, ((counts - taken)[found] + spared[contexts] * lower) / over, lower))


def discounts(counts: NDArray[np.int64]) -> Chances:
    """What is taken from an n-gram that was counted 0, 1, 2, and 3 times or more: (0, D1, D2, D3)."""
    once, twice, thrice, fourth = (int(np.count_nonzero(counts == number)) for number in (1, 2, 3, 4))
    if not once * twice * thrice * fourth:
        return np.array([0.0, *FALLBACK])
    share = once / (once + 2 * twice)
    found = (1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * fourth / thrice)
    return np.array([0.0, *(found if min(found) > 0 else FALLBACK)])
