"""The conditional task, 1-N: a text by its label. Texts stand alone: each begins with its label and ends with <eos>."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.decoding import kernel
from charrnn.decoding.engine import Engine
from charrnn.models.conditional import ConditionalModel
from charrnn.models.recurrent import State
from charrnn.models.weights import export_weights
from charrnn.text.examples import Examples, Parts
from charrnn.text.tokenizers import EOS, PAD, Tokenizer
from charrnn.training import device as machine
from charrnn.training.alone import begin, feed, report_of, scored
from charrnn.training.distributed import ALONE, Ranks
from charrnn.training.evaluate import Report, Sums
from charrnn.training.language import written
from charrnn.training.loss import DROPOUTS, Loss, of_targets, on, shifted
from charrnn.training.padding import SCORED, Padded, some

__all__ = ["begin", "build", "count", "feed", "hold", "loss"]  # of tasks.Task; and what scores a saved model

SHOWN = 3  # labels of a glance
SHOWN_CHARACTERS = 100


def build(model: ModelConfig, training: TrainingConfig) -> ConditionalModel:
    """See tasks.Task."""
    return ConditionalModel(model, **{name: getattr(training, name) for name in DROPOUTS})


def loss(network: ConditionalModel, batch: Padded, state: State, training: TrainingConfig, device: torch.device) -> Loss:
    """See tasks.Task; counted over unpadded targets."""
    assert batch.labels is not None
    targets, labels = on(device, batch.inputs), on(device, batch.labels)
    logits, _ = network.read(shifted(targets, EOS), labels, network.begin_with(labels))  # (T, B, V)
    return of_targets(logits, targets)


def count(batch: Padded) -> int:
    """See tasks.Task."""
    return int((batch.inputs != PAD).sum())


@dataclass(frozen=True)
class HeldTexts:
    """The texts that are scored at an evaluation, with their labels."""

    examples: Examples
    names: tuple[str, ...]
    on: str  # "validation" or "training"

    def sums(
        self, network: ConditionalModel, tokenizer: Tokenizer, precision: str, stop: Callable[[], bool], ranks: Ranks
    ) -> Sums:
        """See evaluate.Held: nats and right predictions, and those with a wrong label, the next one."""
        several = [self.examples] + [mislabelled(self.examples, len(self.names))] * (len(self.names) > 1)
        found = (losses(network, examples, precision, stop, ranks) for examples in several)
        return tuple(np.array([nats.sum(), right]) for nats, right in found)

    def report(self, sums: Sums, tokenizer: Tokenizer) -> Report:
        """See evaluate.Held."""
        right, *wrong = (_report(self.examples, tokenizer, *one.tolist()) for one in sums)
        if not wrong:
            return right
        return replace(right, measures={"bits_per_character_wrong_label": wrong[0].bits_per_character})

    def sample(self, network: ConditionalModel, tokenizer: Tokenizer, start: list[int], seed: int) -> str:
        """See evaluate.Held: how texts of the first labels begin."""
        lines = []
        for label, name in enumerate(self.names[:SHOWN]):
            engine = Engine(network.config, export_weights(network), kernel=kernel.find(), label=label)
            text = written(engine, tokenizer, start, seed, "end")
            lines.append(f"{name}: {' / '.join(text.split(chr(10)))[:SHOWN_CHARACTERS]}")
        return "\n".join(lines)


def mislabelled(examples: Examples, classes: int, shift: int = 1) -> Examples:
    """The same texts, each with another label than its own: the one `shift` places further."""
    assert examples.labels is not None
    return replace(examples, labels=(examples.labels + shift) % classes)


def report(
    network: ConditionalModel, examples: Examples, tokenizer: Tokenizer, precision: str = "fp32",
    stop: Callable[[], bool] = lambda: False,
) -> Report:  # fmt: skip
    """The scores of all examples; characters that are hidden from the model are charged for."""
    nats, right = losses(network, examples, precision, stop)
    return _report(examples, tokenizer, float(nats.sum()), right)


def _report(examples: Examples, tokenizer: Tokenizer, nats: float, right: float) -> Report:
    texts, tokens = [text for _, text in examples.texts], int(examples.inputs.lengths.sum())
    return report_of(texts, tokenizer, nats, tokens, int(right))


@torch.inference_mode()
def losses(
    network: ConditionalModel, examples: Examples, precision: str = "fp32", stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> tuple[NDArray[np.float64], int]:  # fmt: skip
    """Nats of each example (N,), zeros for those of other ranks, and how many tokens were predicted right.

    Raises Abandoned as soon as `stop()`.
    """
    where = next(network.parameters()).device
    nats, right = np.zeros(len(examples)), 0
    for batch in scored(network, examples, stop, ranks):
        nats[batch.indices], hits = _cost(network, batch, precision, where)
        right += hits
    return nats, right


def _cost(network: ConditionalModel, batch: Padded, precision: str, where: torch.device) -> tuple[NDArray[np.float64], int]:
    """Nats (B,) of the examples of one batch, and right predictions.

    A text longer than a batch may be is read in parts, the state carried: oneDNN refuses some 200,000 steps at once.
    """
    assert batch.labels is not None
    targets, labels = on(where, batch.inputs), on(where, batch.labels)
    state, nats, right = network.begin_with(labels), torch.zeros(len(labels), dtype=torch.float64), 0
    for ids, wanted in zip(torch.split(shifted(targets, EOS), SCORED), torch.split(targets, SCORED), strict=True):
        with machine.arithmetic(precision, where):
            logits, after = network.read(ids, labels, state)
        state = tuple(part.float() for part in after)  # under autocast it is not
        cost = torch.nn.functional.cross_entropy(logits.float().movedim(-1, 1), wanted, reduction="none", ignore_index=PAD)
        nats += cost.cpu().double().sum(0)
        right += int(((logits.argmax(-1) == wanted) & (wanted != PAD)).sum())
    return nats.numpy(), right


def hold(data: Parts, training: TrainingConfig) -> HeldTexts:
    """See tasks.Task."""
    held, on = data.held()
    return HeldTexts(some(held, training.eval_tokens), data.names, on)
