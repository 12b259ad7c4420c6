"""The classification task, N-1: the label of a text, or of a sequence of rows of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.models.classifier import Classifier
from charrnn.models.recurrent import State
from charrnn.text.examples import Examples, Ints, Parts
from charrnn.text.tokenizers import Tokenizer
from charrnn.training import device as machine
from charrnn.training.alone import begin, scored
from charrnn.training.distributed import ALONE, Ranks
from charrnn.training.evaluate import Report, Sums
from charrnn.training.loss import DROPOUTS, Loss, on
from charrnn.training.padding import Batches, Padded, some

__all__ = ["begin", "build", "count", "feed", "hold", "loss"]  # of tasks.Task; and what scores a saved model

SHOWN = 4  # examples of a glance
SHOWN_CHARACTERS = 60
MOST_SAVED = 100  # labels of a confusion table that travels with the model: a header may hold only so many values


def build(model: ModelConfig, training: TrainingConfig) -> Classifier:
    """See tasks.Task."""
    return Classifier(model, **{name: getattr(training, name) for name in DROPOUTS})


def feed(data: Examples, training: TrainingConfig) -> Batches:
    """See tasks.Task."""
    assert data.labels is not None
    weights = balanced(data.labels) if training.balance else None
    return Batches(data, training.batch_size, training.seed, weights)


def balanced(labels: Ints) -> NDArray[np.float32]:
    """A weight for each label, (C,), inverse to its share, so that the mean over all examples is 1."""
    counts = np.bincount(labels)
    present = np.maximum(counts, 1)
    return np.asarray(counts.sum() / (np.count_nonzero(counts) * present), np.float32)


def loss(network: Classifier, batch: Padded, state: State, training: TrainingConfig, device: torch.device) -> Loss:
    """See tasks.Task; counted over examples. Label smoothing: Szegedy et al. (2016)."""
    assert batch.labels is not None
    labels = on(device, batch.labels)
    logits = network(on(device, batch.inputs), on(device, batch.lengths))
    logits = machine.wide(logits)  # (B, C)
    nats = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=training.label_smoothing)
    if batch.weights is not None:
        nats = nats * on(device, batch.weights)
    return Loss(nats.sum(), (logits.detach().argmax(-1) == labels).sum())


def count(batch: Padded) -> int:
    """See tasks.Task."""
    return batch.width


@dataclass(frozen=True)
class HeldLabelled:
    """The examples that are scored at an evaluation."""

    examples: Examples
    names: tuple[str, ...]
    on: str  # "validation" or "training"
    whole: int  # how many there are to score

    def sums(self, network: Classifier, tokenizer: Tokenizer, precision: str, stop: Callable[[], bool], ranks: Ranks) -> Sums:
        """See evaluate.Held: the log-probabilities (N, C)."""
        return (log_odds(network, self.examples, precision, stop, ranks),)

    def report(self, sums: Sums, tokenizer: Tokenizer) -> Report:
        """See evaluate.Held."""
        assert self.examples.labels is not None
        scores = report(sums[0], self.examples.labels)
        return replace(scores, measures={**scores.measures, "scored": len(self.examples), "held_out": self.whole})

    def sample(self, network: Classifier, tokenizer: Tokenizer, start: list[int], seed: int) -> str:
        """See evaluate.Held: some texts, and what they are taken for."""
        few = self.examples.take(np.arange(min(SHOWN, len(self.examples))))
        assert few.labels is not None
        odds = log_odds(network, few)
        lines = []
        for place, (best, label) in enumerate(zip(odds.argmax(-1), few.labels, strict=True)):
            text = few.texts[place][1] if few.texts else f"held-out sequence {place + 1}"
            wrong = "" if best == label else f", in truth {self.names[label]}"
            shown = " ".join(text.split())[:SHOWN_CHARACTERS]
            lines.append(f"{self.names[best]} ({math.exp(odds[place, best]):.0%}{wrong}): {shown}")
        return "\n".join(lines)


@torch.inference_mode()
def log_odds(
    network: Classifier, examples: Examples, precision: str = "fp32", stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> NDArray[np.float64]:  # fmt: skip
    """Log-probabilities (N, C) of the labels of all examples, zeros for those of other ranks.

    Raises Abandoned as soon as `stop()`.
    """
    where = next(network.parameters()).device
    odds = np.zeros((len(examples), network.config.classes))
    for batch in scored(network, examples, stop, ranks):
        with machine.arithmetic(precision, where):
            logits = network(on(where, batch.inputs), on(where, batch.lengths))
        odds[batch.indices] = logits.float().cpu().double().log_softmax(-1).numpy()
    return odds


def report(odds: NDArray[np.float64], labels: Ints) -> Report:
    """The scores of log-probabilities (N, C) where `labels` (N,) are the truth."""
    best, classes = odds.argmax(-1), odds.shape[1]
    nats = -float(odds[np.arange(len(labels)), labels].sum())
    measures: dict[str, Any] = {"macro_f1": macro_f1(labels, best, classes)}
    if classes <= MOST_SAVED:
        confusion = np.zeros((classes, classes), np.int64)  # truth, guess
        np.add.at(confusion, (labels, best), 1)
        measures["confusion"] = confusion.tolist()
    return Report(nats, len(labels), int((best == labels).sum()), 0, 0, 0, measures=measures)


def macro_f1(labels: Ints, best: Ints, classes: int) -> float:
    """The mean of the F1 scores of the labels that occur, as truth (`labels`) or as guess (`best`)."""
    hits = np.bincount(labels[labels == best], minlength=classes)
    met = np.bincount(labels, minlength=classes) + np.bincount(best, minlength=classes)
    return float(np.mean(2 * hits[met > 0] / met[met > 0])) if met.any() else 0.0


def hold(data: Parts, training: TrainingConfig) -> HeldLabelled:
    """See tasks.Task."""
    held, on = data.held()
    return HeldLabelled(some(held, training.eval_tokens), data.names, on, len(held))
