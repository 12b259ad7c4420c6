"""The task of answering one text with another, N-M. Pairs stand alone; a target begins after <bos> and ends with <eos>."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.models.recurrent import State
from charrnn.models.seq2seq import Seq2seq
from charrnn.text.distance import edits
from charrnn.text.examples import Examples, Parts
from charrnn.text.tokenizers import BOS, PAD, Tokenizer
from charrnn.training import answering
from charrnn.training import device as machine
from charrnn.training.alone import begin, feed, report_of, scored
from charrnn.training.distributed import ALONE, Ranks
from charrnn.training.evaluate import Report, Sums
from charrnn.training.loss import DROPOUTS, Loss, of_targets, on, shifted
from charrnn.training.padding import Padded, some

__all__ = ["begin", "build", "count", "feed", "hold", "loss"]  # of tasks.Task; and what scores a saved model

SHOWN = 4  # pairs of a glance
ANSWERED = 256  # held-out sources that are answered at an evaluation during training, none of them longer than
ANSWERABLE = 400  # tokens


def build(model: ModelConfig, training: TrainingConfig) -> Seq2seq:
    """See tasks.Task."""
    return Seq2seq(model, **{name: getattr(training, name) for name in DROPOUTS})


def loss(network: Seq2seq, batch: Padded, state: State, training: TrainingConfig, device: torch.device) -> Loss:
    """See tasks.Task; counted over unpadded targets, each step knowing the true ones before it (teacher forcing)."""
    assert batch.targets is not None
    targets = on(device, batch.targets)
    memory, first = network.encode(on(device, batch.inputs), on(device, batch.lengths))
    logits, _, _ = network.decode(shifted(targets, BOS), memory, first)  # (T, B, V)
    return of_targets(logits, targets)


def count(batch: Padded) -> int:
    """See tasks.Task."""
    assert batch.targets is not None
    return int((batch.targets != PAD).sum())


@dataclass(frozen=True)
class HeldPairs:
    """The pairs that are scored at an evaluation."""

    examples: Examples
    on: str  # "validation" or "training"
    whole: int  # how many there are to score

    def sums(self, network: Seq2seq, tokenizer: Tokenizer, precision: str, stop: Callable[[], bool], ranks: Ranks) -> Sums:
        """See evaluate.Held; some of the sources are answered, greedily: right answers, edits, characters, answers."""
        costs = costs_of(network, self.examples, precision, stop, ranks)
        few = self._few(ANSWERED)
        few = few.take(np.arange(len(few))[ranks.share(len(few))])
        answers = answered(network, few, tokenizer, stop=stop) if len(few) else []
        found = matched(answers, [target for _, target in few.texts])
        return np.array(costs, np.float64), np.array([*found, len(few)], np.float64)

    def report(self, sums: Sums, tokenizer: Tokenizer) -> Report:
        """See evaluate.Held."""
        exact, wrong, characters, number = (int(value) for value in sums[1])
        measures = {**shares(exact, wrong, characters, number), "scored": number, "held_out": self.whole}
        return replace(_report(self.examples, tokenizer, sums[0].tolist()), measures=measures)

    def sample(self, network: Seq2seq, tokenizer: Tokenizer, start: list[int], seed: int) -> str:
        """See evaluate.Held: some sources with what is answered."""
        few = self._few(SHOWN)
        answers = answered(network, few, tokenizer)
        return "\n".join(f"{source} -> {answer}" for (source, _), answer in zip(few.texts, answers, strict=True))

    def _few(self, number: int) -> Examples:
        """So many pairs, evenly out of all that can be answered in no time."""
        short = np.flatnonzero(self.examples.inputs.lengths <= ANSWERABLE)
        number = min(number, len(short))
        return self.examples.take(short[np.linspace(0, len(short) - 1, number).astype(np.int64)] if number else short)


def taught(
    network: Seq2seq, examples: Examples, tokenizer: Tokenizer, precision: str = "fp32", stop: Callable[[], bool] = lambda: False
) -> Report:
    """How well each target is predicted with the true tokens before it; raises Abandoned as soon as `stop()`."""
    return _report(examples, tokenizer, costs_of(network, examples, precision, stop))


def _report(examples: Examples, tokenizer: Tokenizer, costs: Sequence[float]) -> Report:
    nats, targets, right = costs
    return report_of([target for _, target in examples.texts], tokenizer, nats, int(targets), int(right))


@torch.inference_mode()
def costs_of(
    network: Seq2seq, examples: Examples, precision: str, stop: Callable[[], bool], ranks: Ranks = ALONE
) -> tuple[float, int, int]:
    """Nats, tokens, and how many of them were predicted right; of this rank's share. Raises Abandoned as soon as `stop()`."""
    where = next(network.parameters()).device
    nats, targets, right = 0.0, 0, 0
    for batch in scored(network, examples, stop, ranks):
        with machine.arithmetic(precision, where):
            cost = loss(network, batch, (), TrainingConfig(), where)
        nats, targets, right = nats + float(cost.nats), targets + count(batch), right + int(cost.right)
    return nats, targets, right


def answered(
    network: Seq2seq, examples: Examples, tokenizer: Tokenizer, width: int = 1, stop: Callable[[], bool] = lambda: False
) -> list[str]:
    """What a network answers to each source, found with a beam of `width`."""
    sources = [examples.inputs[index] for index in range(len(examples))]
    return [tokenizer.decode(found[0].ids) for found in answering.search(network, sources, width=width, stop=stop)]


def matched(answers: list[str], targets: list[str]) -> tuple[int, int, int]:
    """How many answers are right to the letter, the edits that all of them need, and the characters of the targets."""
    exact = sum(answer == target for answer, target in zip(answers, targets, strict=True))
    wrong = sum(edits(answer, target) for answer, target in zip(answers, targets, strict=True))
    return exact, wrong, sum(map(len, targets))


def compared(answers: list[str], targets: list[str]) -> dict[str, Any]:
    """The share of answers that are right to the letter, and the edits needed for each character of the targets."""
    return shares(*matched(answers, targets), len(answers))


def shares(exact: float, wrong: float, characters: float, answers: int) -> dict[str, Any]:
    """What `matched` found, as shares."""
    return {"exact_match": exact / max(1, answers), "character_error_rate": wrong / max(1, characters)}


def hold(data: Parts, training: TrainingConfig) -> HeldPairs:
    """See tasks.Task."""
    held, on = data.held()
    return HeldPairs(some(held, training.eval_tokens), on, len(held))
