"""How much of one text stands word for word in another, both as tokens; what tells a fair test from a copy.

Runs of LENGTH tokens are compared by hashes of 64 bits, made by doubling: that of a run from those of its two halves.
Knows nothing of what the texts are for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = 32  # tokens: no two people write so many alike by chance
_DOUBLINGS = 5
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, their bits in no order
_HALF = np.uint64(32)


def share_of(text: NDArray[np.integer[Any]], other: NDArray[np.integer[Any]]) -> float:
    """The share of the runs of LENGTH tokens of `text` that stand in `other` too; of a text that is shorter, 0."""
    runs, there = _hashes(text), _hashes(other)
    if not len(runs) or not len(there):
        return 0.0
    runs.sort()  # neighbours are then looked for in the same place, which is many times faster
    there.sort()
    places = np.minimum(np.searchsorted(there, runs), len(there) - 1)
    return float((there[places] == runs).mean())


def _hashes(tokens: NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
    """One hash for each run, in order, (N - LENGTH + 1,) or (0,)."""
    if len(tokens) < LENGTH:
        return np.zeros(0, np.uint64)
    hashes = _mixed(tokens.astype(np.uint64) + np.uint64(1))
    for doubling in range(_DOUBLINGS):
        half = 1 << doubling
        hashes = _mixed(hashes[:-half] * _FIRST + hashes[half:])
    return hashes


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number spread over all 64 bits, upper half into lower and back; sums and products wrap around."""
    numbers = (numbers ^ (numbers >> _HALF)) * _SECOND
    return numbers ^ (numbers >> _HALF)
