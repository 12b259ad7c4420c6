"""The order in which examples are learnt: each batch of examples of about the same length, with a cursor that can be saved.

An epoch is a shuffle of all; within each POOL batches of it they are sorted by length, so that little is padded, and the
batches are shuffled again. Everything follows from (seed, epoch, window): no generator has to be saved. Shorter examples
are filled up with <pad> (or zeros) at their end. Knows nothing of torch or of what is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.text.examples import Examples, Ints, Ragged
from charrnn.text.tokenizers import PAD
from charrnn.training.batching import Cursor

POOL = 32  # batches
SCORED = 1 << 15  # steps of a batch that is only scored, padding included


@dataclass(frozen=True)
class Padded:
    """B examples: `inputs` (T, B) or (T, B, F), their `lengths` (B,), and what belongs to them; where to go on."""

    inputs: NDArray[Any]
    lengths: Ints
    targets: Ints | None  # (T, B)
    labels: Ints | None  # (B,)
    indices: Ints  # (B,) which examples they are
    after: Cursor
    weights: NDArray[np.float32] | None = None  # (B,) what each counts

    @property
    def width(self) -> int:
        """B."""
        return len(self.lengths)

    def part(self, share: slice) -> Padded:
        """Some of the examples, padded no further than the longest of them."""
        if share == slice(0, self.width):
            return self
        lengths, steps = self.lengths[share], None if self.targets is None else int(_filled(self.targets[:, share]))
        labels = None if self.labels is None else self.labels[share]
        weights = None if self.weights is None else self.weights[share]
        targets = None if self.targets is None else self.targets[:steps, share]
        return Padded(self.inputs[: lengths.max(), share], lengths, targets, labels, self.indices[share], self.after, weights)


@dataclass
class Batches:
    """All examples, in batches of `batch_size`."""

    examples: Examples
    batch_size: int
    seed: int
    weights: NDArray[np.float32] | None = None  # (C,) what an example of each label counts
    _epoch: tuple[int, list[Ints]] = field(default=(-1, []), repr=False)

    @property
    def windows_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.examples) // self.batch_size)

    @property
    def tokens_per_window(self) -> float:
        """Steps in a batch, in the mean."""
        return float(self.examples.sizes.sum()) / self.windows_per_epoch

    def at(self, cursor: Cursor) -> Padded:
        """The batch that `cursor` points at."""
        if self._epoch[0] != cursor.epoch:
            self._epoch = (cursor.epoch, self._order(cursor.epoch))
        more = cursor.window + 1 < self.windows_per_epoch
        after = Cursor(cursor.epoch, cursor.window + 1) if more else Cursor(cursor.epoch + 1, 0)
        batch = padded(self.examples, self._epoch[1][cursor.window], after)
        return batch if self.weights is None else replace(batch, weights=self.weights[batch.labels])

    def _order(self, epoch: int) -> list[Ints]:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, 2], counter=[0, 0, 0, epoch]))
        order, sizes = generator.permutation(len(self.examples)), self.examples.sizes
        batches: list[Ints] = []
        for first in range(0, len(order), POOL * self.batch_size):
            pool = order[first : first + POOL * self.batch_size]
            pool = pool[np.argsort(sizes[pool], kind="stable")]
            batches += [pool[start : start + self.batch_size] for start in range(0, len(pool), self.batch_size)]
        return [batches[place] for place in generator.permutation(len(batches))]


def by_length(examples: Examples) -> Iterator[Padded]:
    """All examples once, the shortest first, as many together as are SCORED steps."""
    sizes = examples.sizes
    order = np.argsort(sizes, kind="stable")
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * sizes[order[last]] <= SCORED:
            last += 1
        yield padded(examples, order[first:last], Cursor())
        first = last


def some(examples: Examples, most: int) -> Examples:
    """Examples of about `most` steps at most, evenly out of all."""
    number = max(1, int(len(examples) * min(1.0, most / max(1, int(examples.sizes.sum())))))
    return examples if number >= len(examples) else examples.take(np.linspace(0, len(examples) - 1, number).astype(np.int64))


def padded(examples: Examples, indices: Ints, after: Cursor) -> Padded:
    """The examples of these numbers side by side."""
    inputs, lengths = filled(examples.inputs, indices)
    targets = None if examples.targets is None else filled(examples.targets, indices)[0]
    labels = None if examples.labels is None else examples.labels[indices]
    return Padded(inputs, lengths, targets, labels, indices, after)


def _filled(targets: Ints) -> int:
    """Steps (T, B) up to the last that is no padding."""
    return int(np.flatnonzero((targets != PAD).any(1))[-1]) + 1


def filled(sequences: Ragged, indices: Ints) -> tuple[NDArray[Any], Ints]:
    """Sequences as one array (T, B, ...), time first, and their lengths (B,)."""
    chosen = [sequences[int(index)] for index in indices]
    lengths = np.array([len(one) for one in chosen], np.int64)
    kind = np.float32 if sequences.values.dtype.kind == "f" else np.int64
    array = np.full((int(lengths.max()), len(chosen), *sequences.values.shape[1:]), PAD, kind)
    for column, one in enumerate(chosen):
        array[: len(one), column] = one
    return array, lengths
