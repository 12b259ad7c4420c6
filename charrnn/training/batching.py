"""The order in which a text is learnt: parallel contiguous streams, cut into windows, with a cursor that can be saved.

Truncated backpropagation through time: stream b of B walks through its own B-th of the tokens, T at a time, so that the
state carried from one window is the right start of the next. Each epoch begins at another random phase below T, so that
windows are cut at other places. Everything follows from (seed, epoch, window): no generator has to be saved.
Knows nothing of torch. Streams carry a global index, so that ranks can take a share of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cursor:
    """Where the next window lies: an epoch and a window in it, both from 0."""

    epoch: int = 0
    window: int = 0


class Batch(Protocol):
    """What is learnt from in one step."""

    @property
    def after(self) -> Cursor:
        """Where to go on."""

    @property
    def width(self) -> int:
        """Streams, or examples, side by side."""

    def part(self, share: slice) -> Batch:
        """Some of them."""


B = TypeVar("B", bound=Batch, covariant=True)


class Feed(Protocol[B]):
    """What is learnt, in an order of its own."""

    @property
    def windows_per_epoch(self) -> int:
        """Steps in an epoch."""

    @property
    def tokens_per_window(self) -> float:
        """Tokens that one step learns from, in the mean."""

    def at(self, cursor: Cursor) -> B:
        """What `cursor` points at."""


@dataclass(frozen=True)
class Window:
    """Inputs and targets (T, B), the streams that start from a zero state (B,), and where to go on."""

    inputs: NDArray[np.int64] | Any  # or tensors, where the text lies on a GPU
    targets: NDArray[np.int64] | Any
    reset: NDArray[np.bool_]
    after: Cursor

    @property
    def width(self) -> int:
        """B."""
        return len(self.reset)

    def part(self, share: slice) -> Window:
        """Some of the streams, by their global index."""
        return Window(self.inputs[:, share], self.targets[:, share], self.reset[share], self.after)


@dataclass(frozen=True)
class Streams:
    """B parallel streams over `tokens`, in windows of T steps."""

    tokens: NDArray[Any]
    batch_size: int
    window: int
    seed: int
    reset: float = 0.0

    def __post_init__(self) -> None:
        assert len(self.tokens) > self.batch_size * self.window, "`fit` makes T and B fit the text"

    @property
    def windows_per_epoch(self) -> int:
        """Windows in an epoch, at the largest phase (so that every epoch has the same number)."""
        return max(1, (len(self.tokens) - self.window) // self.batch_size // self.window)

    @property
    def tokens_per_window(self) -> float:
        """Tokens that one step learns from."""
        return float(self.batch_size * self.window)

    def at(self, cursor: Cursor) -> Window:
        """The window that `cursor` points at."""
        starts = self._starts(cursor)  # (B,)
        positions = starts + np.arange(self.window + 1)[:, None]  # (T + 1, B)
        piece = self.tokens[positions].astype(np.int64)
        return Window(piece[:-1], piece[1:], self._resets(cursor), self._next(cursor))

    def _starts(self, cursor: Cursor) -> NDArray[np.int64]:
        slack = len(self.tokens) - 1 - self.batch_size * self.windows_per_epoch * self.window
        phase = int(_generator(self.seed, cursor.epoch, 0).integers(min(self.window, slack + 1)))
        span = (len(self.tokens) - phase - 1) / self.batch_size
        firsts = (phase + np.arange(self.batch_size) * span).astype(np.int64)
        return firsts + cursor.window * self.window

    def _resets(self, cursor: Cursor) -> NDArray[np.bool_]:
        if cursor.window == 0:
            return np.ones(self.batch_size, dtype=np.bool_)
        if not self.reset:
            return np.zeros(self.batch_size, dtype=np.bool_)
        return _generator(self.seed, cursor.epoch, cursor.window).random(self.batch_size) < self.reset

    def _next(self, cursor: Cursor) -> Cursor:
        if cursor.window + 1 < self.windows_per_epoch:
            return Cursor(cursor.epoch, cursor.window + 1)
        return Cursor(cursor.epoch + 1, 0)


def _generator(seed: int, epoch: int, window: int) -> np.random.Generator:
    """A generator of its own for every window, by counter (Salmon et al. 2011, Philox)."""
    return np.random.Generator(np.random.Philox(key=[seed, 1], counter=[0, 0, window, epoch]))


def fit(tokens: int, batch_size: int, window: int) -> tuple[int, int]:
    """The largest B and T, at most those asked for, that `tokens` tokens can fill (T first gives way to B = 1)."""
    window = min(window, tokens - 1)
    return max(1, min(batch_size, (tokens - 1) // window)), window
