"""Which runs of characters stand in a text, from hashes of its pieces alone; pure NumPy, no text is kept.

A text becomes one 32-bit hash for each window of GRAM characters, in the order of the text. From these follows, for
any longer window, a 64-bit key: a weighted sum of the hashes of its pieces side by side, the last one flush with its
end. So one array serves every length from GRAM characters up. The hashes are no secret: who has them in their order
can guess the text back, character after character.

The piece hash is the upper half of sum(weight[i] * code point[i]) modulo 2**64, which for random weights is as good
as a hash can be (two pieces agree once in about 2**32); the key is sum(weight[j] * hash[j]) modulo 2**64. Weights are
the outputs of SplitMix64 seeded with 0, the first GRAM for pieces, those after them for keys. False alarms: for each
passage of the text that differs from a window in a single piece, odds of 1 in 2**32; for each other passage, about 1
in 2**64. No run that stands in the text is ever missed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.text.tokenizers import code_points

GRAM = 8  # characters of a piece
LEAST = GRAM  # the shortest run that `Copies` can allow: the keys of windows one longer have two pieces
BOUNDARY = "\ud800"  # between two documents: half a surrogate pair, which no text that was read or drawn can hold
GATHERED = 1 << 18  # characters hashed at once
CHUNK = 1 << 14  # numbers in one NumPy call: what stays in a core's cache
FEW = 8  # windows that are looked up one by one in Python, sooner than by NumPy's calls
_ALL_BITS = 2**64 - 1

Grams = NDArray[np.uint32]
Keys = NDArray[np.uint64]


def hashes(pieces: Iterable[tuple[int, str]]) -> Grams:
    """The hashes (N,) of a text that comes as (document, piece of its text); windows never match across documents.

    Each document but the first is one window longer by the boundary before it. Memory: the result, and some MB.
    """
    held, rest = bytearray(), ""
    for text in _gathered(pieces):
        text = rest + text
        held += grams(text).tobytes()  # grows in place; parts of an array would be copied once more to be joined
        rest = text[1 - GRAM :]
    return np.frombuffer(held, np.uint32)


def grams(text: str) -> Grams:
    """The hashes of all windows of GRAM characters of `text`, (len(text) - GRAM + 1,) or (0,)."""
    codes, weights = code_points(text), np.array(_weights(GRAM), np.uint64)
    return np.asarray(_sums(codes, range(GRAM), weights, max(len(codes) - GRAM + 1, 0)) >> np.uint64(32), np.uint32)


def keys(pieces: Grams, length: int) -> Keys:
    """The keys of all windows of `length` characters of the text that has the hashes `pieces`, in its order."""
    starts, weights = _starts(length), np.array(_key_weights(length), np.uint64)
    return _sums(pieces, starts, weights, max(len(pieces) - starts[-1], 0))


class Copies:
    """The runs of one length in a text, to be asked for: those that are one longer than the `longest` allowed."""

    def __init__(self, pieces: Grams, longest: int) -> None:
        """`pieces` are the text's `hashes`. Takes 8 bytes for each character of the text, and the time to sort them."""
        assert longest >= LEAST
        self.longest = longest
        self._keys = keys(pieces, longest + 1)
        self._keys.sort()
        self._places = list(zip(_starts(longest + 1), _key_weights(longest + 1), strict=True))

    def found(self, text: str) -> NDArray[np.bool_]:
        """For each window of `longest` + 1 characters of `text`, whether it stands in the training text.

        Shape (len(text) - longest,), or (0,) where the text is no longer than that.
        """
        result = np.zeros(max(len(text) - self.longest, 0), np.bool_)
        if len(self._keys):
            for start in range(0, len(result), GATHERED):  # bounds the memory for long texts
                result[start : start + GATHERED] = self._looked_up(text[start : start + GATHERED + self.longest])
        return result

    def offends(self, tail: str, piece: str) -> bool:
        """Whether `piece` after `tail` ends, anywhere in it, a run of more than `longest` characters of the text.

        Only the last `longest` characters of `tail` matter. Some 6 microseconds for one character and 40 allowed.
        """
        text = tail[-self.longest :] + piece
        windows = len(text) - self.longest
        if windows > FEW:
            return bool(self.found(text).any())
        return any(self._stands(text[start : start + self.longest + 1]) for start in range(windows))

    def _looked_up(self, text: str) -> NDArray[np.bool_]:
        wanted = keys(grams(text), self.longest + 1)
        places = np.minimum(self._keys.searchsorted(wanted), len(self._keys) - 1)
        return np.asarray(self._keys[places] == wanted)

    def _stands(self, window: str) -> bool:
        """`found` of one window: plain Python, because NumPy's calls would cost more than the arithmetic."""
        wanted = np.uint64(sum(_hash(window[start : start + GRAM]) * weight for start, weight in self._places) & _ALL_BITS)
        place = int(self._keys.searchsorted(wanted))
        return place < len(self._keys) and bool(self._keys[place] == wanted)


@functools.lru_cache(4096)  # as a text grows, all pieces of its last window but one have been met before
def _hash(piece: str) -> int:
    """`grams` of one window."""
    total: int = sum(map(mul, map(ord, piece), _PIECE_WEIGHTS))
    return (total & _ALL_BITS) >> 32


def _gathered(pieces: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The text with boundaries in it, in strings of some size."""
    held: list[str] = []
    size, current = 0, None
    for document, text in pieces:
        if current not in (None, document):
            held.append(BOUNDARY)
        current = document
        held.append(text)
        size += len(text) + 1
        if size >= GATHERED:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _sums(values: NDArray[Any], starts: Iterable[int], weights: Keys, count: int) -> Keys:
    """sum over j of weights[j] * values[i + starts[j]] modulo 2**64, for i from 0 to `count`, (count,)."""
    result = np.zeros(count, np.uint64)
    for begin in range(0, count, CHUNK):
        part = result[begin : begin + CHUNK]
        for start, weight in zip(starts, weights, strict=True):
            part += values[begin + start : begin + start + len(part)] * weight
    return result


def _starts(length: int) -> list[int]:
    """Where the pieces of a window of `length` characters begin: side by side, the last one flush with its end."""
    assert length >= GRAM
    return [*range(0, length - GRAM, GRAM), length - GRAM]


def _key_weights(length: int) -> list[int]:
    return _weights(GRAM + len(_starts(length)))[GRAM:]


def _weights(count: int) -> list[int]:
    """The first `count` outputs of SplitMix64 seeded with 0: odd-looking numbers that anybody can make again."""
    found = []
    for index in range(1, count + 1):
        number = index * 0x9E3779B97F4A7C15 & _ALL_BITS
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _ALL_BITS
        number = (number ^ number >> 27) * 0x94D049BB133111EB & _ALL_BITS
        found.append(number ^ number >> 31)
    return found


_PIECE_WEIGHTS = _weights(GRAM)
