"""A saved model of a task whose examples stand alone, put to the test on a file: its network, and examples as it learnt them.

Knows how rows become examples for a model that exists already; what is printed of the scores is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from charrnn.config import ReadingConfig, TrainingConfig
from charrnn.errors import CorpusError
from charrnn.models.weights import import_weights
from charrnn.runs.model import Model
from charrnn.text import arrays, examples
from charrnn.text.examples import LONGEST_READ, Examples, Ints, Ragged
from charrnn.text.rows import Row
from charrnn.text.sources import Source
from charrnn.text.tokenizers import EOS
from charrnn.training import device as machine
from charrnn.training import lessons
from charrnn.training.loss import Network
from charrnn.training.tasks import TASKS


def network_of(model: Model, device: str = "cpu", threads: int = 0) -> Network:
    """The network of a saved model, ready to be asked; raises UsageError if there is no such device."""
    where = machine.prepare(device, threads)
    network = TASKS[model.config.task].build(model.config, TrainingConfig()).to(where).eval()
    import_weights(network, model.weights)
    return network


def read(model: Model, sources: Sequence[Source], reading: ReadingConfig, split: str = "all") -> Examples:
    """The examples that files hold for a model: `all`, or those that its training would hold out of the same files (`val`).

    Raises CorpusError, also for a label that the model does not know.
    """
    if model.config.input == "rows":
        return _numbers(model, sources, split)
    rows = lessons.read_rows(sources, reading, model.config.task, several=False, lowercase=model.config.lowercase)
    labels = None if model.config.task == "seq2seq" else _known(model, rows)
    if split == "val":
        held = examples.split(len(rows), labels, val_fraction(model))[1]
        rows, labels = [rows[index] for index in held.tolist()], None if labels is None else labels[held]
    if not rows:
        raise _nothing()
    return of_rows(model, rows, labels)


def _nothing() -> CorpusError:
    return CorpusError("there is nothing to score.", "Name a file with more rows, or use --split all.")


def of_rows(model: Model, rows: Sequence[Row], labels: Ints | None) -> Examples:
    """Rows as the examples of a model's task."""
    encode, texts = model.tokenizer.encode, tuple((row.first, row.second) for row in rows)
    if model.config.task == "seq2seq":
        targets = Ragged.of(np.append(encode(row.second), EOS) for row in rows)
        return Examples(Ragged.of(encode(row.first) for row in rows), targets, None, texts)
    if model.config.task == "classify":
        return Examples(Ragged.of(encode(row.second)[:LONGEST_READ] for row in rows), None, labels, texts)
    return Examples(Ragged.of(np.append(encode(row.second), EOS) for row in rows), None, labels, texts)


def _known(model: Model, rows: Sequence[Row]) -> Ints:
    for row in rows:
        if row.first not in model.labels:
            shown = ", ".join(repr(label[:40]) for label in model.labels[:8])
            more = " ..." if len(model.labels) > 8 else ""
            raise CorpusError(
                f"{row.where} has the label {row.first[:80]!r}; {model.name} knows {shown}{more}.", "Mend that line."
            )
    return examples.numbered([row.first for row in rows], model.labels)


def _numbers(model: Model, sources: Sequence[Source], split: str) -> Examples:
    numbers = arrays.read(sources)
    check_width(model, numbers)
    unknown = sorted(set(numbers.labels) - set(model.labels))
    if unknown:
        raise CorpusError(
            f"the label {unknown[0][:80]!r} is none of {model.name}'s.", "Give files with the labels it has learnt."
        )
    labels = examples.numbered(numbers.labels, model.labels)
    if split == "all":
        return Examples(lessons.of_rows(numbers.rows), None, labels)
    held = examples.split(len(labels), labels, val_fraction(model))[1]
    if not len(held):
        raise _nothing()
    return Examples(lessons.of_rows(numbers.rows[held]), None, labels[held])


def check_width(model: Model, found: arrays.Numbers) -> None:
    """Raise CorpusError if sequences have not as many numbers in a row as the model reads."""
    wide = found.rows.shape[2]
    if wide != model.config.features:
        raise CorpusError(
            f"the sequences have {wide} numbers in a row; {model.name} reads {model.config.features}.",
            "Give sequences like those it has learnt.",
        )


def val_fraction(model: Model) -> float:
    """The share that the training of a model held out, as it says; by default where it says nothing sensible."""
    settings: Mapping[str, Any] = model.provenance.get("settings") or {}
    fraction = settings.get("val_fraction") if isinstance(settings, dict) else None
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 0.9:
        return TrainingConfig.val_fraction
    return float(fraction)
