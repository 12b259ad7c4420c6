"""Examples to learn from one by one: sequences of different lengths side by side in one array, and what belongs to them.

Which of them are held out is decided here, label by label, by a fixed shuffle that depends on their number alone. Knows
nothing of files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
LABEL_LENGTH = 200  # characters
LONGEST_READ = 20_000  # tokens that are read of a text whose label is told, or of a source: memory grows with them
SPLIT_KEY = 20  # of the shuffle; --seed does not touch it, so that runs with different seeds can be compared


@dataclass(frozen=True)
class Ragged:
    """N sequences: `values` (sum of lengths, ...) one after the other, `ends` (N,) where each ends."""

    values: NDArray[Any]
    ends: Ints

    @classmethod
    def of(cls, sequences: Iterable[NDArray[Any]]) -> Self:
        """Put sequences side by side."""
        kept = list(sequences)
        values = np.concatenate(kept) if kept else np.zeros(0, np.int64)
        return cls(values, np.cumsum([len(one) for one in kept], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> NDArray[Any]:
        start = int(self.ends[index - 1]) if index else 0
        return self.values[start : int(self.ends[index])]

    @property
    def lengths(self) -> Ints:
        """(N,)."""
        return np.diff(self.ends, prepend=0)

    def take(self, indices: Ints) -> Ragged:
        """Some of the sequences, in that order."""
        return Ragged.of(self[int(index)] for index in indices)


@dataclass(frozen=True)
class Examples:
    """N examples. Which parts there are depends on the task.

    `inputs` are token ids, or rows of numbers (F,); `targets` the ids of the other text of a pair; `labels` (N,) numbers of
    labels; `texts` the two texts of each row as they were read (none for numbers).
    """

    inputs: Ragged
    targets: Ragged | None = None
    labels: Ints | None = None
    texts: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def sizes(self) -> Ints:
        """(N,) steps of each example, of both texts if there are two."""
        return self.inputs.lengths + (self.targets.lengths if self.targets is not None else 0)

    def take(self, indices: Ints) -> Examples:
        """Some of the examples, in that order."""
        return Examples(
            self.inputs.take(indices),
            None if self.targets is None else self.targets.take(indices),
            None if self.labels is None else self.labels[indices],
            tuple(self.texts[int(index)] for index in indices) if self.texts else (),
        )


@dataclass(frozen=True)
class Parts:
    """The examples of a corpus: those to learn from, those held out, and the names of their labels."""

    train: Examples
    val: Examples
    names: tuple[str, ...] = ()

    def held(self) -> tuple[Examples, str]:
        """The examples that are scored while it is learnt, and which part they are: for want of others, those learnt from."""
        return (self.val, "validation") if len(self.val) else (self.train, "training")


def split(number: int, labels: Ints | None, fraction: float) -> tuple[Ints, Ints]:
    """Which of `number` examples are learnt from and which are held out, each in rising order.

    Of each label (or of all, without labels) the share `fraction` is held out, rounded, but at least one of two; of each
    at least one is learnt from.
    """
    groups = [np.arange(number)] if labels is None else [np.flatnonzero(labels == label) for label in np.unique(labels)]
    held: list[Ints] = []
    for group in groups:
        count = min(max(round(fraction * len(group)), 1), len(group) - 1) if fraction else 0
        order = np.random.Generator(np.random.Philox(key=[SPLIT_KEY, len(group)])).permutation(len(group))
        held.append(group[order[:count]])
    out = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(number), out), out


def is_name(label: str) -> bool:
    """Whether a label can be one: short, and of characters that a file and a terminal take."""
    return 0 < len(label) <= LABEL_LENGTH and not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in label)


def named(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels in order: numbers by their value, then words."""
    return tuple(sorted(set(labels), key=lambda name: (0, int(name), name) if _is_number(name) else (1, 0, name)))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 19


def numbered(labels: Sequence[str], names: Sequence[str]) -> Ints:
    """The number of each label among `names`."""
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[label] for label in labels], np.int64)
