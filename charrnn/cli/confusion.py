"""How well a classifier tells labels apart: figures for each label, and which is taken for which.

What `charrnn eval` says of a model of the task classify, and `charrnn train` at the end of its training. Tables have
few enough rows and columns to be looked at; what is left out is said, and --json has all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from charrnn.cli import tables
from charrnn.cli.tables import Table

if TYPE_CHECKING:
    from charrnn.runs.model import Model
    from charrnn.text.examples import Examples
    from charrnn.training.loss import Network

MOST_ROWS = 30  # of labels with figures of their own
MOST_MET = 20  # labels beside each other in the confusion table
LABEL_WIDTH = 20  # columns of a label before its row
HEAD_WIDTH = 10  # and above a column
OTHERS = "(others)"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """K different pairs of a true label and what it was taken for, by number, and how often each was met."""

    names: tuple[str, ...]
    truths: Ints
    guesses: Ints
    counts: Ints

    @classmethod
    def of(cls, names: Sequence[str], truths: Ints, guesses: Ints) -> Confusion:
        """Count the pairs of N examples."""
        pairs, counts = np.unique(truths * len(names) + guesses, return_counts=True)
        return cls(tuple(names), pairs // len(names), pairs % len(names), counts)

    @classmethod
    def of_table(cls, names: Sequence[str], table: Any) -> Confusion | None:
        """From a table (C, C), truth by guess, as a saved model has it; None if it is something else."""
        size = len(names)
        rows = table if isinstance(table, list) and len(table) == size else []
        cells = [cell for row in rows if isinstance(row, list) and len(row) == size for cell in row]
        if not cells or len(cells) != size * size or not all(type(cell) is int and 0 <= cell < 1 << 53 for cell in cells):
            return None
        square = np.array(cells, np.int64).reshape(size, size)
        truths, guesses = np.nonzero(square)
        return cls(tuple(names), truths, guesses, square[truths, guesses]) if len(truths) else None

    def counted(self, numbers: Ints, right: bool = False) -> Ints:
        """How many examples each label has among `numbers` (truths or guesses), or of these the `right` ones; (C,)."""
        kept = self.truths == self.guesses if right else np.ones(len(numbers), bool)
        return np.bincount(numbers[kept], self.counts[kept], len(self.names)).astype(np.int64)

    def commonest(self, most: int) -> Ints:
        """The numbers of the labels with the most examples, in rising order."""
        met = self.counted(self.truths) + self.counted(self.guesses) / (1 + 2 * self.counts.sum())
        return np.sort(np.argsort(-met, kind="stable")[:most])


@dataclass(frozen=True)
class Label:
    """How well one label is told: nan where there is nothing to divide."""

    name: str
    examples: int
    taken: int  # how many examples were taken for it
    right: int

    @property
    def precision(self) -> float:
        """Share of what was taken for it that is it."""
        return self.right / self.taken if self.taken else float("nan")

    @property
    def recall(self) -> float:
        """Share of its examples that were taken for it."""
        return self.right / self.examples if self.examples else float("nan")

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        met = self.examples + self.taken
        return 2 * self.right / met if met else float("nan")


def labels(confusion: Confusion) -> list[Label]:
    """The figures of each label."""
    examples, taken = confusion.counted(confusion.truths), confusion.counted(confusion.guesses)
    right = confusion.counted(confusion.truths, right=True)
    found = zip(confusion.names, examples.tolist(), taken.tolist(), right.tolist(), strict=True)
    return [Label(*figures) for figures in found]


def report(model: Model, network: Network, examples: Examples, split: str, as_json: bool) -> str:
    """Figures and tables, or one JSON object; on a terminal the tables have been drawn already."""
    from charrnn.models.classifier import Classifier
    from charrnn.training import classify

    assert isinstance(network, Classifier)
    assert examples.labels is not None
    odds = classify.log_odds(network, examples)
    scores = classify.report(odds, examples.labels)
    confusion = Confusion.of(model.labels, examples.labels, odds.argmax(-1))
    figures = {"accuracy": scores.accuracy, "macro_f1": scores.measures["macro_f1"], "loss": scores.loss}
    if as_json:
        about = {"run": model.name, "split": split, "examples": len(examples)}
        return json.dumps(about | figures | as_record(confusion), ensure_ascii=False) + "\n"
    return shown(confusion, sys.stdout) + "\n" + _lines(figures, confusion, examples)


def as_record(confusion: Confusion) -> dict[str, Any]:
    """All figures of all labels, those that are none as null; of the confusion table what is not zero."""
    per_label = {}
    for label in labels(confusion):
        shares = {name: getattr(label, name) for name in ("precision", "recall", "f1")}
        known = {name: None if np.isnan(share) else share for name, share in shares.items()}
        per_label[label.name] = {"examples": label.examples, "taken_for_it": label.taken} | known
    table: dict[str, dict[str, int]] = {}
    for truth, guess, count in zip(confusion.truths, confusion.guesses, confusion.counts.tolist(), strict=True):
        table.setdefault(confusion.names[truth], {})[confusion.names[guess]] = count
    return {"labels": per_label, "confusion": table}


def _lines(figures: dict[str, float], confusion: Confusion, examples: Examples) -> str:
    most = confusion.commonest(1)[0]
    share = confusion.counted(confusion.truths)[most] / confusion.counts.sum()
    what = "texts" if examples.texts else "sequences"
    name = tables.fitted(confusion.names[most], LABEL_WIDTH)
    return (
        f"accuracy   {figures['accuracy']:.2%} of {len(examples):,} {what}\n"
        f"commonest  {share:.2%} are {name}\n"
        f"macro F1   {figures['macro_f1']:.4f}\n"
        f"loss       {figures['loss']:.4f} nats per example\n"
    )


def shown(confusion: Confusion, stream: TextIO) -> str:
    """Both tables as plain text; on a terminal they are drawn instead, and there is nothing left to write."""
    both = [label_table(confusion)]
    if len(confusion.names) > 1:
        both.append(confusion_table(confusion, tables.columns(stream)))
    if not stream.isatty():
        return "\n".join(tables.plain(table) for table in both)
    for number, table in enumerate(both):
        stream.write("\n" if number else "")
        tables.draw(table, stream)
    stream.flush()
    return ""


def label_table(confusion: Confusion) -> Table:
    """Examples, precision, recall and F1 of each label, or of those with the most examples."""
    kept = confusion.commonest(MOST_ROWS)
    found, left = labels(confusion), len(confusion.names) - len(kept)
    rows = [_label_row(found[number]) for number in kept.tolist()]
    note = f"and {left:,} labels with fewer examples (`charrnn eval` with --json has all)" if left else ""
    return Table(("label", "examples", "precision", "recall", "F1"), rows, note)


def _label_row(label: Label) -> tuple[str, ...]:
    shares = (label.precision, label.recall, label.f1)
    return (tables.fitted(label.name, 2 * LABEL_WIDTH), f"{label.examples:,}", *map(_share, shares))


def _share(value: float) -> str:
    return "--" if np.isnan(value) else f"{value:.4f}"


def confusion_table(confusion: Confusion, width: int) -> Table:
    """Rows of true labels, columns of what they were taken for; of many labels the commonest, the others together."""
    kept = confusion.commonest(MOST_MET)
    while True:
        table = _square(confusion, kept)
        grid = [table.columns, *table.rows]
        needed = sum(2 + max(map(tables.width, column)) for column in zip(*grid, strict=True)) - 2
        if needed <= width or len(kept) <= 1:
            return table
        kept = confusion.commonest(len(kept) - 1)


def _square(confusion: Confusion, kept: Ints) -> Table:
    whole = len(kept) == len(confusion.names)
    place = np.full(len(confusion.names), len(kept))  # the others, behind those that are kept
    place[kept] = np.arange(len(kept))
    square = np.zeros((len(kept) + 1, len(kept) + 1), np.int64)
    np.add.at(square, (place[confusion.truths], place[confusion.guesses]), confusion.counts)
    names = [confusion.names[number] for number in kept.tolist()] + ([] if whole else [OTHERS])
    size = len(names)
    rows = [
        (tables.fitted(name, LABEL_WIDTH), *(f"{count:,}" if count else "." for count in square[row, :size].tolist()))
        for row, name in enumerate(names)
    ]
    note = "" if whole else f"{OTHERS}: the {len(confusion.names) - len(kept):,} labels with fewer examples"
    return Table(("truth \\ taken for", *(tables.fitted(name, HEAD_WIDTH) for name in names)), rows, note)
